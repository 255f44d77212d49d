"""Many hosts read one model at the same time, each over a link of 200 Mbit/s, from one origin."""
import threading
import time
from statistics import median

from lab import digest, seconds
from report import Measure

NAME = "fan-out"
ROUNDS = 5
MODEL = "bench/fan-out"
SIZE = 100 << 20
MBIT = 200
HOSTS = 8
JOINING = 16
# Seconds between two hosts that join one after another.
PAUSE = 1
# A host that takes this many times as long as the median of the hosts next to it is starved.
STARVED = 2
MEASURES = [
    Measure("8 mounts: time ÷ one host", at_most=1.4),
    Measure("8 mounts: origin's bytes ÷ model", at_most=1.5),
    Measure("8 gets: time ÷ one host", at_most=1.3),
    Measure("8 gets: origin's bytes ÷ model", at_most=1.3),
    Measure("16 mounts that join: slowest ÷ one host"),
    Measure("16 mounts that join: origin's bytes ÷ model"),
]


def measure(lab):
    origin = lab.host("origin", MBIT)
    manifest, directory = lab.share(origin, MODEL, {"model.bin": SIZE})
    expected = digest(directory / "model.bin")

    def hosts(count, prefix):
        made = [lab.host(f"{prefix}{number}", MBIT) for number in range(count)]
        for host in made:
            host.silmaril("registry", "import", manifest)
        return made

    def cat(host):
        file = host.home / "models" / MODEL / "model.bin"
        host.run("cat", file, output=False)
        return file

    def get(host):
        host.silmaril("get", MODEL, "-o", "got", "--peer", origin.peer)
        return got(host)

    def got(host):
        return next((host.home / "got").rglob("model.bin"))

    def together(readers, read, pause=0.0):
        """The seconds that each host takes, from its own start and from the first start, and the origin's bytes."""
        own, whole, faults = {}, {}, []
        before, start = origin.sent(), time.monotonic()

        def one(number, host):
            time.sleep(max(0, start + number * pause - time.monotonic()))
            try:
                own[host.name] = seconds(lambda: read(host))
                whole[host.name] = time.monotonic() - start
            except Exception as error:
                faults.append(f"{host.name}: {error}")

        threads = [threading.Thread(target=one, args=pair) for pair in enumerate(readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sent = origin.sent() - before
        if faults:
            raise RuntimeError("; ".join(faults))
        for host in readers:
            if digest(cat(host) if read is cat else got(host)) != expected:
                raise RuntimeError(f"{host.name} read wrong bytes")
        if max(own.values()) > STARVED * median(own.values()) and not pause:
            raise RuntimeError(f"a host was starved: {sorted(own.values())} s")
        for host in readers:
            lab.remove(host)
        return max(own.values()), max(whole.values()), sent / SIZE

    def mounted(count, prefix, pause=0.0):
        readers = hosts(count, prefix)
        for host in readers:
            host.mount("--peer", origin.peer)
        return together(readers, cat, pause)

    cat_alone, _, _ = mounted(1, "alone")
    _, cats, cats_sent = mounted(HOSTS, "mount")
    get_alone, _, _ = together(hosts(1, "single"), get)
    _, gets, gets_sent = together(hosts(HOSTS, "get"), get)
    slowest, _, joined_sent = mounted(JOINING, "join", PAUSE)
    return {
        "8 mounts: time ÷ one host": cats / cat_alone,
        "8 mounts: origin's bytes ÷ model": cats_sent,
        "8 gets: time ÷ one host": gets / get_alone,
        "8 gets: origin's bytes ÷ model": gets_sent,
        "16 mounts that join: slowest ÷ one host": slowest / cat_alone,
        "16 mounts that join: origin's bytes ÷ model": joined_sent,
    }
