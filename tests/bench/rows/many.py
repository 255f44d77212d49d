"""A thousand tiny models in one daemon: sharing them, starting with them, and what they cost while nothing happens."""
import json
import time

from lab import seconds
from report import Measure

NAME = "many"
ROUNDS = 3
MODELS = 1000
MEASURES = [
    Measure("share --all of 1 000 models", "s"),
    Measure("start of the daemon until all are seeded", "s"),
    Measure("CPU while idle", "% of a core"),
    Measure("memory", "MiB"),
]


def measure(lab):
    host = lab.host("origin")
    host.silmaril("init")
    for number in range(MODELS):
        directory = host.home / f".silmaril/models/bench/tiny-{number:04}"
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps({"model_type": "tiny", "number": number}))
        (directory / "README.md").write_text("---\nlicense: mit\n---\n")
    # A directory counts as whole when nothing changed in it for ten seconds.
    time.sleep(11)
    shared = seconds(lambda: host.silmaril("share", "--all", "--skip-dht"))
    host.silmaril("stop")

    def started():
        host.start("silmaril", "daemon").wait(timeout=120)
        deadline = time.monotonic() + 300
        while seeded(host) < MODELS:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{seeded(host)} of {MODELS} models are seeded after 300 s")
            time.sleep(0.1)

    start = seconds(started)
    time.sleep(5)
    before, span = host.cpu(), 20
    time.sleep(span)
    return {
        "share --all of 1 000 models": shared,
        "start of the daemon until all are seeded": start,
        "CPU while idle": (host.cpu() - before) / span * 100,
        "memory": host.peak_memory(),
    }


def seeded(host):
    """How many models the daemon seeds."""
    transfers = json.loads(host.silmaril("status", "--json"))["transfers"]
    return sum(one["cached_bytes"] == one["total_size"] for one in transfers)
