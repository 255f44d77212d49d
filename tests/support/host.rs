//! One host of a private network: an address, a home directory, and the real program running on it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::mounts;
use super::net::{Net, kill_all_in, sh};
use super::process::{Finished, PATIENCE, Proc, until};

/// Each host has a namespace of its own, so this port is always free.
const PORT: u16 = 6881;

/// A host. Dropping it kills its processes; what they logged is printed when the test has failed.
pub struct Host {
    net: Net,
    namespace: String,
    home: PathBuf,
    number: u32,
    keeps_daemon: AtomicBool,
}

impl Host {
    /// Only [`Net::host`] calls this.
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

    /// The address for `--peer`.
    pub fn peer(&self) -> String {
        format!("{}:{PORT}", self.addr())
    }

    /// Writes the configuration: what keeps a test private, further keys of `network`, each on its own line with two
    /// spaces before it, then further sections.
    pub fn configure(&self, more: &str) {
        let bootstrap = if more.contains("dht_bootstrap_nodes") { "" } else { "  dht_bootstrap_nodes: []\n" };
        let dir = self.home.join(".config/silmaril");
        std::fs::create_dir_all(&dir).unwrap();
        let network = format!("network:\n  listen_port: {PORT}\n{bootstrap}  port_mapping: false\n{more}\n");
        std::fs::write(dir.join("config.yaml"), network).unwrap();
        self.stop_background_daemon();
    }

    /// Stops the daemon if one runs in the background, so that the next command starts one with the present
    /// configuration and nothing else.
    pub fn stop_background_daemon(&self) {
        let Some(pid) = self.background_daemon() else { return };
        // It may have ended by itself meanwhile.
        let end = Finished::of(&mut self.silmaril(&["stop"]), PATIENCE);
        let gone = || self.background_daemon().is_none_or(|now| now != pid);
        until(&format!("the daemon (process {pid}) has ended after `stop`: {}", end.stderr), PATIENCE, gone);
    }

    /// Any program, on this host.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg("--").arg(program.as_ref());
        self.environment(&mut command);
        command
    }

    /// The program, on this host.
    pub fn silmaril(&self, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_silmaril"));
        command.args(args);
        command
    }

    /// The program on this host as a user who is nobody special. Their home is [`Self::home`].
    pub fn silmaril_as_nobody(&self, args: &[&str]) -> Command {
        // The build directory may be closed to others.
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

    /// Runs the program to its end, which must come within [`PATIENCE`]. A daemon that it has left in the background is
    /// stopped, unless the host keeps it: the next command then starts from what is on the disk.
    pub fn run(&self, args: &[&str]) -> Finished {
        self.run_command(&mut self.silmaril(args))
    }

    /// [`Self::run`] for a command that is made already.
    pub fn run_command(&self, command: &mut Command) -> Finished {
        let before = self.background_daemon();
        let end = Finished::of(command, PATIENCE);
        if before.is_none() {
            self.end_daemon_unless_kept();
        }
        end
    }

    /// Keeps from now on the daemons that commands leave in the background, as they are outside tests.
    pub fn keep_daemon(&self) {
        self.keeps_daemon.store(true, Ordering::Relaxed);
    }

    fn end_daemon_unless_kept(&self) {
        if !self.keeps_daemon.load(Ordering::Relaxed) {
            self.stop_background_daemon();
        }
    }

    /// The process of the daemon in the background.
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

    /// Mounts in the background at `~/models`, with further arguments; ready when this returns.
    #[track_caller]
    pub fn mount(&self, more: &[&str]) -> Mounted<'_> {
        self.mount_at("models", more)
    }

    /// [`Self::mount`] at another place below the home.
    #[track_caller]
    pub fn mount_at(&self, name: &str, more: &[&str]) -> Mounted<'_> {
        let point = self.home.join(name);
        if !mounts::is_mounted(&point) {
            std::fs::create_dir_all(&point).unwrap();
        }
        let mut args = vec!["mount", point.to_str().unwrap()];
        args.extend(more);
        Finished::of(&mut self.silmaril(&args), PATIENCE).ok();
        assert!(mounts::is_mounted(&point), "mount said it was ready, but nothing is mounted");
        Mounted { host: self, point }
    }

    /// The process id of the running node, from its lock.
    pub fn node(&self) -> Pid {
        let text = std::fs::read_to_string(self.base().join("node.lock")).unwrap();
        text.lines()
            .next()
            .and_then(|pid| pid.parse().ok())
            .and_then(Pid::from_raw)
            .unwrap_or_else(|| panic!("node.lock says {text:?}"))
    }

    /// Kills the running node with SIGKILL and waits until it is gone.
    pub fn kill_node(&self) {
        let pid = self.node();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let timeout = Duration::from_secs(10).try_into().unwrap();
        assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 1, "the node survives SIGKILL");
    }

    /// Kills all that runs on this host, as if its power had failed.
    pub fn power_off(&self) {
        kill_all_in(&self.namespace);
    }

    /// Bytes received from the network since the host was made, headers included.
    pub fn received(&self) -> u64 {
        let json = sh(&format!("ip -n {} -s -j link show eth0", self.namespace));
        let links: serde_json::Value = serde_json::from_str(&json).unwrap();
        links[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
    }

    /// Gives the host an address more, outside the ranges of local networks (RFC 2544), and sends from it to such
    /// addresses of other hosts.
    pub fn add_public_addr(&self, addr: Ipv4Addr) {
        sh(&format!(
            "ip -n {0} addr add {addr}/32 dev eth0
             ip -n {0} route replace 198.18.0.0/15 dev eth0 src {addr}",
            self.namespace
        ));
    }

    /// Bounds what the host sends and receives, each: `100mbit`, `8mbit`.
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

    /// Pulls the plug out of the wall; connections stay open and nothing arrives any more.
    pub fn disconnect(&self) {
        sh(&format!("ip -n {} link set port{} down", self.net.bridge(), self.number));
    }

    /// Puts it back.
    pub fn reconnect(&self) {
        sh(&format!("ip -n {} link set port{} up", self.net.bridge(), self.number));
    }

    /// Leaves the host without any interface but loopback.
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

/// A background mount. Dropping it detaches the mount; the daemon goes on.
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

    /// Unmounts as a user would. A daemon in the background is stopped then, unless the host keeps it.
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
