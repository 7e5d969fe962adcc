#!/usr/bin/env python3
"""Measures Ostler beside Debian's qemu-system-x86_64 (-accel tcg) in the same run; `./dev bench` calls it.

    bench/run.py [NAME…] [--runs N] [--record]      NAME: mips, start, boot, memory; all four by default
    bench/run.py engine [NAME…] [--accel NAME]      bench/engine.py: programs in a guest
    bench/run.py image [--quick] [--runs N]         bench/image.py: ostler-img beside qemu-img
    bench/run.py io [NAME…] [--runs N]              bench/io.py: disks and networks of a guest
    bench/run.py uring [--runs N]                   bench/uring.py: what registering with io_uring would save
    bench/run.py mixed [--minutes N] [--cpus N]     bench/mixed_load.py: not a figure but a verdict

The two programs run alternately and the medians are compared, so that a busy machine slows both.
--record appends the table to bench/RESULTS.md with date and commit.
"""

import argparse
import datetime
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]
import steady_memory  # noqa: E402
from guestlib import guests, vmm  # noqa: E402
from guestlib.steps import Failed  # noqa: E402

MIPS_PER_ROUND = 41  # instructions in one round of bench/guest/mips.S
READY_SECONDS = 300


class Freestanding:
    """Runs bench/guest/mips.S and reads what it writes on the serial port."""

    def __init__(self):
        self.kernel = ROOT / "build/bench/mips.elf"
        self.kernel.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-Wl,-N,-Ttext=0x100000,--build-id=none,--no-warn-rwx-segments",
                        ROOT / "bench/guest/mips.S", "-o", self.kernel], check=True)

    def run(self, program, rounds):
        """(seconds from process start to the first byte, seconds between S and E, checksum)"""
        machine = vmm.Machine(kernel=self.kernel, append=str(rounds), memory="64M",
                              extra=["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        arguments = vmm.command(program, machine)
        begin = time.monotonic()
        with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              bufsize=0) as process:
            guard = threading.Timer(READY_SECONDS, process.kill)
            guard.start()
            first = process.stdout.read(1)
            started = time.monotonic()
            text = process.stdout.read(1)
            ended = time.monotonic()
            while not text.endswith(b"\n") and (chunk := process.stdout.read(4096)):
                text += chunk
            guard.cancel()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
            errors = process.stderr.read()
        if first != b"S" or not re.fullmatch(rb"E[0-9a-f]{16}\n", text):
            raise Failed(f"{program} wrote {first + text!r} and said: {errors.decode(errors='replace').strip()}")
        return started - begin, ended - started, text[1:17].decode()


def alternate(programs, runs, measure):
    """Medians of `measure(program)` per program, which run in turn."""
    values = {program: [] for program in programs}
    for _ in range(runs):
        for program in programs:
            values[program].append(measure(program))
    return [statistics.median(values[program]) for program in programs]


def bench_mips(programs, runs):
    guest, rounds = Freestanding(), {}
    for program in programs:  # enough rounds for half a second at least
        rounds[program] = 1_000_000
        while (seconds := guest.run(program, rounds[program])[1]) < 0.3:
            rounds[program] = int(rounds[program] * min(20, max(2, 0.6 / max(seconds, 0.001))))
    sums = {guest.run(program, 100_000)[2] for program in programs}
    if len(sums) != 1:
        raise Failed(f"the programs computed different checksums: {sums}")
    mips = alternate(programs, runs, lambda program:
                     rounds[program] * MIPS_PER_ROUND / guest.run(program, rounds[program])[1] / 1e6)
    yield "integer code", "million instructions/s", *mips, "at least 60"


def bench_start(programs, runs):
    guest = Freestanding()
    seconds = alternate(programs, runs * 3, lambda program: guest.run(program, 0)[0])
    yield "process start to the kernel's first instruction", "ms", *[1e3 * s for s in seconds], "at most 10"


def boot(program, made, scratch, memory="512M"):
    machine = vmm.Machine(kernel=made["kernel"], initrd=made["initrd"], append="console=ttyS0", memory=memory)
    return vmm.Vmm(vmm.command(program, machine), scratch.path / "boot.log")


def bench_boot(programs, runs):
    made = guests.prepare("kernel", "initrd")

    def measure(program):
        with guests.Scratch() as scratch:
            begin = time.monotonic()
            with boot(program, made, scratch) as running:
                running.console.wait_for("ostler-guest: init", READY_SECONDS, "init")
                return time.monotonic() - begin
    yield "process start to init of a busybox initrd", "s", *alternate(programs, runs, measure), "at most 60"


def resident_beyond_ram(pid, ram_bytes):
    """MiB that are resident for the process, without the mappings of guest memory (as large as it, within 1 MiB).
    A memory object that the process maps several times is counted once, by its proportional size."""
    resident, ram, counted = 0, False, "Rss:"
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            size = int(match[2], 16) - int(match[1], 16)
            ram = ram_bytes <= size <= ram_bytes + (1 << 20)
            counted = "Pss:" if "/memfd:" in line else "Rss:"
        elif line.startswith(counted) and not ram:
            resident += int(line.split()[1])
    return resident / 1024


def bench_memory(programs, runs):
    made = guests.prepare("kernel", "initrd")

    def measure(program):
        with guests.Scratch() as scratch, boot(program, made, scratch) as running:
            running.console.wait_for("ostler-guest: ready", READY_SECONDS, "the shell")
            time.sleep(1)
            return resident_beyond_ram(running.process.pid, 512 << 20)
    yield "resident memory beyond the 512 MiB of the guest, at its shell", "MiB", *alternate(
        programs, max(1, runs // 2), measure), "at most 24"


BENCHES = {"mips": bench_mips, "start": bench_start, "boot": bench_boot, "memory": bench_memory}


def commit():
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")


def record(table):
    """Appends the table with what is needed to read it later."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    with open(ROOT / "bench/RESULTS.md", "a") as file:
        file.write(f"\n## {date}, commit {commit()}\n\n{model[1] if model else 'unknown CPU'}, {os.cpu_count()} processors, "
                   f"load {os.getloadavg()[0]:.1f} at the end\n\n{table}\n")


def main():
    if script := {"mixed": "mixed_load.py", "engine": "engine.py", "image": "image.py", "io": "io.py",
                  "uring": "uring.py"}.get((sys.argv[1:2] or [""])[0]):
        with steady_memory.held():
            return subprocess.call([sys.executable, str(ROOT / "bench" / script), *sys.argv[2:]])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--program", default=vmm.default_program(), help="default: %(default)s")
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="default: %(default)s")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHES]:
        parser.error(f"there is no benchmark '{unknown[0]}'; there are {', '.join(BENCHES)}, mixed, engine, image, io and uring")
    lines = ["| figure | unit | Ostler | QEMU TCG | Ostler / QEMU | goal |", "| --- | --- | ---: | ---: | ---: | --- |"]
    print("\n".join(lines), flush=True)
    failed = False
    with steady_memory.held():
        for name in options.names or BENCHES:
            try:
                for title, unit, ours, theirs, goal in BENCHES[name]((options.program, options.qemu), options.runs):
                    lines.append(f"| {title} | {unit} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} | {goal} |")
                    print(lines[-1], flush=True)
            except (Failed, FileNotFoundError) as failure:
                failed = True
                print(f"{name}: {failure}", file=sys.stderr, flush=True)
    if options.record and len(lines) > 2:
        record("\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
