//! Nine hostile hosts, each with its own attack, and two honest ones: the memory that the attacks cost the honest
//! hosts, and the answers of the honest hosts during the attacks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::hostile::{ALL, Hostile};
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE, until};
use crate::support::share::share;

const REAL: &str = "acme/real";
const SQUATTED: &str = "acme/squatted";
/// Limit for the memory that the attacks may cost a daemon, in bytes.
const COST: u64 = 50_000_000;

/// Duration of the attacks.
const MINUTE: Duration = Duration::from_secs(60);

/// Resident memory of a host's node, in bytes.
fn memory(host: &Host) -> u64 {
    let path = format!("/proc/{}/status", host.node().as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn weights(host: &Host, name: &str) -> Vec<u8> {
    std::fs::read(host.base().join("models").join(name).join("weights.bin")).unwrap()
}

fn catalog(host: &Host) -> serde_json::Value {
    serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap()
}

/// Gets the right bytes, and an error that lists the publishers of a disputed name.
#[track_caller]
fn assert_gets(newcomer: &Host, publisher: &Host) {
    let found = newcomer.run(&["discover", "acme/", "--json"]).ok();
    assert!(found.contains(&format!("\"{REAL}\"")), "{found}");
    newcomer.run(&["get", REAL]).ok();
    assert_eq!(weights(newcomer, REAL), noise(1, 1 << 20));
    let shown = publisher.run(&["key", "show", "--json"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let (key, fingerprint) = (shown["publisher"].as_str().unwrap(), shown["fingerprint"].as_str().unwrap());
    let choose = newcomer.run(&["get", SQUATTED]).error(1);
    assert!(choose.contains(fingerprint), "{choose}");
    newcomer.run(&["get", SQUATTED, "--publisher", key]).ok();
    assert_eq!(weights(newcomer, SQUATTED), noise(2, 1 << 20));
}

/// Reads a file by its path in a mount.
#[track_caller]
fn assert_mounts(newcomer: &Host) {
    let mounted = newcomer.mount(&[]);
    let file = mounted.path(REAL).join("weights.bin");
    // On a busy machine the first lookup may end before a peer connects. A record of the name ends the cached miss.
    until("the name is found", PATIENCE, || file.exists());
    let read = Finished::of(newcomer.command("sha256sum").arg(&file), PATIENCE);
    assert!(read.status.success(), "{}: {:#}", read.stderr, catalog(newcomer));
    let read = read.ok();
    assert_eq!(read.split(' ').next().unwrap(), hex::encode(Sha256::digest(noise(1, 1 << 20))));
    mounted.unmount();
}

#[test]
#[ignore = "uses all cores; `make test` runs it after all other tests"]
fn hostile_hosts_cost_little_and_change_no_answer() {
    let net = Net::new();
    let [a, b, newcomer] = net.lan_hosts(["a", "b", "newcomer"]);
    let evil: Vec<Host> = ALL.iter().map(|attack| net.host(&format!("{attack:?}").to_lowercase())).collect();
    let real = model_dir(&a.home().join("real"), &[("weights.bin", &noise(1, 1 << 20))]);
    let squatted = model_dir(&a.home().join("squatted"), &[("weights.bin", &noise(2, 1 << 20))]);
    let _shares = [share(&a, &real, REAL, &[]), share(&a, &squatted, SQUATTED, &[])];
    let daemon = b.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    until("b knows both models", PATIENCE, || {
        b.run(&["discover", "--timeout", "2s", "--json"]).stdout.matches("\"name\"").count() == 2
    });
    let before = [memory(&a), memory(&b)];

    let victims: Vec<SocketAddr> = [&a, &b].map(|host| host.peer().parse().unwrap()).to_vec();
    let attacks: Vec<Hostile> =
        ALL.iter().zip(&evil).map(|(attack, host)| Hostile::on(host, *attack, &victims, SQUATTED)).collect();
    let begun = Instant::now();
    let mut most = [0, 0];
    let mut rounds = 0;
    // Meanwhile, honest records still arrive, and a new host repeatedly finds, gets and mounts a model.
    while begun.elapsed() < MINUTE || rounds < 2 {
        let found = b.run(&["discover", "acme/real", "--timeout", "3s", "--json"]).ok();
        assert_eq!(found.matches("\"name\": \"acme/real\"").count(), 1, "{found}");
        match rounds % 2 {
            0 => assert_gets(&newcomer, &a),
            _ => assert_mounts(&newcomer),
        }
        std::fs::remove_dir_all(newcomer.base()).unwrap();
        most = [most[0].max(memory(&a)), most[1].max(memory(&b))];
        rounds += 1;
    }
    for (attack, hostile) in ALL.iter().zip(&attacks) {
        assert!(hostile.sent() > 0, "{attack:?} sent no message");
    }

    most = [most[0].max(memory(&a)), most[1].max(memory(&b))];
    let cost = [most[0].saturating_sub(before[0]), most[1].saturating_sub(before[1])];
    let status = [catalog(&a), catalog(&b)];
    println!(
        "{rounds} rounds; the attacks cost {cost:?} bytes of memory; status afterwards: {:?}",
        status[0]["catalog"]
    );
    assert!(cost.iter().all(|cost| *cost < COST), "the attacks cost {cost:?} bytes of memory: {status:#?}");
    drop(attacks);
}
