"""Safetensors files of random data, and programs that read them as loaders do."""
import json
import os
import struct

MIB = 1 << 20
BF16 = 2


def write_shard(path, tensors):
    """Writes a file with tensors ({name: bytes}), laid out in the given order."""
    header, at = {}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "BF16", "shape": [size // BF16], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for size in tensors.values():
            for start in range(0, size, MIB):
                file.write(os.urandom(min(MIB, size - start)))


def layers(count):
    """The tensors of a decoder with `count` layers, about 21 MiB each, in the order in which they are saved."""
    tensors = {"model.embed_tokens.weight": 64 * MIB}
    for layer in range(count):
        for part, size in (("input_layernorm", 8192), ("mlp.down_proj", 4 * MIB), ("mlp.gate_proj", 4 * MIB),
                           ("mlp.up_proj", 4 * MIB), ("post_attention_layernorm", 8192), ("self_attn.k_proj", 2 * MIB),
                           ("self_attn.o_proj", 3 * MIB), ("self_attn.q_proj", 3 * MIB), ("self_attn.v_proj", 2 * MIB)):
            tensors[f"model.layers.{layer}.{part}.weight"] = size
    tensors["model.norm.weight"] = 8192
    return tensors


# Loads as transformers does with dtype=bfloat16: the header of each shard is read, each shard is mapped twice, and four
# threads copy the tensors in the natural order of their names, which is not the order of the file. Prints the SHA-256 of
# all tensors in that order.
LOAD = """
import hashlib, json, mmap, struct, sys
from concurrent.futures import ThreadPoolExecutor
where = {}
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
        first = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
        second = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
        second.madvise(mmap.MADV_SEQUENTIAL)
    for name, tensor in header.items():
        where[name] = second, 8 + length + tensor["data_offsets"][0], 8 + length + tensor["data_offsets"][1]
def natural(name):
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]
names = sorted(where, key=natural)
def tensor(name):
    mapped, start, end = where[name]
    return hashlib.sha256(mapped[start:end]).digest()
with ThreadPoolExecutor(4) as threads:
    print(hashlib.sha256(b"".join(threads.map(tensor, names))).hexdigest())
"""
