"""A registry of very many models: how soon the mount is ready, and what `ls -lR` and single names cost."""
import json
import time

from lab import seconds
from report import Measure

NAME = "tree"
ROUNDS = 3
MEASURES = [
    Measure("10 000 models: mount ready", "s", at_most=1),
    Measure("10 000 models: ls -lR", "s", at_most=3),
    Measure("100 000 models: mount ready", "s"),
    Measure("100 000 models: ls of all organisations", "s"),
    Measure("100 000 models: stat of a file", "ms"),
    Measure("100 000 models: memory", "MiB"),
]
FILES = {"config.json": 600, "vocab.txt": 4096, "tokenizer.json": 2048}


def measure(lab):
    origin = lab.host("origin")
    # The torrent depends on the last component of the name, so 100 of them are real models of one organisation.
    manifests = [json.loads(lab.share(origin, f"bench/tiny-{number:02}", FILES)[0].read_text()) for number in range(100)]
    for manifest in manifests:
        # The signature covers the whole name. A manifest without a signature is accepted from one's own registry.
        manifest.pop("publisher", None), manifest.pop("signature", None)
    result = {}
    for models in (10_000, 100_000):
        reader = lab.host(f"reader{models}")
        for number in range(models):
            manifest = manifests[number % 100]
            manifest["name"] = f"org-{number // 100:04}/tiny-{number % 100:02}"
            file = reader.home / f".silmaril/registry/{manifest['name']}/{manifest['version']}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(manifest))
        reader.run("chmod", "700", reader.home / ".silmaril")
        ready = seconds(lambda: reader.mount())
        mount = reader.home / "models"
        label = f"{models // 1000} 000 models: "
        result[label + "mount ready"] = ready
        if models == 10_000:
            result[label + "ls -lR"] = seconds(lambda: check_listing(reader, mount, models))
        else:
            result[label + "ls of all organisations"] = seconds(lambda: reader.run("ls", mount, output=False))
            paths = [mount / f"org-{number:04}/tiny-07/config.json" for number in range(0, 1000, 7)]
            start = time.monotonic()
            for path in paths:
                path.stat()
            result[label + "stat of a file"] = (time.monotonic() - start) / len(paths) * 1000
            result[label + "memory"] = reader.peak_memory()
        lab.remove(reader)
    return result


def check_listing(reader, mount, models):
    names = reader.run("ls", "-lR", mount).count("config.json")
    if names < models:
        raise RuntimeError(f"ls -lR showed {names} of {models} models")
