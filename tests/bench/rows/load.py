"""Loading a model as transformers does in bf16, through a mount, next to `get` of the same bytes."""
import json

from lab import seconds
from report import Measure
from rows._tensors import LOAD, layers, write_shard

NAME = "load"
ROUNDS = 5
MEASURES = [
    Measure("get ÷ load, one file", at_least=0.8),
    Measure("get ÷ load, four shards", at_least=0.8),
    Measure("get ÷ load, one file, 200 Mbit/s"),
]
LAYERS = 20


def measure(lab):
    origin = lab.host("origin")
    tensors = layers(LAYERS)
    # As `save_pretrained` shards: in the order of the file, a part of the layers in each shard.
    names = sorted(tensors)
    shards = [{name: tensors[name] for name in names[start::4]} for start in range(4)]
    result = {}
    for label, files, mbit in (("one file", [tensors], None), ("four shards", shards, None),
                               ("one file, 200 Mbit/s", [layers(3)], 200)):
        name = "bench/" + label.replace(" ", "-").replace(",", "").replace("/", "")
        directory = origin.home / name
        directory.mkdir(parents=True)
        paths = [directory / f"model-{number + 1:05}-of-{len(files):05}.safetensors" for number in range(len(files))]
        for path, shard in zip(paths, files, strict=True):
            write_shard(path, shard)
        if len(paths) > 1:
            weights = {tensor: path.name for path, shard in zip(paths, files, strict=True) for tensor in shard}
            (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
        origin.silmaril("share", f"{directory}/", "--name", name, "--license", "mit", "--skip-dht")
        manifest = lab.work / "manifest.json"
        manifest.write_text(origin.silmaril("registry", "export", name))
        expected = origin.run("python3", "-c", LOAD, *paths)

        def reader(kind, manifest=manifest, mbit=mbit):
            host = lab.host(kind, mbit)
            host.silmaril("registry", "import", manifest)
            return host

        host = reader("get")
        got = seconds(lambda host=host, name=name: host.silmaril("get", name, "--peer", origin.peer))
        lab.remove(host)
        host = reader("load")
        mount = host.mount("--peer", origin.peer) / name
        loaded = []
        took = seconds(lambda host=host, mount=mount, paths=paths: loaded.append(
            host.run("python3", "-c", LOAD, *(mount / path.name for path in paths))))
        if loaded != [expected]:
            raise RuntimeError(f"{label}: the mount returned wrong bytes")
        lab.remove(host)
        result[f"get ÷ load, {label}"] = got / took
    return result
