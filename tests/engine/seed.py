"""A stock libtorrent with default settings, for interoperability: seeds one torrent, or leeches it.

usage: seed.py seed TORRENT SAVE_PATH LISTEN_PORT  prints the port it listens on, runs until stdin closes
       seed.py leech TORRENT SAVE_PATH PEER_PORT   prints "done" when it has everything
"""

import sys
import time

import libtorrent as lt

mode, torrent, save_path, port = sys.argv[1:5]
session = lt.session({
    "listen_interfaces": "127.0.0.1:" + (port if mode == "seed" else "0"),
    "dht_bootstrap_nodes": "",
    "enable_upnp": False,
    "enable_natpmp": False,
    "alert_mask": lt.alert.category_t.all_categories,
})
params = lt.add_torrent_params()
params.ti = lt.torrent_info(torrent)
params.save_path = save_path
if mode == "seed":
    params.flags |= lt.torrent_flags.seed_mode
handle = session.add_torrent(params)

if mode == "seed":
    while session.listen_port() == 0:
        time.sleep(0.01)
    print(session.listen_port(), flush=True)
    sys.stdin.read()
else:
    handle.connect_peer(("127.0.0.1", int(port)))
    while not handle.status().is_seeding:
        session.wait_for_alert(100)
        session.pop_alerts()
    # "Seeding" means that all hashes were right, not that all bytes are in the files.
    handle.flush_cache()
    while not any(isinstance(alert, lt.cache_flushed_alert) for alert in session.pop_alerts()):
        session.wait_for_alert(100)
    print("done", flush=True)
