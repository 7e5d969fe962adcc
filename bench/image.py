#!/usr/bin/env python3
"""ostler-img beside qemu-img: `./dev bench image [--quick] [--runs N] [--record]`.

Converts a half-full image (4 GiB, with --quick 256 MiB) in three ways; sends scattered requests of 4 KiB, 32 at a time, to
qcow2 images with O_DIRECT, in place (whose tables are in memory, or must be read for each) and to new clusters; opens a chain
of 64 images of 16 TiB. The two programs run alternately; the figures are medians, of conversions and openings of 11 runs or
more. --record appends to bench/RESULTS.md.
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]
import run as bench  # noqa: E402
MIB = 1 << 20
THEIRS = "qemu-img"


def make_image(path, size):
    """Half data, half holes, in runs of 1 to 32 MiB; half of the data compresses well."""
    random.seed(7)
    noise, text = random.randbytes(MIB), (b"all work and no play " * 60000)[:MIB]
    with open(path, "wb") as file:
        file.truncate(size)
        at = 0
        while at < size:
            run = min(random.randint(1, 32) * MIB, size - at)
            file.seek(at)
            for i in range(run // MIB):
                file.write(noise if i % 2 else text)
            at += 2 * run


def run(arguments):
    """(seconds, processor seconds, peak MiB, output)"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, errors = process.communicate()
    seconds = time.monotonic() - begin
    if process.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: {errors}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output


def peak_mib(arguments):
    """Resident memory of one run: VmHWM of a process of its own, so that no larger one before it counts."""
    code = ("import resource,subprocess,sys;subprocess.run(sys.argv[1:],check=True,stdout=subprocess.DEVNULL);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss//1024)")
    return int(subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True,
                              text=True).stdout)


def conversions(folder):
    raw, qcow2, out = folder / "source.raw", folder / "source.qcow2", folder / "out"
    yield "raw → qcow2", 1.5, ["convert", "-f", "raw", "-O", "qcow2", raw, out]
    yield "qcow2 → raw", 1.5, ["convert", "-f", "qcow2", "-O", "raw", qcow2, out]
    yield "qcow2 → qcow2, zstd, -m 8 -W", 1.8, ["convert", "-c", "-m", "8", "-W", "-f", "qcow2", "-O", "qcow2", "-o",
                                                "compression_type=zstd", qcow2, out]


def measure(program, words, out, size):
    Path(out).unlink(missing_ok=True)
    os.sync()  # or what is left of the run before is written to the disk during this one
    warm(Path(out).with_name("warm"), size)
    return run([program, *words])


def warm(path, size):
    """Page cache that was just given back: where an outer host must supply memory first, it decides over all else, and
    otherwise it would be there for one program and not for the other."""
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(bytes(MIB))
    path.unlink()


