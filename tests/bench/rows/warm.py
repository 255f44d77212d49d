"""Reads of a file that is cached as a whole, next to reads of the same bytes without a mount."""
from lab import digest, seconds
from report import Measure

NAME = "warm"
ROUNDS = 5
MODEL = "bench/warm"
MEASURES = [
    Measure("dd of the file ÷ dd through the mount", at_least=0.95),
    Measure("mmap of the file ÷ mmap through the mount"),
]
# Reads each page of a mapping.
TOUCH = "import mmap,sys; f=open(sys.argv[1],'rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ); sum(m[::4096])"


def measure(lab):
    origin = lab.host("origin")
    manifest, directory = lab.share(origin, MODEL, {"model.bin": 1 << 30})
    source = directory / "model.bin"
    reader = lab.host("reader")
    reader.silmaril("registry", "import", manifest)
    file = reader.mount("--peer", origin.peer) / MODEL / "model.bin"
    if digest(file) != digest(source):
        raise RuntimeError("the mount returned wrong bytes")
    ratios = {}
    for measured, program in zip(MEASURES, (["dd", "bs=1M", "status=none", "if={}"], ["python3", "-c", TOUCH, "{}"]), strict=True):
        def read(path, program=program):
            reader.run(*(argument.format(path) for argument in program), output=False)
        read(file), read(source)
        # One after another several times, so that both meet the same state of the machine.
        pairs = [(seconds(lambda: read(source)), seconds(lambda: read(file))) for _ in range(5)]
        ratios[measured.name] = min(a for a, _ in pairs) / min(b for _, b in pairs)
    return ratios
