//! The bridge to `cpp/`: the only module that uses libtorrent.
//!
//! Every function returns `Result`: a C++ exception becomes an error. No pointer of libtorrent crosses the bridge; results are
//! owned structures. Policy (settings, reactions to events) is in `torrent`, not here and not in `cpp/`.
#![allow(unsafe_code)]
#![allow(missing_docs)]

mod files;
mod git_memory;
pub(crate) mod libgit2;
pub(crate) mod process;

use files::open_file;
pub(crate) use raw::*;

#[cxx::bridge(namespace = "silmaril")]
mod raw {
    /// A setting of libtorrent, by its name.
    struct RawSetting {
        name: String,
        kind: RawSettingKind,
        number: i64,
        text: String,
    }

    enum RawSettingKind {
        Integer,
        Boolean,
        Text,
    }

    struct RawEndpoint {
        address: String,
        port: u16,
    }

    /// Addresses from the first to the last, both included.
    struct RawRange {
        first: String,
        last: String,
    }

    /// One connection of `try_group`.
    struct RawTrial {
        address: String,
        /// Type and body, without the length.
        message: Vec<u8>,
        times: u32,
        /// Whether the peer reads the answers.
        reads: bool,
        /// Bytes of the answer to each message that passes.
        answer: i64,
    }

    /// One peer of `try_slots`.
    struct RawVisitor {
        address: String,
        /// See `Worth` in cpp/slots.h.
        worth: i32,
        /// Whether the host is on the local network.
        exempt: bool,
        /// Whether the user named the host.
        named: bool,
        /// Whether this node opened the connection.
        called: bool,
        /// When it connects.
        seconds: u32,
    }

    /// One call of `try_rumours`.
    struct RawRumour {
        torrent: u64,
        address: String,
        port: u16,
        /// When it is due.
        seconds: u32,
        /// Whether the host answers.
        answers: bool,
    }

    /// One step of `try_claims`.
    struct RawClaimStep {
        /// When it happens.
        milliseconds: u64,
        /// The piece that the peer gets; negative: it sends `message`.
        got: i64,
        message: Vec<u8>,
    }

    /// The claims that count after a step of `try_claims`.
    struct RawClaimed {
        pieces: Vec<u32>,
    }

    /// The body of a message of `try_offers`.
    struct RawOfferMessage {
        body: Vec<u8>,
    }

    /// What a peer of `try_offers` has of a piece.
    struct RawOffer {
        piece: i32,
        granules: Vec<bool>,
    }

    /// See cpp/choice.h.
    struct RawChoice {
        seed: bool,
        untested: bool,
        number: u64,
        patience: i64,
    }

    /// See cpp/choice.h.
    struct RawWantedPiece {
        piece: u32,
        begun: bool,
        requested: bool,
        claimed: bool,
        hinted: bool,
        holders: i32,
        before: i32,
        overdue: i64,
    }

    /// The slots of `try_slots`.
    struct RawRoom {
        limit: i32,
        incomplete: bool,
        offences: i32,
        /// Whether connections that are closed by a posted task stay open.
        ends_late: bool,
    }

    struct RawPath {
        bytes: Vec<u8>,
        /// Whether the file is read only while it matches the fields below.
        fixed: bool,
        size: u64,
        mtime_ns: i64,
        inode: u64,
        /// The change time; 0 where it is not known.
        changed_ns: i64,
        /// Whether its bytes are proved again before they are sent.
        doubted: bool,
        /// A file with the hashes of its granules; empty where there is none.
        granules: Vec<u8>,
    }

    struct RawOpened {
        descriptor: i32,
        /// An errno value; 0 where there is a descriptor.
        error: i32,
        /// Whether the file did not exist before.
        created: bool,
    }

    /// See `torrent::AddTorrent`.
    struct RawAdd {
        torrent: u64,
        info_hash: [u8; 32],
        metainfo: Vec<u8>,
        paths: Vec<RawPath>,
        /// Piece `i` is bit `7 - i % 8` of byte `i / 8`.
        have: Vec<u8>,
        /// Verified blocks of other pieces.
        kept: Vec<RawBlocks>,
        resume: Vec<u8>,
        lazy: bool,
        withheld: bool,
        peers: Vec<RawEndpoint>,
        trackers: Vec<String>,
        dht: bool,
        lan: bool,
        pex: bool,
        max_connections: i32,
    }