def compare(ours, folder, runs):
    rows = []
    for name, goal, words in conversions(folder):
        times = {ours: [], THEIRS: []}
        # They take a second, and a host that gives the pages of the new file late makes it three.
        for _ in range(max(runs, 11)):
            for program in times:
                times[program].append(measure(program, words, words[-1], (folder / "source.raw").stat().st_size // 2)[0])
        check = subprocess.run([THEIRS, "compare", "-f", "raw", "-F", words[words.index("-O") + 1], folder / "source.raw",
                                folder / "out"], capture_output=True, text=True, check=False)
        if check.returncode:
            sys.exit(f"{name}: {check.stdout}{check.stderr}")
        Path(words[-1]).unlink()
        mine, other = (statistics.median(times[each]) for each in (ours, THEIRS))
        rows.append((f"convert {name}", f"{mine:.2f} s", f"{other:.2f} s", other / mine, f"≥ {goal}", other / mine >= goal,
                     peak_mib([ours, *words])))
    return rows + requests(ours, folder, runs, (folder / "source.raw").stat().st_size) + [opening(ours, folder, runs)]


def requests(ours, folder, runs, size):
    """Processor time of scattered requests: what a request costs, whatever the host's disk is."""
    rows = []
    full, fresh, wide = folder / "full.qcow2", folder / "fresh.qcow2", folder / "wide.qcow2"
    subprocess.run([THEIRS, "create", "-q", "-f", "qcow2", "-o", "preallocation=full", full, str(size)], check=True)
    # A 4 KiB page of an L2 table is for 32 MiB of the disk: here each request is the only one of its page.
    page, pages = 512 * 65536, size * 128 // (512 * 65536)
    subprocess.run([THEIRS, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", wide, str(pages * page)], check=True)
    count, allocations = 100000, min(50000, size // 65536 - 1)
    for name, goal, words in (
            (f"{count} scattered reads of 4 KiB, metadata warm", 1.5, ["-c", str(count), "-S", str(7919 * 4096), folder / "source.qcow2"]),
            (f"{pages} scattered reads of 4 KiB, metadata cold", 1.5, ["-c", str(pages), "-S", str(63 * page), wide]),
            (f"{count} scattered writes of 4 KiB in place, metadata warm", 1.5, ["-w", "-c", str(count), "-S", str(7919 * 4096), full]),
            (f"{pages} scattered writes of 4 KiB in place, metadata cold", 1.5, ["-w", "-c", str(pages), "-S", str(63 * page), wide]),
            (f"{allocations} writes of 4 KiB, each to a new cluster", 2, ["-w", "-c", str(allocations), "-S", str(7919 * 65536), fresh])):
        words = ["bench", "-f", "qcow2", "-t", "none", "-d", "32", "-s", "4096", *words]
        cost = {ours: [], THEIRS: []}
        if words[-1] == wide and "-w" in words:
            run([THEIRS, *words])  # the host's file gets its blocks once, whoever writes first
        for _ in range(runs):
            for program in cost:
                subprocess.run([THEIRS, "create", "-q", "-f", "qcow2", fresh, str(size)], check=True)
                cost[program].append(run([program, *words])[1])
        check = subprocess.run([THEIRS, "check", words[-1]], capture_output=True, text=True, check=False)
        if check.returncode:
            sys.exit(f"{name}: {check.stdout}{check.stderr}")
        mine, other = (statistics.median(cost[program]) for program in (ours, THEIRS))
        rows.append((f"bench: {name}, qcow2, depth 32, cache=none, processor time", f"{mine:.2f} s", f"{other:.2f} s",
                     other / mine, f"≥ {goal}", other / mine >= goal, peak_mib([ours, *words])))
    return rows


def opening(ours, folder, runs):
    """What a program takes to open the chain and look at its first cluster, without its own start."""
    for i in range(64):
        words = ["-b", f"{i - 1}.qcow2", "-F", "qcow2"] if i else []
        subprocess.run([THEIRS, "create", "-q", "-f", "qcow2", *words, folder / f"{i}.qcow2", "16T"], check=True)
    words = ["map", "--max-length=64k", "-f", "qcow2", folder / "63.qcow2"]
    times = {ours: [], THEIRS: []}
    for _ in range(max(runs, 11)):
        for program, each in times.items():
            each.append(run([program, *words])[0] - run([program, "--version"])[0])
    mine, other = (statistics.median(times[program]) * 1000 for program in (ours, THEIRS))
    peak = peak_mib([ours, *words])
    return ("opening 64 images of 16 TiB, one on the other", f"{mine:.0f} ms", f"{other:.0f} ms", other / mine,
            "≤ 20 ms, ≤ 32 MiB", mine <= 20 and peak <= 32, peak)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256 MiB instead of 4 GiB")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the images lie (default: a temporary folder)")
    options = parser.parse_args()
    program = Path(os.environ.get("OSTLER_PROGRAM", ROOT / "build/bin/ostler")).resolve().parent / "ostler-img"
    if not shutil.which(THEIRS):
        sys.exit("qemu-img is not installed; ./dev setup installs it")
    with tempfile.TemporaryDirectory(prefix="ostler-bench-", dir=options.folder) as name:
        folder = Path(name)
        make_image(folder / "source.raw", (256 if options.quick else 4096) * MIB)
        subprocess.run([THEIRS, "convert", "-O", "qcow2", folder / "source.raw", folder / "source.qcow2"], check=True)
        rows = compare(program, folder, options.runs)
    size = "256 MiB" if options.quick else "4 GiB"
    text = (f"`./dev bench image`, {size} half full, medians of {options.runs}, conversions and openings of {max(options.runs, 11)}\n\n"
            "| figure | ostler-img | qemu-img | qemu-img / ostler-img | goal | resident MiB |\n"
            "| --- | ---: | ---: | ---: | --- | ---: |\n")
    for figure, mine, other, ratio, goal, met, peak in rows:
        missed = "" if met else " **missed**"
        text += f"| {figure} | {mine} | {other} | {ratio:.2f} | {goal}{missed} | {peak} |\n"
    print(text)
    if options.record:
        bench.record(text.rstrip())


if __name__ == "__main__":
    main()
