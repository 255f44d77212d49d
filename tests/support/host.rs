//! One host of a private network: an address, a home directory, and the real program that runs on it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::mounts;
use super::net::{Net, kill_all_in, sh};
use super::process::{Finished, PATIENCE, Proc, until};

/// The same port for all hosts: each host has a network namespace of its own.
const PORT: u16 = 6881;

/// A host. Dropping it kills its processes. If the test has failed, their logs are printed.
pub struct Host {
    net: Net,
    namespace: String,
    home: PathBuf,
    number: u32,
    keeps_daemon: AtomicBool,
}

impl Host {
    /// Called by [`Net::host`] only.
    pub fn new(net: Net, namespace: String, name: &str, number: u32) -> Self {
        let home = net.dir().join(name);
        std::fs::create_dir(&home).unwrap();
        let host = Self { net, namespace, home, number, keeps_daemon: AtomicBool::new(false) };
        host.configure("");
        host
    }

    /// The home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The network namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The base directory of the host's node.
    pub fn base(&self) -> PathBuf {
        self.home.join(".silmaril")
    }

    /// The address on the private network.
    pub fn addr(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(self.number).unwrap())
    }

    /// The host's address and port, for `--peer`.
    pub fn peer(&self) -> String {
        format!("{}:{PORT}", self.addr())
    }

    /// Writes the configuration: keys that keep the test private, then `more`: further keys of `network`, each on a
    /// line that begins with two spaces, then further sections.
    pub fn configure(&self, more: &str) {
        let bootstrap = if more.contains("dht_bootstrap_nodes") { "" } else { "  dht_bootstrap_nodes: []\n" };
        let dir = self.home.join(".config/silmaril");
        std::fs::create_dir_all(&dir).unwrap();
        let network = format!("network:\n  listen_port: {PORT}\n{bootstrap}  port_mapping: false\n{more}\n");
        std::fs::write(dir.join("config.yaml"), network).unwrap();
        self.stop_background_daemon();
    }

    /// Stops the background daemon if one runs. The next command then starts a daemon with the present configuration.
    pub fn stop_background_daemon(&self) {
        let Some(pid) = self.background_daemon() else { return };
        // The daemon may have ended by itself meanwhile.
        let end = Finished::of(&mut self.silmaril(&["stop"]), PATIENCE);
        let gone = || self.background_daemon().is_none_or(|now| now != pid);
        until(&format!("the daemon (process {pid}) has ended after `stop`: {}", end.stderr), PATIENCE, gone);
    }

    /// A command that runs any program on this host.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg("--").arg(program.as_ref());
        self.environment(&mut command);
        command
    }

    /// A command that runs silmaril on this host.
    pub fn silmaril(&self, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_silmaril"));
        command.args(args);
        command
    }

    /// A command that runs silmaril on this host as an unprivileged user, whose home directory is [`Self::home`].
    pub fn silmaril_unprivileged(&self, args: &[&str]) -> Command {
        // The build directory may be unreadable for other users.
        let copy = self.net.dir().join("silmaril");
        if !copy.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_silmaril"), &copy).unwrap();
        }
        sh(&format!(
            "chmod 755 {0}; chown -R 65534:65534 {1}",
            self.net.dir().display(),
            self.home.display()
        ));
        let mut command = self.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(copy).args(args);
        command
    }

    /// Runs the program to its end, which must be within [`PATIENCE`]. Then stops the daemon in the background,
    /// unless the host keeps it, so that the next command starts from the state on the disk.
    pub fn run(&self, args: &[&str]) -> Finished {
        self.run_command(&mut self.silmaril(args))
    }

    /// [`Self::run`] for a command that the caller has built.
    pub fn run_command(&self, command: &mut Command) -> Finished {
        let before = self.background_daemon();
        let end = Finished::of(command, PATIENCE);
        if before.is_none() {
            self.end_daemon_unless_kept();
        }
        end
    }

    /// Makes commands leave their daemon running in the background, as they do outside tests.
    pub fn keep_daemon(&self) {
        self.keeps_daemon.store(true, Ordering::Relaxed);
    }

    fn end_daemon_unless_kept(&self) {
        if !self.keeps_daemon.load(Ordering::Relaxed) {
            self.stop_background_daemon();
        }
    }

    /// The process id of the daemon in the background.
    fn background_daemon(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.base().join("node.lock")).unwrap_or_default();
        let pid = text.lines().next().unwrap_or_default();
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains("--ready-on-stdout").then(|| pid.to_owned())
    }

    /// Starts the program and leaves it running.
    pub fn spawn(&self, args: &[&str]) -> Proc {
        Proc::spawn(&mut self.silmaril(args))
    }

    /// Mounts in the background at `~/models`, with further arguments. The mount is ready on return.
    #[track_caller]
    pub fn mount(&self, more: &[&str]) -> Mounted<'_> {
        self.mount_at("models", more)
    }

    /// [`Self::mount`] at another directory of the home directory.
    #[track_caller]
    pub fn mount_at(&self, name: &str, more: &[&str]) -> Mounted<'_> {
        let point = self.home.join(name);
        if !mounts::is_mounted(&point) {
            std::fs::create_dir_all(&point).unwrap();
        }
        let mut args = vec!["mount", point.to_str().unwrap()];
        args.extend(more);
        Finished::of(&mut self.silmaril(&args), PATIENCE).ok();
        assert!(mounts::is_mounted(&point), "`mount` succeeded, but nothing is mounted");
        Mounted { host: self, point }
    }

    /// The process id of the running daemon, from its lock file.
    pub fn node(&self) -> Pid {
        let text = std::fs::read_to_string(self.base().join("node.lock")).unwrap();
        text.lines()
            .next()
            .and_then(|pid| pid.parse().ok())
            .and_then(Pid::from_raw)
            .unwrap_or_else(|| panic!("node.lock contains {text:?}"))
    }

    /// Kills the running daemon with SIGKILL and waits until it has ended.
    pub fn kill_node(&self) {
        let pid = self.node();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let timeout = Duration::from_secs(10).try_into().unwrap();
        assert_eq!(
            rustix::event::poll(&mut fds, Some(&timeout)).unwrap(),
            1,
            "the daemon runs after SIGKILL"
        );
    }

    /// Kills all processes of this host, as if its power had failed.
    pub fn power_off(&self) {
        kill_all_in(&self.namespace);
    }

    /// Bytes received from the network since the host was made, packet headers included.
    pub fn received(&self) -> u64 {
        let json = sh(&format!("ip -n {} -s -j link show eth0", self.namespace));
        let links: serde_json::Value = serde_json::from_str(&json).unwrap();
        links[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
    }

    /// Adds an address outside the ranges of local networks (RFC 2544). Packets to such addresses of other hosts are
    /// sent from it.
    pub fn add_public_addr(&self, addr: Ipv4Addr) {
        sh(&format!(
            "ip -n {0} addr add {addr}/32 dev eth0
             ip -n {0} route replace 198.18.0.0/15 dev eth0 src {addr}",
            self.namespace
        ));
    }

    /// Limits the rate in each direction: `100mbit`, `8mbit`.
    pub fn limit_rate(&self, rate: &str) {
        let limit = format!("tbf rate {rate} burst 256k latency 200ms");
        sh(&format!(
            "ip netns exec {} tc qdisc replace dev eth0 root {limit}
             ip netns exec {} tc qdisc replace dev port{} root {limit}",
            self.namespace,
            self.net.bridge(),
            self.number
        ));
    }

    /// Unplugs the network cable: connections stay open and no packet arrives any more.
    pub fn disconnect(&self) {
        sh(&format!("ip -n {} link set port{} down", self.net.bridge(), self.number));
    }

    /// Plugs the network cable in again.
    pub fn reconnect(&self) {
        sh(&format!("ip -n {} link set port{} up", self.net.bridge(), self.number));
    }

    /// Disables all interfaces of the host but loopback.
    pub fn take_link_down(&self) {
        sh(&format!("ip -n {} link set eth0 down", self.namespace));
    }

    fn environment(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.home)
            .env("LANG", "C.UTF-8")
            .current_dir(&self.home);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop_background_daemon();
        }
        if std::thread::panicking() {
            for log in std::fs::read_dir(self.base().join("log")).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(60)..];
                eprintln!("--- end of {} ---\n{}", log.path().display(), tail.join("\n"));
            }
        }
        kill_all_in(&self.namespace);
        mounts::detach_below(&self.home);
    }
}

/// A background mount. Dropping it detaches the mount; the daemon continues to run.
pub struct Mounted<'h> {
    host: &'h Host,
    point: PathBuf,
}

impl Mounted<'_> {
    /// The mount point.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// A path below the mount point.
    pub fn path(&self, rest: &str) -> PathBuf {
        self.point.join(rest)
    }

    /// Unmounts as a user would. Then stops the daemon in the background, unless the host keeps it.
    #[track_caller]
    pub fn unmount(self) {
        self.host.run(&["unmount", self.point.to_str().unwrap()]).ok();
        self.host.end_daemon_unless_kept();
        assert!(!mounts::is_mounted(&self.point), "unmount succeeded, but the mount is still there");
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        mounts::detach_below(&self.point);
    }
}
