//! `doctor` reports the faults of this machine and their remedies.

use super::program::Home;

fn line<'a>(output: &'a str, check: &str) -> &'a str {
    output.lines().find(|l| l.contains(check)).unwrap_or_else(|| panic!("no {check:?} in:\n{output}"))
}

#[test]
fn new_home_passes_after_init() {
    let home = Home::new();
    let output = home.run(&["doctor"]).stdout;
    assert!(line(&output, "publisher key").starts_with("warn"), "{output}");
    assert!(output.contains("silmaril init"), "{output}");
    home.run(&["init"]).ok();
    let output = home.run(&["doctor"]).stdout;
    for check in ["configuration", "base directory", "publisher key", "trust ", "listen port", "node"] {
        assert!(line(&output, check).starts_with("ok"), "{output}");
    }
}

#[test]
fn json_has_every_check_with_its_remedy() {
    let home = Home::new();
    let checks: serde_json::Value = serde_json::from_str(&home.run(&["doctor", "--json"]).stdout).unwrap();
    let key = checks.as_array().unwrap().iter().find(|check| check["check"] == "publisher key").unwrap();
    assert_eq!(key["result"], "warn");
    assert!(key["remedy"].as_str().unwrap().contains("silmaril init"), "{key}");
    let (json, text) = (checks.as_array().unwrap().len(), home.run(&["doctor"]).stdout);
    assert_eq!(text.lines().filter(|line| !line.starts_with(' ')).count(), json, "{text}");
}

#[test]
fn cache_is_printed_as_json() {
    let home = Home::new();
    home.run(&["init"]).ok();
    let json = |args: &[&str]| -> serde_json::Value { serde_json::from_str(&home.run(args).ok()).unwrap() };
    assert_eq!(json(&["cache", "--json"])["contents"], serde_json::json!([]));
    assert_eq!(json(&["cache", "show", "--json"])["used_bytes"], 0);
    assert_eq!(json(&["cache", "clear", "--yes", "--json"]), serde_json::json!({"freed_bytes": 0}));
}

#[test]
fn failed_check_is_exit_code_1() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    home.configure(&format!("network: {{listen_address: 127.0.0.1, listen_port: {port}}}\n"));
    let run = home.run(&["doctor"]);
    let output = run.stdout.clone();
    assert!(line(&output, "listen port").starts_with("fail"), "{output}");
    assert!(run.error(1).ends_with("failed"));
    home.run(&["init"]).ok();
    std::fs::write(home.path(".silmaril/trust.yaml"), "pins:\n- bad\n").unwrap();
    let output = home.run(&["doctor"]).stdout;
    assert!(line(&output, "trust ").starts_with("fail") && output.contains("trust.yaml:2: "), "{output}");
    home.configure("nonsense: 1\n");
    let output = home.run(&["doctor"]).stdout;
    assert!(line(&output, "configuration").starts_with("fail"), "{output}");
    assert!(output.contains("init --force"), "{output}");
}
