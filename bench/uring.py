#!/usr/bin/env python3
"""What registered files and buffers of io_uring save here: `./dev bench uring [--runs N] [--record]`.

fio reads 4 KiB with O_DIRECT, 32 requests at a time, from a file on the host: with nothing registered, with
the file, the buffers, and both. The variants run alternately; processor time is what the kernel counted for fio. It is the
most that an image tool or a guest's disk could gain from registering, and why neither does (docs/block.md).
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]
import run as bench  # noqa: E402

VARIANTS = {"nothing": [], "the file": ["--registerfiles"], "the buffers": ["--fixedbufs"],
            "both": ["--registerfiles", "--fixedbufs"]}


def run(path, requests, words):
    """(processor seconds, requests per second)"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(
        ["fio", "--name=reads", f"--filename={path}", "--bs=4k", "--rw=randread", "--norandommap", "--direct=1", "--thread",
         "--ioengine=io_uring", "--iodepth=32", "--size=1g", f"--io_size={requests * 4}k", "--output-format=json", *words],
        check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    reads = json.loads(process.stdout[process.stdout.index("{"):])["jobs"][0]["read"]
    if reads["total_ios"] != requests:
        raise SystemExit(f"fio made {reads['total_ios']} requests of {requests}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, reads["iops"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--requests", type=int, default=150000)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the file lies (default: a temporary folder)")
    options = parser.parse_args()
    results = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory(prefix="ostler-bench-", dir=options.folder) as folder:
        path = Path(folder) / "file"
        with open(path, "wb") as file:
            for _ in range(1024):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
        start = statistics.median(run(path, 1, [])[0] for _ in range(5))
        for _ in range(options.runs):
            for name, words in VARIANTS.items():
                results[name].append(run(path, options.requests, words))
    text = (f"`./dev bench uring`, {options.requests} reads of 4 KiB, O_DIRECT, depth 32, medians of {options.runs}, fio's start "
            "subtracted\n\n"
            "| registered | processor µs per request | least | requests/s |\n| --- | ---: | ---: | ---: |\n")
    for name, runs in results.items():
        cost = [(seconds - start) / options.requests * 1e6 for seconds, _ in runs]
        text += f"| {name} | {statistics.median(cost):.2f} | {min(cost):.2f} | {statistics.median(each for _, each in runs):.0f} |\n"
    print(text)
    if options.record:
        bench.record(text.rstrip())


if __name__ == "__main__":
    main()
