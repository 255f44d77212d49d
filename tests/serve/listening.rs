//! Where the endpoint and the metrics listen, who may use them, and the variables that `env` prints.

use std::process::Command;

use serde_json::Value;

use crate::serve::rig::{Rig, bytes};
use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE, Proc};

/// Listens on a port of a host's loopback until it is dropped. Returns the port.
fn taken_port(host: &Host) -> (Proc, String) {
    let mut command = host.command("/usr/bin/python3");
    let script = "import socket, time\n\
        s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('port', s.getsockname()[1], flush=True); time.sleep(600)";
    let holder = Proc::spawn(command.args(["-I", "-c", script]));
    let port = holder.wait_for_line("port", PATIENCE).split_whitespace().last().unwrap().to_owned();
    (holder, port)
}

fn status(host: &Host) -> Value {
    serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap()
}

/// Runs a shell command of a user's host.
fn sh(host: &Host, script: &str) -> Finished {
    let mut command: Command = host.command("/bin/sh");
    let silmaril = env!("CARGO_BIN_EXE_silmaril");
    let script = format!("silmaril() {{ {silmaril} \"$@\"; }}\n{script}");
    Finished::of(command.args(["-c", &script]), PATIENCE)
}

#[test]
fn port_of_another_program_is_a_clear_error() {
    let net = Net::new();
    let a = net.host("a");
    a.keep_daemon();
    let (_holder, port) = taken_port(&a);
    let failed = a.run(&["serve", "--listen", &format!("127.0.0.1:{port}")]);
    assert!(
        failed.stderr.contains("help: choose another address with `--listen ADDR:PORT`"),
        "{}",
        failed.stderr
    );
    let error = failed.error(1);
    assert_eq!(error, format!("error: cannot listen on 127.0.0.1:{port}: another program uses the port"));
    let none = a.run(&["env"]);
    assert!(none.stderr.contains("help: start it: silmaril serve"), "{}", none.stderr);
    assert_eq!(none.error(1), "error: no endpoint is served");

    // In the configuration it does not keep the daemon from its other work.
    a.configure(&format!("serve:\n  listen: 127.0.0.1:{port}\nmetrics:\n  listen: 127.0.0.1:{port}\n"));
    let printed = a.run(&["env"]);
    assert!(printed.error(1).contains("another program uses the port"));
    let now = status(&a);
    for problem in ["endpoint_problem", "metrics_problem"] {
        assert!(now[problem].as_str().unwrap().contains(&port), "{now}");
    }
    let doctor = a.run(&["doctor"]);
    assert!(doctor.stdout.contains("fail  endpoint"), "{}", doctor.stdout);
}

#[test]
fn env_prints_the_address_in_use() {
    let net = Net::new();
    let a = net.host("a");
    a.keep_daemon();
    a.configure("serve:\n  listen: 127.0.0.1:0\n");
    let printed = a.run(&["env"]).ok();
    let url = printed.trim().strip_prefix("export HF_ENDPOINT=").unwrap().trim_matches('\'').to_owned();
    assert_eq!(status(&a)["endpoint"]["url"], url.as_str());
    // The shell uses it, and doctor confirms that.
    let checked = sh(&a, "eval \"$(silmaril env)\"; silmaril doctor; echo $HF_ENDPOINT").ok();
    assert!(checked.contains("used by programs of this shell"), "{checked}");
    assert!(checked.trim().ends_with(&url), "{checked}");
    let fish = a.run(&["env", "--shell", "fish"]).ok();
    assert!(fish.starts_with("set -gx HF_ENDPOINT "), "{fish}");
    let proxied = sh(&a, "export HTTP_PROXY=http://10.9.9.9:1; silmaril env").ok();
    assert!(proxied.contains("export NO_PROXY=127.0.0.1"), "{proxied}");
    let offline = sh(&a, "eval \"$(silmaril env)\"; export HF_HUB_OFFLINE=1; silmaril doctor").stdout;
    assert!(offline.contains("warn  endpoint"), "{offline}");

    // With another option it listens on the same port again.
    let address = url.trim_start_matches("http://");
    let open = a.run(&["serve", "--listen", address, "--open"]).ok();
    assert!(open.contains(&url), "{open}");
    assert_eq!(status(&a)["endpoint"]["open"], true);
    a.run(&["serve", "--listen", address]).ok();
    // Another address replaces it; the same one is kept.
    let again = a.run(&["serve", "--listen", "127.0.0.1:0"]).ok();
    assert!(again.contains(&url), "{again}");
    a.run(&["serve", "--stop"]).ok();
    assert_eq!(status(&a)["endpoint"], Value::Null);
    let stale = sh(&a, &format!("HF_ENDPOINT={url} silmaril doctor")).stdout;
    assert!(stale.contains("where no program answers"), "{stale}");
}