    /// A torrent without metadata, for meeting its peers.
    struct RawMeeting {
        torrent: u64,
        /// A v1 or a v2 info hash.
        place: Vec<u8>,
        peers: Vec<RawEndpoint>,
        trackers: Vec<String>,
        dht: bool,
        lan: bool,
        max_connections: i32,
    }

    /// See `torrent::DhtItem`.
    #[derive(Default)]
    struct RawItem {
        publisher: [u8; 32],
        salt: [u8; 20],
        sequence: i64,
        /// Bencoded.
        value: Vec<u8>,
        signature: Vec<u8>,
    }

    /// Consecutive blocks of a piece.
    struct RawBlocks {
        piece: u32,
        first: u32,
        count: u32,
    }

    struct RawPriority {
        piece: u32,
        priority: u8,
    }

    enum RawKind {
        /// The torrent runs.
        Added,
        /// The torrent failed: `text`.
        Failed,
        PieceVerified,
        PieceRejected,
        /// `piece`, `first`, `count`.
        BlocksVerified,
        /// No peer supplies the hashes of requested blocks of the piece.
        BlocksRefused,
        /// The piece was withdrawn: events of it that came earlier do not count any more.
        Withdrawn,
        /// The bytes of a verified piece are wrong on the disk; the piece is not sent any more.
        PieceDamaged,
        /// `address`, `port`; `flag`: this node made the connection.
        PeerConnected,
        /// `address`, `port`, `text`.
        PeerDisconnected,
        /// `downloaded` to `seeds`.
        Stats,
        /// `seeds`: seeds that send nothing although pieces are wanted.
        SilentSeeds,
        /// `count`: connected peers that read too.
        Readers,
        /// `path`, operation in `text`, errno in `code`.
        DiskError,
        /// The torrent stopped because of a disk error; it needs `recover`.
        Stopped,
        /// `data`.
        ResumeData,
        /// `data`; `flag`: all layers are in it.
        Metainfo,
        /// `data`.
        Metadata,
        Removed,
        /// `peer`, `address`, `port`; `flag`: this node made the connection.
        PeerSpeaks,
        /// `peer`, `data`.
        PeerMessage,
        /// `peer`.
        PeerLeft,
        /// The topic in `data`, `endpoints`.
        DhtPeers,
        /// `item`, with an empty value if none was found; `flag`: the last answer.
        DhtFound,
        /// `item` without its value; `peers`: the number of nodes that stored it.
        DhtStored,
        /// `peers`: nodes in the routing tables.
        DhtNodes,
        /// `address`, `port`.
        Listening,
        /// `address`, `port`, `text`; `flag`: the port is in use.
        ListenFailed,
        EventsLost,
    }

    struct RawEvent {
        kind: RawKind,
        torrent: u64,
        piece: u32,
        first: u32,
        count: u32,
        code: i32,
        flag: bool,
        address: String,
        port: u16,
        text: String,
        path: Vec<u8>,
        data: Vec<u8>,
        downloaded: u64,
        uploaded: u64,
        download_rate: u64,
        upload_rate: u64,
        peers: u32,
        seeds: u32,
        peer: u64,
        endpoints: Vec<RawEndpoint>,
        item: RawItem,
    }

    struct RawFile {
        /// Path components below the torrent's name, joined with `/`.
        path: String,
        size: u64,
        /// The path of the file on the disk.
        source: Vec<u8>,
    }

    extern "Rust" {
        /// Copies bytes to a `Vec`: C++ itself can only append one byte at a time.
        fn vec_of(bytes: &[u8]) -> Vec<u8>;
        /// Opens a file of a torrent, at a real path (see [`crate::nofollow`]). With `write`, creates it and its parent
        /// directories.
        fn open_file(path: &[u8], write: bool) -> RawOpened;
    }

