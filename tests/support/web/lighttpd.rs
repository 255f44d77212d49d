//! The real lighttpd, for tests that need an independent server.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::Signal;

use super::place::Place;
use super::uri::decode;
use crate::support::net::temp_dir;
use crate::support::process::{Finished, PATIENCE, Proc, until};

/// The format of its log's lines: method, path, status, bytes of the body, `Range`, `Authorization`.
const FORMAT: &str = "%m\t%U\t%s\t%b\t%{Range}i\t%{Authorization}i";

/// Requests for this path mark a position in the log. They get 404.
const MARK: &str = "/.mark-";

/// A running lighttpd. Dropping it kills it.
pub struct Lighttpd {
    address: SocketAddr,
    place: Place,
    process: Proc,
    dir: tempfile::TempDir,
    marks: AtomicU64,
}

/// A request in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// `GET`, `HEAD`, `POST`.
    pub method: String,
    /// The path, percent-decoded.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub sent: u64,
    /// The header `Range`.
    pub range: Option<String>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
}

impl Lighttpd {
    /// Starts lighttpd for a directory, with further lines of configuration. It answers requests as soon as this
    /// returns.
    pub fn start(place: &Place, root: &Path, configuration: &str) -> Self {
        let dir = temp_dir("lighttpd");
        let listener = place.listen();
        let address = listener.local_addr().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let conf = format!(
            "server.systemd-socket-activation = \"enable\"\n\
             server.bind = \"{}\"\n\
             server.port = {}\n\
             server.modules = ()\n\
             server.document-root = \"{}\"\n\
             server.upload-dirs = (\"{}\")\n\
             server.errorlog = \"{}\"\n\
             mimetype.assign = (\"\" => \"application/octet-stream\")\n\
             server.modules += (\"mod_accesslog\")\n\
             accesslog.filename = \"{}\"\n\
             accesslog.format = \"{FORMAT}\"\n\
             {configuration}\n",
            address.ip(),
            address.port(),
            root.display(),
            dir.path().display(),
            at("error.log"),
            at("access.log"),
        );
        let file = dir.path().join("lighttpd.conf");
        std::fs::write(&file, conf).unwrap();
        Finished::of(place.command("lighttpd").arg("-tt").arg("-f").arg(&file), PATIENCE).ok();
        // lighttpd receives a socket that already listens, as from systemd. So no other process can get the port
        // meanwhile, and no wait is needed: the kernel queues connections until lighttpd has read its configuration.
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec lighttpd -D -f \"$1\"";
        let mut command = place.command("sh");
        command.args(["-c", script, "sh"]).arg(&file);
        let process = Proc::spawn_with_input(&mut command, Stdio::from(OwnedFd::from(listener)));
        Self { address, place: place.clone(), process, dir, marks: AtomicU64::new(0) }
    }

    /// `http://address:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The answered requests, in the order of their ends.
    #[track_caller]
    pub fn served(&self) -> Vec<Served> {
        // lighttpd writes its log when the buffer is full, from time to time, and when the log is reopened. A further
        // request marks the end of the requests so far.
        let mark = format!("{MARK}{}", self.marks.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.place.connect(self.address);
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.write_all(format!("GET {mark} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        connection.read_to_end(&mut Vec::new()).unwrap();
        self.process.signal(Signal::HUP);
        let line = format!("\t{mark}\t");
        until(&format!("the log has {mark}: {}", self.errors()), PATIENCE, || self.log().contains(&line));
        self.log().lines().map(parse).filter(|served| !served.path.starts_with(MARK)).collect()
    }

    /// The error log, for messages.
    pub fn errors(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default()
    }
}

fn parse(line: &str) -> Served {
    let fields: Vec<&str> = line.split('\t').collect();
    let [method, path, status, sent, range, authorization] = fields[..] else {
        panic!("not a line of the access log: {line:?}");
    };
    let some = |text: &str| (text != "-" && !text.is_empty()).then(|| text.to_owned());
    Served {
        method: method.to_owned(),
        path: decode(path),
        status: status.parse().unwrap(),
        sent: some(sent).map_or(0, |sent| sent.parse().unwrap()),
        range: some(range),
        authorization: some(authorization),
    }
}
