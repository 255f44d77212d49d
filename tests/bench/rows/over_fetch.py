"""How many bytes cross the network for a part of a model, next to the bytes that the program wants."""
import json
import random
import struct

from report import Measure
from rows._tensors import MIB, layers, write_shard

NAME = "over-fetch"
ROUNDS = 3
MODEL = "bench/over-fetch"
MEASURES = [
    Measure("header: received", "MiB"),
    Measure("one tensor of 4 MiB: received ÷ wanted"),
    Measure("ten random tensors: received ÷ wanted"),
    Measure("ten rows of 4 KiB in one tensor of 64 MiB: received", "MiB"),
]
# Reads ranges START-END of a file through a mapping.
READ = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    for part in sys.argv[2:]:
        start, end = map(int, part.split("-"))
        sys.stdout.buffer.write(mapped[start:end])
"""
# Reads the header as safetensors does.
HEADER = """
import mmap, struct, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    length = struct.unpack("<Q", mapped[:8])[0]
    sys.stdout.buffer.write(mapped[:8 + length])
"""


def measure(lab):
    origin = lab.host("origin")
    directory = origin.home / MODEL
    directory.mkdir(parents=True)
    source = directory / "model.safetensors"
    write_shard(source, layers(16))
    origin.silmaril("share", f"{directory}/", "--name", MODEL, "--license", "mit", "--skip-dht")
    manifest = lab.work / "manifest.json"
    manifest.write_text(origin.silmaril("registry", "export", MODEL))

    with open(source, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
    base = 8 + length
    tensors = [[base + offset for offset in tensor["data_offsets"]] for tensor in header.values()]
    large = next(tensor for tensor in tensors if tensor[1] - tensor[0] == 64 * MIB)
    one = next(tensor for tensor in tensors if tensor[1] - tensor[0] == 4 * MIB)
    # The same choice in each round and on each machine.
    chosen = random.Random(1)
    ten = chosen.sample(tensors, 10)
    rows = [[start, start + 4096] for start in (large[0] + 4096 * chosen.randrange(64 * MIB // 4096) for _ in range(10))]

    def received(kind, program, ranges):
        host = lab.host(kind)
        host.silmaril("registry", "import", manifest)
        file = host.mount("--peer", origin.peer) / MODEL / "model.safetensors"
        before = host.received()
        host.run("python3", "-c", program, file, *(f"{start}-{end}" for start, end in ranges), output=False)
        bytes_received = host.received() - before
        lab.remove(host)
        return bytes_received

    def ratio(kind, ranges):
        return received(kind, READ, ranges) / sum(end - start for start, end in ranges)

    return {
        "header: received": received("header", HEADER, []) / MIB,
        "one tensor of 4 MiB: received ÷ wanted": ratio("one", [one]),
        "ten random tensors: received ÷ wanted": ratio("ten", ten),
        "ten rows of 4 KiB in one tensor of 64 MiB: received": received("rows", READ, rows) / MIB,
    }
