"""Hosts of a measurement: network namespaces at one bridge, with links of a given rate."""
import hashlib
import os
import subprocess
import time
from pathlib import Path

# No program of a measurement takes longer than this, in seconds.
PATIENCE = 600


def sh(*command, **options):
    """Runs a command; an error is raised with the command's own output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One host: its address, its home directory, and what runs on it."""

    def __init__(self, lab, name, number, mbit):
        self.lab, self.name, self.address = lab, name, f"10.77.{number // 250}.{number % 250 + 1}"
        self.port = f"port{number}"
        self.home = lab.work / name
        config = self.home / ".config/silmaril/config.yaml"
        config.parent.mkdir(parents=True)
        config.write_text("network:\n  listen_port: 6881\n  dht_bootstrap_nodes: []\n  port_mapping: false\n")
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", self.port)
        sh("ip", "link", "set", self.port, "master", "br0", "up")
        sh("ip", "-n", name, "addr", "add", f"{self.address}/16", "dev", "eth0")
        sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", name, "link", "set", "eth0", "up")
        sh("ip", "-n", name, "route", "add", "224.0.0.0/4", "dev", "eth0")
        if mbit:
            self.shape(mbit)

    def shape(self, mbit):
        """Limits the link to `mbit` Mbit/s in each direction."""
        # A burst of 2 ms, and at least what one segment of 64 KiB needs.
        shaper = ["root", "tbf", "rate", f"{mbit}mbit", "burst", str(max(mbit * 250, 70_000)), "latency", "50ms"]
        sh("tc", "-n", self.name, "qdisc", "replace", "dev", "eth0", *shaper)
        sh("tc", "qdisc", "replace", "dev", self.port, *shaper)

    @property
    def peer(self):
        """The address on which silmaril listens."""
        return f"{self.address}:6881"

    def start(self, *command, **options):
        """Starts a program on this host, in its home directory."""
        environment = {"PATH": f"{self.lab.bin}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8"}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(["nsenter", f"--net=/run/netns/{self.name}", "--", *map(str, command)],
                                cwd=self.home, env=environment, **options)

    def run(self, *command, output=True):
        """Runs a program on this host and returns what it prints (unless it is not needed). An error is raised if it fails."""
        return finish(self.start(*command, **({} if output else {"stdout": subprocess.DEVNULL})))

    def silmaril(self, *arguments):
        return self.run("silmaril", *arguments)

    def mount(self, *arguments):
        """Mounts at ~/models and returns that path."""
        (self.home / "models").mkdir(exist_ok=True)
        self.silmaril("mount", "models", *arguments)
        return self.home / "models"

    def daemon(self):
        """The process number of the daemon."""
        return int((self.home / ".silmaril/node.lock").read_text().split()[0])

    def cpu(self):
        """The CPU time that the daemon has used, in seconds."""
        fields = Path(f"/proc/{self.daemon()}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_memory(self):
        """The largest memory that the daemon has had, in MiB."""
        status = Path(f"/proc/{self.daemon()}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def sent(self):
        """Bytes that left this host since it was made."""
        return int(Path(f"/sys/class/net/{self.port}/statistics/rx_bytes").read_text())

    def received(self):
        """Bytes that reached this host since it was made."""
        return int(Path(f"/sys/class/net/{self.port}/statistics/tx_bytes").read_text())


class Lab:
    """A bridge and its hosts. Everything is removed at the end of a round."""

    def __init__(self, work, program):
        self.work, self.hosts = work, {}
        self.bin = work / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "silmaril").symlink_to(program)

    def __enter__(self):
        sh("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0", "mcast_snooping", "0")
        sh("ip", "link", "set", "br0", "up")
        return self

    def __exit__(self, *_):
        for host in self.hosts.values():
            self.end(host)
        self.hosts.clear()
        sh("ip", "link", "del", "br0")
        subprocess.run(["rm", "-rf", self.work], check=False)

    def host(self, name, mbit=None):
        """A new host, with a link of `mbit` Mbit/s in each direction, or of no limit."""
        # Numbers are not used again: a round-robin of addresses would meet connections of ended hosts.
        self.count = getattr(self, "count", 0) + 1
        self.hosts[name] = Host(self, name, self.count, mbit)
        return self.hosts[name]

    def remove(self, host):
        """Ends what runs on a host and deletes the host with its files."""
        self.end(host)
        del self.hosts[host.name]
        subprocess.run(["rm", "-rf", host.home], check=False)

    def end(self, host):
        subprocess.run(["timeout", "20", "nsenter", f"--net=/run/netns/{host.name}", "env", f"HOME={host.home}",
                        str(self.bin / "silmaril"), "stop"], capture_output=True, check=False)
        for signal in ("-TERM", "-KILL"):
            pids = sh("ip", "netns", "pids", host.name).split()
            if not pids:
                break
            subprocess.run(["kill", signal, *pids], capture_output=True, check=False)
            deadline = time.monotonic() + 10
            while sh("ip", "netns", "pids", host.name).split() and time.monotonic() < deadline:
                time.sleep(0.02)
        sh("ip", "link", "del", host.port)
        sh("ip", "netns", "del", host.name)

    def share(self, host, name, files):
        """Shares random files ({path: bytes}) from a host and returns the exported manifest and the directory."""
        directory = host.home / "shared" / name
        for path, size in files.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            with open(directory / path, "wb") as file:
                for start in range(0, size, 1 << 20):
                    file.write(os.urandom(min(1 << 20, size - start)))
        host.silmaril("share", f"{directory}/", "--name", name, "--license", "mit", "--skip-dht")
        manifest = self.work / (name.replace("/", "_") + ".json")
        manifest.write_text(host.silmaril("registry", "export", name))
        return manifest, directory


def finish(process, patience=PATIENCE):
    """Waits for a program and returns what it printed. An error is raised if it fails or takes too long."""
    try:
        output, errors = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"{' '.join(process.args)}: not finished after {patience} s") from None
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(process.args)}: exit {process.returncode}: {(errors or b'').decode().strip()[-400:]}")
    return (output or b"").decode()


def seconds(action):
    """How long an action takes, in seconds."""
    start = time.monotonic()
    action()
    return time.monotonic() - start


def digest(path):
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def drop_page_cache():
    """Forgets file contents that the kernel caches."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1\n")
