//! A host that shares models, and a host whose endpoint programs use. The hosts know only each other.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::fixtures::downloaded;
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE, Proc};
use crate::support::share::{Share, share};

/// The bytes on the wire for `payload` bytes: the fetched bytes are at most 1.05 times the files, and packet headers,
/// hashes and protocol messages are added.
pub fn on_the_wire(payload: u64) -> u64 {
    payload + payload / 20 + payload / 12 + (512 << 10)
}

/// Two hosts. The second one has a daemon with an endpoint.
pub struct Rig {
    pub endpoint: String,
    pub user: Host,
    pub publisher: Host,
    _net: Net,
    shares: Vec<Share>,
}

impl Rig {
    /// The publisher shares nothing yet.
    pub fn new() -> Self {
        Self::configured("")
    }

    /// [`Self::new`] with further sections of the user's configuration.
    pub fn configured(more: &str) -> Self {
        let net = Net::new();
        let (publisher, user) = (net.host("publisher"), net.host("user"));
        user.configure(more);
        user.keep_daemon();
        Self { endpoint: String::new(), user, publisher, _net: net, shares: Vec::new() }
    }

    /// Shares a directory on the first host.
    pub fn share(&mut self, dir: &Path, name: &str, more: &[&str]) {
        self.shares.push(share(&self.publisher, dir, name, more));
    }

    /// Starts the endpoint on any free port. Its daemon knows the publisher.
    pub fn serve(&mut self) {
        self.user.run(&["daemon", "--peer", &self.publisher.peer()]).ok();
        let served = self.user.run(&["serve", "--listen", "127.0.0.1:0"]).ok();
        let url = served.split_whitespace().find(|word| word.starts_with("http://"));
        self.endpoint = url.unwrap_or_else(|| panic!("no address in {served:?}")).to_owned();
    }

    /// A command of a venv on the user's host, with the variables that `silmaril env` prints, and a cache of its own.
    pub fn client(&self, venv: &str, program: &str) -> Command {
        let mut command = self.user.command(downloaded(venv).join("bin").join(program));
        command
            .env("HF_ENDPOINT", &self.endpoint)
            .env("HF_HOME", self.user.home().join(format!("hf-{venv}")))
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            .env("HF_HUB_DISABLE_UPDATE_CHECK", "1")
            .env("HF_HUB_DISABLE_PROGRESS_BARS", "1");
        command
    }

    /// `hf download` to a new directory of the user's home.
    #[track_caller]
    pub fn download(&self, venv: &str, args: &[&str]) -> PathBuf {
        let out = self.user.home().join(format!("out-{venv}-{}", args.join("-").replace('/', "_")));
        let mut command = self.client(venv, "hf");
        command.arg("download").args(args).arg("--local-dir").arg(&out);
        Finished::of(&mut command, PATIENCE).ok();
        out
    }

    /// Runs a script with the libraries of a venv.
    pub fn script(&self, venv: &str, script: &str, args: &[&str]) -> Finished {
        let mut command = self.client(venv, "python");
        Finished::of(command.args(["-I", "-c", script]).args(args), PATIENCE)
    }

    /// [`Self::script`] in the background.
    pub fn spawn(&self, script: &str, args: &[&str]) -> Proc {
        Proc::spawn(self.client("venv", "python").args(["-I", "-c", script]).args(args))
    }

    /// Sends requests with Python's own client and prints each response as JSON: status, headers in lower case, and the
    /// body as hexadecimal digits. `requests` is a Python list of (method, path, headers).
    pub fn requests(&self, requests: &str) -> Vec<serde_json::Value> {
        let script = "import http.client, json, sys, ast\n\
            host, port = sys.argv[1].removeprefix('http://').rsplit(':', 1)\n\
            for method, path, headers in ast.literal_eval(sys.argv[2]):\n    \
            c = http.client.HTTPConnection(host, int(port), timeout=60)\n    \
            c.putrequest(method, path, skip_host='Host' in headers, skip_accept_encoding=True)\n    \
            body = headers.pop('body', '').encode()\n    \
            if body: c.putheader('Content-Length', str(len(body)))\n    \
            for name, value in headers.items(): c.putheader(name, value)\n    \
            c.endheaders(body or None)\n    \
            r = c.getresponse(); data = r.read()\n    \
            print(json.dumps({'status': r.status, 'headers': {k.lower(): v for k, v in r.getheaders()}, 'body': data.hex()}))\n";
        let out = self.script("venv", script, &[&self.endpoint, requests]).ok();
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The body of a response as JSON.
pub fn json(response: &serde_json::Value) -> serde_json::Value {
    serde_json::from_slice(&bytes(response)).unwrap_or_else(|e| panic!("{e}: {response}"))
}

/// The body of a response.
pub fn bytes(response: &serde_json::Value) -> Vec<u8> {
    hex::decode(response["body"].as_str().unwrap()).unwrap()
}
