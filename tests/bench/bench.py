#!/usr/bin/env python3
"""Runs the rows of the benchmark: bench.py SILMARIL [ROW...] [--rounds N] [--output DIR]. Called by `make bench`.

A row measures ratios of two things in the same round on the same machine, so that the machine's speed and its other
work cancel out. Each round has fresh hosts. A row fails if it reads a wrong byte, hangs, or misses a hard limit.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from lab import Lab
from report import table, write_report

HERE = Path(__file__).resolve().parent


def rows():
    """The modules of all rows, by the name of the row."""
    modules = (import_module(f"rows.{file.stem}") for file in sorted((HERE / "rows").glob("[!_]*.py")))
    return {module.NAME: module for module in modules}


def enter_namespaces(arguments):
    """Runs this script again in namespaces of its own. The kernel ends its processes, mounts and networks with it."""
    work = tempfile.mkdtemp(prefix="silmaril-bench.")
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
               sys.executable, __file__, *arguments]
    try:
        return subprocess.run(command, env={**os.environ, "SILMARIL_BENCH_WORK": work}).returncode
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main():
    available = rows()
    parser = argparse.ArgumentParser(description="Measures silmaril in network namespaces of this machine.")
    parser.add_argument("silmaril", type=Path)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all, or some of: {', '.join(available)}")
    parser.add_argument("--rounds", type=int, help="rounds of each row (each row has its own default)")
    parser.add_argument("--output", type=Path, help="also write table.md, results.json and a plot for each row here")
    options = parser.parse_args()
    unknown = [name for name in options.rows if name not in available]
    if unknown:
        parser.error(f"there is no row {unknown[0]}; the rows are: {', '.join(available)}")
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    work = os.environ.get("SILMARIL_BENCH_WORK")
    if work is None:
        return enter_namespaces(sys.argv[1:])

    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    # The counters of the interfaces of this network namespace, not of the one that the machine's /sys belongs to.
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    results, failed = [], False
    for name in options.rows or available:
        row = available[name]
        values = {measure.name: [] for measure in row.MEASURES}
        for number in range(options.rounds or row.ROUNDS):
            print(f"{name}: round {number + 1} of {options.rounds or row.ROUNDS}", file=sys.stderr, flush=True)
            with Lab(Path(work) / f"{name}-{number}", options.silmaril.resolve()) as lab:
                try:
                    measured = row.measure(lab)
                except Exception as error:  # The other rows are measured nevertheless.
                    print(f"error: {name}, round {number + 1}: {error}", file=sys.stderr)
                    failed = True
                    continue
            for measure, value in measured.items():
                values[measure].append(value)
        results.append((row, values))
        # Each row is printed when it is ready, because all rows take a long time.
        print("\n".join(table(results[-1:])), flush=True)
    if options.output:
        write_report(results, options.output)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
