//! An HTTP tracker on a host of the test network (BEP 3, BEP 23). It stores peers and returns them to each other.

use super::host::Host;
use super::process::{PATIENCE, Proc};

const SCRIPT: &str = "import http.server as h, urllib.parse as u, ipaddress, collections\n\
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

/// Starts the tracker. It prints `announced ADDRESS` for each announcement.
pub fn start(host: &Host) -> Proc {
    let process = Proc::spawn(host.command("/usr/bin/python3").args(["-c", SCRIPT]));
    process.wait_for_line("serving", PATIENCE);
    process
}

/// Lines for [`Host::configure`] that make the tracker of this host the only source of peers.
pub fn configuration(host: &Host) -> String {
    format!(
        "  lan_discovery: false\n  dht_enabled: false\n  trackers: ['http://{}:8000/announce']\n",
        host.addr()
    )
}
