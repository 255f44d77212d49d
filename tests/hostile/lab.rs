//! Three victims, an honest seed and a hostile host.
//!
//! The victims are a sharer, a mount that reads, and `get`, each the real program on its own host. All hosts have an
//! address outside the ranges of local networks, so that the limits for strangers apply. The hostile host runs simulated
//! peers ([`RawPeer`], [`RawSeed`]).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use silmaril::model::InfoHash;

use super::strike::Strike;
use crate::support::fixtures::{dd, hashes, model_dir, noise};
use crate::support::host::{Host, Mounted};
use crate::support::net::Net;
use crate::support::private_net::in_namespace;
use crate::support::process::{Finished, PATIENCE, Proc, until};
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::Message;
use crate::support::share::{import, share};

pub const NAME: &str = "acme/m";

/// How long a reader may take during an attack. A peer that does not answer delays it by half a minute.
pub const READ: Duration = Duration::from_secs(90);

/// How long a running victim may refuse connections.
const ACCEPT: Duration = Duration::from_secs(15);

/// Keys of the section `network` of every node.
pub const NETWORK: &str = "  dht_enabled: false\n  lan_discovery: false\n  encryption: off\n  utp: off\n";

/// The port of every node on the test network.
const PORT: u16 = 6881;

/// The hosts and the model.
pub struct Lab {
    pub content: Arc<Content>,
    pub expected: BTreeMap<String, String>,
    _sharing: Proc,
    honest_sharing: Mutex<Option<Proc>>,
    honest_dir: PathBuf,
    piece_length: String,
    pub sharer: Host,
    pub honest: Host,
    pub reader: Host,
    pub getter: Host,
    pub evil: Host,
}

/// Two files of many pieces, one of three pieces and one of a block. All except the first end within a piece, so that pad
/// files follow them. `b.bin` starts so late in the torrent that piece numbers computed with a wrong sign are still
/// valid piece numbers.
pub fn model() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a.bin", noise(1, 4 << 20)),
        ("b.bin", noise(2, (3 << 20) + 20_000)),
        ("c.json", noise(3, 1000)),
        ("d.bin", noise(4, 150_000)),
    ]
}

/// A host's address outside local networks.
pub fn public(host: &Host) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, host.addr().octets()[3])
}

/// The public address and port of a node.
pub fn door(host: &Host) -> SocketAddr {
    SocketAddr::new(public(host).into(), PORT)
}

impl Lab {
    /// Starts the sharer with [`model`] in pieces of four blocks. The other nodes do not run yet.
    pub fn new() -> Self {
        Self::with(&model(), "64KiB", "")
    }

    /// The same with another model, and with further keys of the section `network` for the sharer.
    pub fn with(files: &[(&str, Vec<u8>)], piece_length: &str, network: &str) -> Self {
        let net = Net::new();
        let names = ["sharer", "honest", "reader", "getter", "evil"];
        let hosts = names.map(|name| {
            let host = net.host(name);
            host.add_public_addr(public(&host));
            let more = if name == "sharer" { network } else { "" };
            host.configure(&format!("{NETWORK}{more}"));
            host
        });
        let [sharer, honest, reader, getter, evil] = hosts;
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
        let dir = model_dir(&sharer.home().join("m"), &files);
        let honest_dir = model_dir(&honest.home().join("m"), &files);
        let shared = share(&sharer, &dir, NAME, &["--piece-length", piece_length]);
        for host in [&reader, &getter] {
            import(host, &shared.manifest);
        }
        Self {
            content: Arc::new(Content::of(&shared.manifest, &dir)),
            expected: hashes(&dir, PATIENCE),
            _sharing: shared.process,
            honest_sharing: Mutex::default(),
            honest_dir,
            piece_length: piece_length.to_owned(),
            sharer,
            honest,
            reader,
            getter,
            evil,
        }
    }

    /// Starts the honest seed.
    pub fn start_honest(&self) {
        let sharer = door(&self.sharer).to_string();
        let more = ["--piece-length", &self.piece_length, "--peer", &sharer];
        let shared = share(&self.honest, &self.honest_dir, NAME, &more);
        *self.honest_sharing.lock().unwrap() = Some(shared.process);
    }

    /// Stops the honest seed and makes the sharer unreachable, so that the reader has no source.
    pub fn take_sources_away(&self) {
        self.sharer.disconnect();
        drop(self.honest_sharing.lock().unwrap().take());
        until("the honest seed has left", READ, || self.honest_connections(&self.reader).is_empty());
    }

    /// The honest seed's address for `--peer`.
    pub fn honest_peer(&self) -> String {
        door(&self.honest).to_string()
    }

