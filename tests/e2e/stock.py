"""A stock libtorrent with default settings, as a foreign client.

usage: stock.py leech TORRENT|MAGNET SAVE_PATH   prints "done" when it has everything
       stock.py seed TORRENT SAVE_PATH           prints "seeding", runs until it is killed
Peers come from the trackers of the torrent alone.
"""

import sys
import time

import libtorrent as lt

mode, source, save_path = sys.argv[1:4]
session = lt.session({
    "listen_interfaces": "0.0.0.0:6999",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "alert_mask": lt.alert.category_t.all_categories,
})
if source.startswith("magnet:"):
    params = lt.parse_magnet_uri(source)
else:
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(source)
params.save_path = save_path
handle = session.add_torrent(params)
while not handle.status().is_seeding:
    session.wait_for_alert(100)
    session.pop_alerts()
if mode == "seed":
    print("seeding", flush=True)
    time.sleep(3600)
# libtorrent's state "seeding" means that all hashes are right, not that all bytes are in the files.
handle.flush_cache()
while not any(isinstance(alert, lt.cache_flushed_alert) for alert in session.pop_alerts()):
    session.wait_for_alert(100)
print("done", flush=True)
