"""Sharing a directory of large files, next to the SHA-256 of the same files on all cores."""
import os

from lab import finish, seconds
from report import Measure

NAME = "share"
ROUNDS = 5
MEASURES = [
    Measure("share ÷ sha256sum on all cores"),
    Measure("share of 200 files of 64 KiB ÷ sha256sum on all cores"),
]


def measure(lab):
    host = lab.host("origin")
    cores = os.cpu_count()
    # Starts the daemon, which is not part of the measurement.
    lab.share(host, "bench/first", {"notes.txt": 10})
    result = {}
    for measured, count, size in zip(MEASURES, (2 * cores, 200), (256 << 20, 64 << 10), strict=True):
        directory = host.home / f"files-{count}"
        directory.mkdir()
        for number in range(count):
            with open(directory / f"part-{number:03}.bin", "wb") as file:
                for _ in range(max(size >> 20, 1)):
                    file.write(os.urandom(min(size, 1 << 20)))
        files = sorted(directory.iterdir())

        def summed(files=files):
            for process in [host.start("sha256sum", *files[core::cores]) for core in range(cores)]:
                finish(process)

        summed()  # Both find the files in the page cache.
        plain = seconds(summed)
        shared = seconds(lambda count=count, directory=directory: host.silmaril(
            "share", f"{directory}/", "--name", f"bench/files-{count}", "--license", "mit", "--skip-dht"))
        result[measured.name] = shared / plain
    return result