    unsafe extern "C++" {
        include!("silmaril/cpp/session.h");
        include!("silmaril/cpp/create.h");
        include!("silmaril/cpp/trial.h");
        include!("silmaril/cpp/trial_peer.h");

        /// The session with its disk threads. All methods may be called from any thread.
        type Engine;

        /// `dht_state`: from [`Engine::dht_state`]; ignored if invalid. `unlisted`: no torrent is announced in the DHT or on
        /// the local network, and no peer or tracker learns the address of this node.
        fn start_engine(
            settings: &Vec<RawSetting>,
            disk_threads: i32,
            open_files: i32,
            dht_state: &[u8],
            unlisted: bool,
        ) -> Result<UniquePtr<Engine>>;

        /// Waits until libtorrent has processed everything posted so far. Blocks on the network thread.
        fn wait_until_started(self: &Engine) -> Result<()>;
        /// The events since the last call; waits for one, at most `milliseconds`. Only for one thread.
        fn wait(self: &Engine, milliseconds: i32) -> Result<Vec<RawEvent>>;
        fn wake(self: &Engine) -> Result<()>;
        /// Requests figures of the torrents whose figures changed.
        fn post_stats(self: &Engine) -> Result<()>;
        fn add_dht_node(self: &Engine, host: &str, port: u16) -> Result<()>;

        /// Returns whether all piece layers are known.
        fn add(self: &Engine, torrent: &RawAdd) -> Result<bool>;
        fn fetch_metadata(
            self: &Engine,
            torrent: u64,
            magnet: &str,
            peers: &Vec<RawEndpoint>,
            trackers: &Vec<String>,
            max_connections: i32,
        ) -> Result<()>;

        fn meet(self: &Engine, meeting: &RawMeeting) -> Result<()>;

        // These return false for an unknown torrent.
        fn remove(self: &Engine, torrent: u64) -> Result<bool>;
        fn request(self: &Engine, torrent: u64, piece: u32, milliseconds: i32) -> Result<bool>;
        /// Requests blocks of the piece, in addition to blocks requested before.
        fn request_blocks(
            self: &Engine,
            torrent: u64,
            piece: u32,
            blocks: &[RawBlocks],
            milliseconds: i32,
        ) -> Result<bool>;
        fn set_priority(self: &Engine, torrent: u64, pieces: &[RawPriority]) -> Result<bool>;
        fn connect_peer(self: &Engine, torrent: u64, peer: &RawEndpoint) -> Result<bool>;
        /// Calls the known peers that are not connected, regardless of earlier failures.
        fn redial(self: &Engine, torrent: u64) -> Result<bool>;
        /// Withdraws pieces: when this returns, none of their bytes is sent any more, and peers learn of it.
        fn withdraw(self: &Engine, torrent: u64, pieces: &[u32]) -> Result<bool>;
        fn reannounce(self: &Engine, torrent: u64) -> Result<bool>;
        fn add_trackers(self: &Engine, torrent: u64, trackers: &Vec<String>) -> Result<bool>;
        /// A withheld torrent accepts no connection, answers no request and is not announced. All connections end when
        /// this is turned on.
        fn set_withheld(self: &Engine, torrent: u64, withheld: bool) -> Result<bool>;
        /// Searches for peers on the local network and, with `dht`, in the DHT; asks no tracker.
        fn announce_now(self: &Engine, torrent: u64, dht: bool) -> Result<bool>;
        fn give_piece(self: &Engine, torrent: u64, piece: u32, bytes: &[u8]) -> Result<bool>;
        /// Answered by `ResumeData`, or by `Metainfo` when `export_all`.
        fn save_layers(self: &Engine, torrent: u64, export_all: bool) -> Result<bool>;
        /// Resumes a torrent that stopped because of a disk error.
        fn recover(self: &Engine, torrent: u64) -> Result<bool>;

        /// Sends a message; false if too many bytes are unsent. A message to a peer that has left is dropped.
        fn send_message(self: &Engine, peer: u64, message: &[u8]) -> Result<bool>;
        /// Closes a peer's connection. A peer that misbehaved is refused for a while.
        fn disconnect(self: &Engine, peer: u64, misbehaved: bool) -> Result<()>;
        /// Exempts a host from the gate's limits of address groups.
        fn trust_host(self: &Engine, address: &str) -> Result<()>;
        /// Sets the addresses with which no connection is made; open ones are closed.
        fn block_addresses(self: &Engine, ranges: &Vec<RawRange>) -> Result<()>;

        // Without effect while the DHT is off.
        fn dht_announce(self: &Engine, topic: &[u8; 20], port: u16) -> Result<()>;
        fn dht_find(self: &Engine, topic: &[u8; 20]) -> Result<()>;
        /// Does not replace a newer item. Fails if the value is not bencoded, or too long.
        fn dht_put(self: &Engine, item: &RawItem) -> Result<()>;
        fn dht_get(self: &Engine, publisher: &[u8; 32], salt: &[u8; 20]) -> Result<()>;
        /// The nodes of the routing tables. Blocks on the network thread.
        fn dht_state(self: &Engine) -> Result<Vec<u8>>;
        /// Bytes per second of all connections together; 0 for no limit. Blocks on the network thread.
        fn upload_limit(self: &Engine) -> Result<i32>;

        /// Number of `save_layers` not answered yet.
        fn saves_pending(self: &Engine) -> Result<u32>;
        fn pause(self: &Engine) -> Result<()>;
        /// Ends the session; false if it did not end in time (it then ends in the background).
        fn shutdown(self: &Engine, milliseconds: i32) -> Result<bool>;

        /// See `torrent::try_gate`.
        fn try_gate(metainfo: &[u8], messages: &[u8]) -> Result<u32>;
        /// See `torrent::try_group`.
        fn try_group(metainfo: &[u8], connections: &Vec<RawTrial>) -> Result<Vec<u32>>;
        /// See `torrent::try_slots`.
        fn try_slots(room: &RawRoom, visitors: &Vec<RawVisitor>) -> Result<Vec<i32>>;
        /// See `torrent::try_waste`.
        fn try_waste(blocks_of_torrent: i64, blocks: &Vec<i64>) -> Vec<usize>;
        /// See `torrent::try_lies`.
        fn try_lies(address: &str, moments: &Vec<u32>) -> Result<Vec<u32>>;
        /// See `torrent::try_rumours`.
        fn try_rumours(rumours: &Vec<RawRumour>) -> Result<Vec<bool>>;

        /// See `torrent::try_claims`.
        fn try_claims(steps: &Vec<RawClaimStep>) -> Result<Vec<RawClaimed>>;
        /// See `torrent::try_offers`.
        fn try_offers(
            pieces: i32,
            piece_length: i32,
            messages: &Vec<RawOfferMessage>,
        ) -> Result<Vec<RawOffer>>;
        /// See `torrent::try_choose`.
        fn try_choose(choice: &RawChoice, pieces: &Vec<RawWantedPiece>) -> Result<i32>;

        /// See `torrent::TrialPeer`.
        type TrialPeer;
        fn trial_peer() -> Result<UniquePtr<TrialPeer>>;
        fn announced(self: Pin<&mut TrialPeer>, now: u64) -> Result<()>;
        fn reads(self: &TrialPeer, now: u64) -> Result<bool>;
        fn claim(self: Pin<&mut TrialPeer>, body: &[u8], piece_time: i64, now: u64) -> Result<()>;
        fn kept(self: Pin<&mut TrialPeer>, piece: u32, now: u64) -> Result<()>;
        fn claims(self: Pin<&mut TrialPeer>, now: u64) -> Result<Vec<u32>>;
        fn tick(
            self: Pin<&mut TrialPeer>,
            requests: i32,
            received: i64,
            rate: i64,
            round_trip: i64,
            now: u64,
        ) -> Result<()>;
        fn room(self: &TrialPeer, requests: i32, received: i64, rate: i64, now: u64) -> Result<i32>;
        fn is_silent(self: &TrialPeer) -> Result<bool>;
        fn is_slow(self: &TrialPeer, requests: i32, piece_time: i64) -> Result<bool>;
        fn keeps_up(self: &TrialPeer, requests: i32, piece_time: i64, now: u64) -> Result<bool>;
        fn pause(self: Pin<&mut TrialPeer>, now: u64) -> Result<()>;
        fn resume(self: Pin<&mut TrialPeer>) -> Result<()>;
        fn came(self: &TrialPeer) -> Result<i64>;
        /// See `torrent::TrialSupply`.
        type TrialSupply;
        fn trial_supply() -> Result<UniquePtr<TrialSupply>>;
        fn tick(
            self: Pin<&mut TrialSupply>,
            from_readers: i64,
            from_seeds: i64,
            readers_asked: bool,
            seeds_asked: bool,
        ) -> Result<()>;
        fn readers_suffice(self: &TrialSupply) -> Result<bool>;
        /// The body of a message of claims.
        fn trial_claims(number: u64, pieces: &[u32]) -> Result<Vec<u8>>;
        /// See cpp/choice.h. In milliseconds.
        fn trial_patience(readers: i32, piece_time: i64, random: u64) -> Result<i64>;
        /// See cpp/choice.h.
        fn trial_place(number: u64, piece: u32) -> Result<u64>;

        /// Reads the files for their v1 hashes, on `threads` threads.
        fn create_hybrid(
            name: &str,
            files: &Vec<RawFile>,
            piece_length: u32,
            threads: i32,
        ) -> Result<Vec<u8>>;
    }
}

fn vec_of(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

// SAFETY: `Engine` (cpp/session.h) keeps its own state behind a mutex, and libtorrent documents session and
// torrent_handle as thread-safe. It has no state tied to the thread that made it.
unsafe impl Send for Engine {}
// SAFETY: as above; all methods are const and lock.
unsafe impl Sync for Engine {}
