"""Small reads at untouched offsets: _small_reads.py ORIGINAL (read|fault|http) WHERE. Prints the median and the 99th
percentile of their times in milliseconds, and the MiB that this host received per read."""
import http.client
import mmap
import os
import random
import sys
import time
import urllib.parse
from pathlib import Path

PIECE = 4 << 20
LENGTH = 4096

original, way, where = sys.argv[1:4]
source = os.open(original, os.O_RDONLY)
size = os.fstat(source).st_size

if way == "http":
    url = urllib.parse.urlsplit(where)
    connection = http.client.HTTPConnection(url.hostname, url.port)

    def read(offset):
        connection.request("GET", url.path, headers={"Range": f"bytes={offset}-{offset + LENGTH - 1}"})
        return connection.getresponse().read()

else:
    file = os.open(where, os.O_RDONLY)
    mapped = mmap.mmap(file, size, prot=mmap.PROT_READ)

    def read(offset):
        return mapped[offset : offset + LENGTH] if way == "fault" else os.pread(file, LENGTH, offset)


def received():
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("eth0:"))
    return int(line.split(":")[1].split()[0])


# Reads and page faults are measured in different pieces, so that each of them is the first access to its piece.
pieces = range(2 if way == "fault" else 1, size // PIECE, 2)
generator = random.Random(7)
read(0)  # The connection is not part of the measurement.
times, before = [], received()
for piece in generator.sample(pieces, min(24, len(pieces))):
    # The kernel reads ahead around a page fault, here within the piece.
    offset = piece * PIECE + generator.randrange(PIECE // 4 // LENGTH, PIECE * 3 // 4 // LENGTH) * LENGTH
    start = time.perf_counter()
    found = read(offset)
    times.append((time.perf_counter() - start) * 1000)
    if found != os.pread(source, LENGTH, offset):
        sys.exit(f"error: wrong bytes at {offset}")
times.sort()
count = len(times)
print(times[count // 2], times[min(count - 1, count * 99 // 100)], (received() - before) / count / (1 << 20))
