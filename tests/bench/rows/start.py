"""From the first look at an unknown name to the first byte, on a LAN."""
import time

from report import Measure

NAME = "start"
ROUNDS = 7
MODEL = "bench/start"
MEASURES = [
    Measure("stat of an unknown name", "ms"),
    Measure("first byte after that", "ms"),
    Measure("sum", "ms", at_most=300),
    Measure("stat of an absent name", "ms"),
]


def measure(lab):
    origin = lab.host("origin")
    lab.share(origin, MODEL, {"model.bin": 64 << 20})
    reader = lab.host("reader")
    # The two hosts meet by local discovery. Waiting for that is not part of the measurement: a node runs for days.
    mount = reader.mount()
    deadline = time.monotonic() + 60
    while "bench/start" not in reader.silmaril("discover", "--timeout", "2", "--json"):
        if time.monotonic() > deadline:
            raise RuntimeError("the hosts did not meet within 60 s")
    lab.remove(reader)
    reader = lab.host("second")
    mount = reader.mount("--peer", origin.peer)
    time.sleep(3)

    def timed(action):
        start = time.monotonic()
        try:
            action()
        except FileNotFoundError:
            pass
        return (time.monotonic() - start) * 1000

    found = timed((mount / MODEL).stat)
    with open(mount / MODEL / "model.bin", "rb", buffering=0) as file:
        read = timed(lambda: file.read(1))
    return {
        "stat of an unknown name": found,
        "first byte after that": read,
        "sum": found + read,
        "stat of an absent name": timed((mount / "bench/absent").stat),
    }
