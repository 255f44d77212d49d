"""A file of 1 GiB that no host but its publisher has: `cat` through a mount and `get`, next to web downloads."""
from lab import digest, drop_page_cache, seconds
from report import Measure
from rows._web import serve_with_nginx, mount_with_rclone

NAME = "cold"
ROUNDS = 5
MODEL = "bench/cold"
GIB = 1 << 30
MEASURES = [
    Measure("cat ÷ get", at_least=0.9),
    Measure("get ÷ curl from nginx", at_least=0.6),
    Measure("cat ÷ rclone mount of nginx", at_least=1.6),
    Measure("get without SHA-256 ÷ curl from nginx"),
    Measure("CPU of the reader, mount", "s/GiB", at_most=2.6),
    Measure("CPU of the reader, get", "s/GiB", at_most=2.8),
    Measure("CPU of the sender, mount", "s/GiB"),
    Measure("largest memory of the reader, mount", "MiB", at_most=300),
]


def measure(lab):
    origin = lab.host("origin")
    manifest, directory = lab.share(origin, MODEL, {"model.bin": GIB})
    source = directory / "model.bin"
    expected = digest(source)
    url = serve_with_nginx(origin, directory)

    def got(name, *options):
        host = lab.host(name)
        host.silmaril("registry", "import", manifest)
        drop_page_cache()
        source.read_bytes()
        taken = seconds(lambda: host.silmaril("get", MODEL, *options, "--peer", origin.peer))
        cpu = host.cpu()
        lab.remove(host)
        return taken, cpu

    get, get_cpu = got("get", "--seed=true")
    unchecked, _ = got("unchecked", "--no-verify")

    reader = lab.host("reader")
    reader.silmaril("registry", "import", manifest)
    file = reader.mount("--peer", origin.peer) / MODEL / "model.bin"
    before = reader.cpu(), origin.cpu()
    cat = seconds(lambda: reader.run("cat", file, output=False))
    reader_cpu, sender_cpu = reader.cpu() - before[0], origin.cpu() - before[1]
    memory = reader.peak_memory()
    if digest(file) != expected:
        raise RuntimeError("the mount returned wrong bytes")
    lab.remove(reader)

    web = lab.host("web")
    curl = seconds(lambda: web.run("curl", "-sf", "-o", "model.bin", f"{url}/model.bin"))
    mounted = mount_with_rclone(web, url)
    rclone = seconds(lambda: web.run("cat", mounted / "model.bin", output=False))
    return {
        "cat ÷ get": get / cat,
        "get ÷ curl from nginx": curl / get,
        "get without SHA-256 ÷ curl from nginx": curl / unchecked,
        "cat ÷ rclone mount of nginx": rclone / cat,
        "CPU of the reader, mount": reader_cpu,
        "CPU of the reader, get": get_cpu,
        "CPU of the sender, mount": sender_cpu,
        "largest memory of the reader, mount": memory,
    }
