//! Keys of the configuration have the effect that their description promises.

use std::time::{Duration, Instant};

use crate::support::fixtures::{hashes, wordllama};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc};
use crate::support::share::{Share, import, share};

const NAME: &str = "dleemiller/wordllama";
const SIZE: f64 = 16_384_096.0;

/// A publisher and a reader, each with its keys of `network`, and the publisher's running share.
fn pair(publisher: &str, reader: &str) -> (Host, Host, Share) {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    a.configure(publisher);
    b.configure(&format!("{reader}torrent:\n  download_timeout: 5\n"));
    let shared = share(&a, &wordllama(), NAME, &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    (a, b, shared)
}

fn seconds_to_get(a: &Host, b: &Host) -> f64 {
    let start = Instant::now();
    b.run(&["get", NAME, "--peer", &a.peer(), "--seed=false"]).ok();
    start.elapsed().as_secs_f64()
}

#[test]
fn rates_are_kept_in_both_directions() {
    for (publisher, reader) in
        [("  upload_rate_limit: 4000000\n", ""), ("", "  download_rate_limit: 4000000\n")]
    {
        let (a, b, _shared) = pair(publisher, reader);
        let seconds = seconds_to_get(&a, &b);
        // A bucket may be full at the start.
        assert!(seconds > 0.7 * SIZE / 4e6, "{publisher}{reader}: it took {seconds} s");
        assert!(seconds < 5.0 * SIZE / 4e6, "{publisher}{reader}: it took {seconds} s");
    }
}

#[test]
fn encryption_required_on_one_side_and_off_on_the_other_do_not_meet() {
    let (a, b, _shared) = pair("  encryption: require\n", "  encryption: 'off'\n  utp: 'off'\n");
    b.run(&["get", NAME, "--peer", &a.peer()]).error(1);
    b.configure("  encryption: require\n");
    seconds_to_get(&a, &b);
}

#[test]
fn a_listen_address_is_the_only_one_that_answers() {
    let (a, b, _shared) =
        pair("  listen_address: 127.0.0.1\n  lan_discovery: false\n", "  lan_discovery: false\n");
    b.run(&["get", NAME, "--peer", &a.peer()]).error(1);
}

#[test]
fn every_torrent_is_announced_to_the_trackers() {
    let net = Net::new();
    let (tracker, a, b) = (net.host("tracker"), net.host("a"), net.host("b"));
    // Remembers who came and tells them to each other, as BEP 3 and BEP 23 say.
    let script = "import http.server as h, urllib.parse as u, ipaddress, collections\n\
        peers = collections.defaultdict(set)\n\
        class H(h.BaseHTTPRequestHandler):\n    \
            def do_GET(self):\n        \
                q = u.parse_qs(u.urlparse(self.path).query, encoding='latin-1')\n        \
                me = ipaddress.ip_address(self.client_address[0]).packed + int(q['port'][0]).to_bytes(2, 'big')\n        \
                hash = q['info_hash'][0]; peers[hash].add(me)\n        \
                all = b''.join(peers[hash])\n        \
                body = b'd8:intervali60e5:peers%d:%se' % (len(all), all)\n        \
                self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()\n        \
                self.wfile.write(body)\n        \
                print('announced', self.client_address[0], flush=True)\n\
        s = h.ThreadingHTTPServer(('', 8000), H); print('serving', flush=True); s.serve_forever()";
    let tracker_process = Proc::spawn(tracker.command("/usr/bin/python3").args(["-c", script]));
    tracker_process.wait_for_line("serving", PATIENCE);
    for host in [&a, &b] {
        host.configure(&format!(
            "  lan_discovery: false\n  dht_enabled: false\n  trackers: ['http://{}:8000/announce']\n",
            tracker.addr()
        ));
    }
    let shared = share(&a, &wordllama(), NAME, &[]);
    tracker_process.wait_for_line(&format!("announced {}", a.addr()), Duration::from_secs(30));
    import(&b, &shared.manifest);
    let mounted = b.mount(&[]);
    assert_eq!(hashes(&mounted.path(NAME), PATIENCE), hashes(&wordllama(), PATIENCE));
}