#[test]
fn other_hosts_need_a_token_or_an_open_endpoint() {
    let mut rig = Rig::new();
    let dir =
        model_dir(&rig.publisher.home().join("m"), &[("config.json", b"{}"), ("w.bin", &noise(1, 100_000))]);
    rig.share(&dir, "acme/m", &[]);
    let any = format!("{}:0", rig.user.addr());
    let refused = rig.user.run(&["serve", "--listen", &any]);
    assert!(
        refused.stderr.contains("serve.token") && refused.stderr.contains("--open"),
        "{}",
        refused.stderr
    );
    refused.error(2);

    rig.user.configure("serve:\n  token: rack-7\n");
    rig.user.keep_daemon();
    rig.user.run(&["daemon", "--peer", &rig.publisher.peer()]).ok();
    rig.user.run(&["serve", "--listen", &any]).ok();
    let url = status(&rig.user)["endpoint"]["url"].as_str().unwrap().to_owned();
    let printed = rig.user.run(&["env"]).ok();
    assert!(printed.contains("export HF_TOKEN=rack-7"), "{printed}");
    rig.endpoint = url;
    let answers = rig.requests(
        "[('GET', '/acme/m/resolve/main/config.json', {}),\
          ('GET', '/acme/m/resolve/main/config.json', {'Authorization': 'Bearer other'}),\
          ('GET', '/acme/m/resolve/main/config.json', {'Authorization': 'Bearer rack-7'}), ('GET', '/healthz', {})]",
    );
    let statuses: Vec<u64> = answers.iter().map(|a| a["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [401, 401, 200, 200]);
    assert_eq!(bytes(&answers[2]), b"{}");
    assert!(!rig.user.run(&["config", "show"]).ok().contains("rack-7"), "the token is shown");

    // The client on another host.
    let mut client = rig.publisher.command(crate::support::fixtures::downloaded("venv/bin/hf"));
    let out = rig.publisher.home().join("out");
    client.env("HF_ENDPOINT", &rig.endpoint).env("HF_TOKEN", "rack-7").env("HF_HUB_DISABLE_TELEMETRY", "1");
    client.args(["download", "acme/m", "--local-dir"]).arg(&out);
    Finished::of(&mut client, PATIENCE).ok();
    assert_eq!(std::fs::read(out.join("w.bin")).unwrap(), noise(1, 100_000));

    rig.user.configure("");
    rig.user.keep_daemon();
    let open = rig.user.run(&["serve", "--listen", &any, "--open"]).ok();
    assert!(open.contains("http://10.77."), "{open}");
    assert_eq!(status(&rig.user)["endpoint"]["open"], true);
}

/// Opens more connections to a port of a host's loopback than it accepts, from many addresses, and sends nothing.
fn occupied_port(host: &Host, port: &str) -> Proc {
    let script = "import resource, socket, sys, time\n\
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n\
        held = [socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20, (f'127.0.{n // 200}.{1 + n % 200}', 0)) for n in range(1100)]\n\
        print('occupied', flush=True); time.sleep(600)";
    let mut command = host.command("/usr/bin/python3");
    let holder = Proc::spawn(command.args(["-I", "-c", script, port]));
    holder.wait_for_line("occupied", PATIENCE);
    holder
}

#[test]
fn silent_connections_of_local_users_keep_no_program_out() {
    let mut rig = Rig::configured("metrics:\n  listen: 127.0.0.1:0\n");
    let dir = model_dir(&rig.publisher.home().join("m"), &[("w.bin", &noise(1, 300_000))]);
    rig.share(&dir, "acme/m", &[]);
    rig.serve();
    let metrics = status(&rig.user)["metrics"].as_str().unwrap().to_owned();
    let port = |address: &str| address.rsplit_once(':').unwrap().1.to_owned();
    let _holders = [port(&rig.endpoint), port(&metrics)].map(|port| occupied_port(&rig.user, &port));
    let answers = rig.requests("[('GET', '/acme/m/resolve/main/w.bin', {})]");
    assert_eq!(bytes(&answers[0]), noise(1, 300_000));
    rig.endpoint = format!("http://{metrics}");
    assert_eq!(rig.requests("[('GET', '/metrics', {})]")[0]["status"], 200);
}

#[test]
fn metrics_are_served_over_tcp() {
    let mut rig = Rig::configured("metrics:\n  listen: 127.0.0.1:0\n");
    let dir = model_dir(&rig.publisher.home().join("m"), &[("w.bin", &noise(1, 300_000))]);
    rig.share(&dir, "acme/m", &[]);
    rig.serve();
    let answers = rig.requests("[('GET', '/acme/m/resolve/main/w.bin', {})]");
    assert_eq!(bytes(&answers[0]), noise(1, 300_000));
    let address = status(&rig.user)["metrics"].as_str().unwrap().to_owned();
    rig.endpoint = format!("http://{address}");
    let answers = rig.requests(
        "[('GET', '/metrics', {}), ('GET', '/healthz', {}), ('GET', '/metrics', {'Host': 'evil.example'}), ('GET', '/other', {})]",
    );
    let statuses: Vec<u64> = answers.iter().map(|a| a["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 421, 404]);
    let text = String::from_utf8(bytes(&answers[0])).unwrap();
    let value = |start: &str| -> f64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("no {start} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("silmaril_received_bytes_total{model=\"acme/m\"") >= 300_000.0);
    assert!(value("silmaril_read_bytes_total{origin=\"awaited\"}") > 0.0);
    assert!(value("silmaril_read_wait_seconds_count") >= 1.0);
    assert!(value("silmaril_read_wait_seconds_bucket{le=\"+Inf\"}") >= 1.0);
    assert_eq!(value("silmaril_failed_reads_total{reason=\"timed_out\"}"), 0.0);
    assert!(text.ends_with("# EOF\n"));
}
