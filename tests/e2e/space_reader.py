"""Reads random parts of a file for some time and compares them with the expected bytes.

Arguments: FILE EXPECTED SEED SECONDS. Prints the number of reads. Exits with an error at the first wrong
byte or failed read."""

import os
import random
import sys
import time

file, expected, seed, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
chance = random.Random(seed)
source = os.open(expected, os.O_RDONLY)
size = os.fstat(source).st_size
until = time.monotonic() + seconds
reads = 0
while time.monotonic() < until:
    handle = os.open(file, os.O_RDONLY)
    for _ in range(chance.randint(1, 8)):
        # Drops the page cache of the file, so that each read reaches the daemon.
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        at = chance.choice([0, chance.randrange(size), size - 1])
        step = chance.choice([1, 4096, 1 << 17, 1 << 20])
        for _ in range(chance.randint(1, 24)):
            got, want = os.pread(handle, step, at), os.pread(source, step, at)
            if got != want:
                wrong = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
                sys.exit(f"wrong byte at {at + wrong}: {len(got)} bytes of {len(want)}")
            reads += 1
            at += step
            if at >= size or time.monotonic() >= until:
                break
    os.close(handle)
print(reads)
