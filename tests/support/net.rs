//! Private networks: a bridge in its own namespace, and hosts on it that reach each other and nothing else.
//!
//! Names contain the process id, so parallel runs do not conflict, and leftovers of a dead run are found and removed.
//! A [`Net`] owns a temporary directory with the hosts' homes. When the last owner is dropped (also by a panic),
//! processes are killed, mounts detached, and namespaces and files deleted, in this order.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};

use rustix::process::{Pid, Signal};

use super::host::Host;
use super::mounts;

const PREFIX: &str = "silmaril-test-";

/// `ip netns add` prepares `/run/netns` in more than one step, and two concurrent calls can fail.
static NETNS: Mutex<()> = Mutex::new(());

/// A private network.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    id: String,
    dir: PathBuf,
    hosts: AtomicU32,
    namespaces: Mutex<Vec<String>>,
}

impl Net {
    /// Makes the bridge. Fails the test if namespaces cannot be made.
    pub fn new() -> Self {
        static CLEANED: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make network namespaces and mounts: run them as root (`make test` uses sudo)"
        );
        CLEANED.call_once(remove_leftovers);
        let id = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&id);
        std::fs::create_dir(&dir).unwrap();
        let net = Self(Arc::new(Inner { id, dir, hosts: AtomicU32::new(0), namespaces: Mutex::default() }));
        let bridge = net.namespace("bridge");
        sh(&format!(
            "ip -n {bridge} link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0
             ip -n {bridge} link set br0 up"
        ));
        net
    }

    /// Adds hosts that find peers by LAN discovery only, without the DHT.
    pub fn lan_hosts<const N: usize>(&self, names: [&str; N]) -> [Host; N] {
        names.map(|name| {
            let host = self.host(name);
            host.configure("  dht_enabled: false\n");
            host
        })
    }

    /// Adds a host, with a home directory and a configuration that stays on this network.
    pub fn host(&self, name: &str) -> Host {
        let number = self.0.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let (bridge, host) = (format!("{}-bridge", self.0.id), self.namespace(name));
        sh(&format!(
            "ip link add eth0 netns {host} type veth peer name port{number} netns {bridge}
             ip netns exec {host} sysctl -qw net.ipv6.conf.all.disable_ipv6=1
             ip -n {bridge} link set port{number} master br0 up
             ip -n {host} addr add 10.77.0.{number}/24 dev eth0
             ip -n {host} link set lo up
             ip -n {host} link set eth0 up
             ip -n {host} route add 224.0.0.0/4 dev eth0"
        ));
        Host::new(self.clone(), host, name, number)
    }

    /// The directory that contains the hosts' homes.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The namespace of the bridge.
    pub fn bridge(&self) -> String {
        format!("{}-bridge", self.0.id)
    }

    fn namespace(&self, name: &str) -> String {
        let full = format!("{}-{name}", self.0.id);
        let _one_at_a_time = NETNS.lock().unwrap_or_else(|e| e.into_inner());
        sh(&format!("ip netns add {full}"));
        self.0.namespaces.lock().unwrap().push(full.clone());
        full
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        remove(&self.namespaces.lock().unwrap_or_else(|e| e.into_inner()), &self.dir);
    }
}

/// Runs a shell script, whose commands must all succeed, and returns its output.
#[track_caller]
pub fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-euc", script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\nfailed: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Kills all processes in a namespace.
pub fn kill_all_in(namespace: &str) {
    let pids = Command::new("ip").args(["netns", "pids", namespace]).output().unwrap();
    for pid in String::from_utf8_lossy(&pids.stdout).lines() {
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// A directory that is removed when it is dropped, or by a later run if this one is killed.
pub fn temp_dir(what: &str) -> tempfile::TempDir {
    let prefix = format!("{PREFIX}{}-{what}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().unwrap()
}

fn remove(namespaces: &[String], dir: &Path) {
    for namespace in namespaces {
        kill_all_in(namespace);
    }
    mounts::detach_below(dir);
    for namespace in namespaces {
        let _ = Command::new("ip").args(["netns", "del", namespace]).output();
    }
    let _ = std::fs::remove_dir_all(dir);
}

/// Removes the namespaces and directories that dead test processes have left.
fn remove_leftovers() {
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| is_leftover(n)).collect()
    };
    remove(&names(Path::new("/run/netns")), Path::new("/nonexistent"));
    for dir in names(&std::env::temp_dir()) {
        remove(&[], &std::env::temp_dir().join(dir));
    }
}

fn is_leftover(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

#[test]
fn hosts_reach_only_each_other() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let ping = |to: &str| {
        let mut command = a.command("ip");
        command.args(["route", "get", to]).output().unwrap().status.success()
    };
    assert!(ping(&b.addr().to_string()));
    assert!(!ping("192.0.2.1"), "a test host has a route to the world");
    assert!(!ping("10.78.0.1"));
}

#[test]
fn a_dropped_network_leaves_nothing_behind() {
    let net = Net::new();
    let a = net.host("a");
    let (dir, bridge) = (net.dir().to_owned(), Path::new("/run/netns").join(net.bridge()));
    let mut sleeper = super::process::Proc::spawn(a.command("sleep").arg("1000"));
    assert!(dir.exists() && bridge.exists());
    drop((a, net));
    assert!(!dir.exists() && !bridge.exists());
    assert!(!sleeper.wait(super::process::PATIENCE).success());
}
