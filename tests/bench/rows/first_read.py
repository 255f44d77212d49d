"""Reads of 4 KiB at untouched offsets, each in another piece of 4 MiB, next to HTTP range requests to nginx."""
import sys
from pathlib import Path

from lab import finish
from report import Measure
from rows._web import serve_with_nginx

NAME = "first-read"
ROUNDS = 5
MODEL = "bench/first-read"
SIZE = 128 << 20
MEASURES = [
    Measure("100 Mbit/s: p50", "ms", at_most=25),
    Measure("100 Mbit/s: p99", "ms"),
    Measure("100 Mbit/s: received per read", "MiB", at_most=0.25),
    Measure("100 Mbit/s: p50 of a page fault", "ms"),
    Measure("100 Mbit/s: received per page fault", "MiB"),
    Measure("100 Mbit/s: p50 of nginx", "ms"),
    Measure("1 Gbit/s: p50", "ms", at_most=6),
    Measure("1 Gbit/s: p99", "ms"),
    Measure("1 Gbit/s: received per read", "MiB", at_most=0.25),
    Measure("1 Gbit/s: p50 of a page fault", "ms"),
    Measure("1 Gbit/s: received per page fault", "MiB"),
    Measure("1 Gbit/s: p50 of nginx", "ms"),
]

def measure(lab):
    measured = {}
    for link, mbit in (("100 Mbit/s", 100), ("1 Gbit/s", 1000)):
        seed = lab.host(f"seed{mbit}", mbit)
        manifest, directory = lab.share(seed, MODEL, {"model.bin": SIZE})
        url = serve_with_nginx(seed, directory)
        reader = lab.host(f"reader{mbit}", mbit)
        reader.silmaril("registry", "import", manifest)
        mounted = reader.mount("--peer", seed.peer) / MODEL / "model.bin"
        original = directory / "model.bin"

        def small_reads(way, where):
            found = finish(reader.start(sys.executable, Path(__file__).parent / "_small_reads.py", original, way, where))
            return [float(figure) for figure in found.split()]

        p50, p99, per_read = small_reads("read", mounted)
        measured |= {f"{link}: p50": p50, f"{link}: p99": p99, f"{link}: received per read": per_read}
        p50, _, per_fault = small_reads("fault", mounted)
        measured |= {f"{link}: p50 of a page fault": p50, f"{link}: received per page fault": per_fault}
        measured[f"{link}: p50 of nginx"] = small_reads("http", f"{url}/model.bin")[0]
    return measured