    /// Mounts on the reader, with these peers.
    pub fn mount(&self, peers: &[String]) -> Mounted<'_> {
        let args: Vec<&str> = peers.iter().flat_map(|peer| ["--peer", peer]).collect();
        self.reader.mount(&args)
    }

    /// Starts `get` on the getter, with these peers.
    pub fn get(&self, peers: &[String], more: &[&str]) -> Proc {
        let out = self.getter.home().join("out");
        let mut args = vec!["get", NAME, "-o", out.to_str().unwrap()];
        for peer in peers {
            args.extend(["--peer", peer]);
        }
        args.extend(more);
        self.getter.spawn(&args)
    }

    /// Fails unless `get` succeeds with the right files.
    #[track_caller]
    pub fn assert_got(&self, getting: Proc) {
        getting.finish(READ).ok();
        let mut got = hashes(&self.getter.home().join("out"), PATIENCE);
        got.remove(".silmaril.json");
        assert_eq!(got, self.expected, "`get` stored wrong bytes");
    }

    /// Fails unless every file of the mount has the right bytes.
    #[track_caller]
    pub fn assert_reads(&self, mounted: &Mounted) {
        assert_eq!(hashes(&mounted.path(NAME), READ), self.expected, "the mount returned wrong bytes");
    }

    /// Fails unless a part in the middle of `b.bin` has the right bytes. Reads it like a program that seeks.
    #[track_caller]
    pub fn assert_reads_middle(&self, mounted: &Mounted) {
        let file = mounted.path(NAME).join("b.bin");
        let script = "dd if=\"$1\" bs=65536 skip=16 count=16 status=none | sha256sum";
        let mut command = self.reader.command("sh");
        let read = Finished::of(command.args(["-c", script, "sh"]).arg(file), READ).ok();
        let expected = Sha256::digest(&self.content.file("b.bin").bytes[1 << 20..2 << 20]);
        assert_eq!(read.split(' ').next(), Some(&*hex::encode(expected)), "the mount returned wrong bytes");
    }

    /// Makes the mount join the swarm by reading one block.
    #[track_caller]
    pub fn join(&self, mounted: &Mounted) {
        dd(&mounted.path(NAME).join("a.bin"), 16384, 0, 1, READ).ok();
    }

    /// Ports of the connections between a node and the honest seed, local port first.
    pub fn honest_connections(&self, node: &Host) -> Vec<(u16, u16)> {
        let table =
            in_namespace(node.namespace(), || std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
        let honest = public(&self.honest);
        let parse = |end: &str| {
            let (address, port) = end.split_once(':')?;
            let address = Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.swap_bytes());
            Some((address, u16::from_str_radix(port, 16).ok()?))
        };
        let line = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, remote) = (parse(fields.next()?)?, parse(fields.next()?)?);
            (fields.next()? == "01" && remote.0 == honest).then_some((local.1, remote.1))
        };
        table.lines().filter_map(line).collect()
    }

    /// Fails unless one of the connections `before` to the honest seed is still open.
    #[track_caller]
    pub fn assert_still_connected(&self, node: &Host, before: &[(u16, u16)]) {
        let now = self.honest_connections(node);
        assert!(!before.is_empty(), "the victim was not connected to the honest seed");
        assert!(
            before.iter().any(|connection| now.contains(connection)),
            "the connection to the honest seed was closed: {before:?}, then {now:?}"
        );
    }

    /// Connects from a host to a node that is in the swarm or joins it soon.
    #[track_caller]
    pub fn dial(&self, from: &Host, victim: &Host) -> RawPeer {
        self.dial_from(from, None, victim)
    }

    /// The same from one of several addresses of the host.
    #[track_caller]
    pub fn dial_from(&self, from: &Host, address: Option<Ipv4Addr>, victim: &Host) -> RawPeer {
        let (to, swarm, pid) = (door(victim), self.content.info_hash, process_of(victim));
        in_namespace(from.namespace(), move || accepted(address, to, &swarm, pid, "nothing"))
    }

    /// Fails if a victim sends a hash that is not genuine.
    #[track_caller]
    pub fn assert_hashes_are_genuine(&self, victim: &Host) {
        let mut peer = self.dial(&self.honest, victim);
        let blocks = self.content.blocks_per_piece();
        for file in self.content.files.iter().filter(|file| file.pieces > 1) {
            let pieces = (0..file.pieces as i32).map(|piece| file.range(0, piece * blocks, blocks));
            let layer = file.level(self.content.piece_base()).len() as i32;
            for range in pieces.chain([file.range(self.content.piece_base(), 0, layer)]) {
                peer.send(&Message::HashRequest(range)).unwrap();
                let answer = peer.receive_until(|message| match message {
                    Message::Hashes(of, hashes) if of == range => Some(Some(hashes)),
                    Message::HashReject(of) if of == range => Some(None),
                    _ => None,
                });
                if let Some(hashes) = answer.unwrap() {
                    assert!(file.hashes(range) == Some(hashes), "false hashes for {}: {range:?}", file.path);
                }
            }
        }
    }

    /// Sends each strike to a victim on a new connection and waits until it is handled. Returns after how many strikes
    /// the connection stayed open. If the victim dies, fails with the name of the strike.
    #[track_caller]
    pub fn strike(&self, victim: &Host, strikes: &[Strike]) -> usize {
        let (to, swarm, pid) = (door(victim), self.content.info_hash, process_of(victim));
        let (strikes, range) = (strikes.to_vec(), self.content.any_range());
        in_namespace(self.evil.namespace(), move || {
            let mut tolerated = 0;
            let mut last = "nothing".to_owned();
            for strike in &strikes {
                let mut peer = accepted(None, to, &swarm, pid, &last);
                tolerated += usize::from(strike.send(&mut peer).is_ok() && peer.is_answered(range));
                last.clone_from(&strike.what);
            }
            // This connection proves that the victim has survived the last strike.
            accepted(None, to, &swarm, pid, &last);
            tolerated
        })
    }
}

/// Connects to a victim, which may not be in the swarm yet.
fn accepted(from: Option<Ipv4Addr>, to: SocketAddr, swarm: &InfoHash, pid: i32, last: &str) -> RawPeer {
    let since = Instant::now();
    loop {
        match RawPeer::dial(from, to, swarm) {
            Ok(peer) => return peer,
            Err(error) => {
                assert!(is_alive(pid), "the node died after: {last}");
                assert!(since.elapsed() < ACCEPT, "no connection after: {last}: {error}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// The process of a host's node.
pub fn process_of(host: &Host) -> i32 {
    host.node().as_raw_nonzero().get()
}

/// Whether a process runs.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}
