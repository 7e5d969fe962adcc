#!/usr/bin/env python3
"""Measures the engine with programs in one guest under Ostler, QEMU TCG and natively; `./dev bench engine` calls it.

    ./dev bench engine [NAME…] [--accel NAME] [--runs N] [--record]

NAME is a workload or a group of bench/engine_suite.py; all by default. In each run both VMMs boot the workload
guest and then do each workload in turn, with the native run of the same files between them, pinned to one host
processor. The table holds medians of the seconds that the guest's own clock saw. A workload whose output
differs between the three counts as failed.
"""

import argparse
import math
import os
import shlex
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]
import engine_boots  # noqa: E402
import engine_suite  # noqa: E402
import run as bench  # noqa: E402
from guestlib import guests, vmm, workload  # noqa: E402
from guestlib.steps import Failed  # noqa: E402

WORKLOAD_SECONDS = 900  # an interpreter


class Party:
    """One of those compared: boots when first asked, and again after it failed."""

    def __init__(self, name, start):
        self.name, self.start, self.runner = name, start, None

    def run(self, name):
        try:
            if not self.runner:
                self.runner = self.start()
            result = self.runner.run(name, WORKLOAD_SECONDS)
        except Failed:
            self.end()
            raise
        if result.status not in (0, workload.UNSUPPORTED):
            raise Failed(f"{name} ended with status {result.status}")
        return result

    def end(self):
        if self.runner:
            self.runner.__exit__()
            self.runner = None


def parties(options, scratch):
    """{name: Party} of the programs to compare, ours first."""
    def booted(program, cpu, accel, log, extra=()):
        return lambda: workload.boot(program, log, cpu=cpu, accel=accel, pin=options.pin, extra=extra)
    log = Path(options.log) if options.log else scratch.path / "ostler.log"
    chosen = {"ostler": Party("ostler", booted(options.program, options.cpu, options.accel, log, shlex.split(options.extra)))}
    if "qemu" in options.against:
        chosen["qemu"] = Party("qemu", booted(options.qemu, "max", None, scratch.path / "qemu.log"))
    if "native" in options.against:
        chosen["native"] = Party("native", lambda: workload.native(scratch.path / "native.log", pin=options.pin))
    return chosen


def measure(options, pairs, scratch):
    """{workload: {party: [seconds]}}, and the list of what went wrong. None for seconds: not supported there."""
    seconds, wrong, sums = {}, [], {}
    for run in range(options.runs):
        compared = parties(options, scratch)
        try:
            for _, name in pairs:
                for party in compared.values():
                    try:
                        result = party.run(name)
                    except Failed as failure:
                        wrong.append(f"{name} under {party.name}: {failure}")
                        print(wrong[-1], file=sys.stderr, flush=True)
                        continue
                    supported = result.status != workload.UNSUPPORTED
                    seconds.setdefault(name, {}).setdefault(party.name, []).append(result.seconds if supported else None)
                    if supported:
                        sums.setdefault(name, {}).setdefault(result.sum, set()).add(party.name)
                    shown = f"{result.seconds:9.3f}s" if supported else "unsupported"
                    print(f"run {run + 1}/{options.runs}  {name:12} {party.name:7} {shown}", file=sys.stderr, flush=True)
        finally:
            for party in compared.values():
                party.end()
    for name, by_sum in sums.items():
        if len(by_sum) > 1:
            groups = "; ".join(f"{value}: {', '.join(sorted(names))}" for value, names in by_sum.items())
            wrong.append(f"{name}: the outputs differ ({groups})")
            print(wrong[-1], file=sys.stderr, flush=True)
    return seconds, wrong


def median(values):
    return statistics.median(values) if values and None not in values else None


def ratio(above, below):
    return above / below if above and below else None


def geometric_mean(values):
    values = [value for value in values if value]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def cell(value, form=".2f"):
    return format(value, form) if value is not None else "–"


def goal(value, least=None, most=None):
    """The goal's text, with a mark when it was missed."""
    if least is None and most is None:
        return ""
    text = f"≥ {least:g}" if least is not None else f"≤ {most:g}"
    if value is None:
        return text
    met = value >= least if least is not None else value <= most
    return text + ("" if met else " **missed**")


def table(pairs, seconds):
    yield "| workload | Ostler s | QEMU s | native s | QEMU / Ostler | goal | Ostler / native | goal |"
    yield "| --- | ---: | ---: | ---: | ---: | --- | ---: | --- |"
    for group in engine_suite.GROUPS:
        faster, slower = [], []
        names = [name for g, name in pairs if g is group]
        for name in names:
            ours, theirs, native = (median(seconds.get(name, {}).get(p)) for p in ("ostler", "qemu", "native"))
            faster.append(ratio(theirs, ours))
            slower.append(ratio(ours, native))
            yield (f"| {name} | {cell(ours, '.3f')} | {cell(theirs, '.3f')} | {cell(native, '.3f')} | {cell(faster[-1])} | "
                   f"{goal(faster[-1], least=group.times)} | {cell(slower[-1])} | |")
        if len(names) > 1:
            mean, limit = geometric_mean(faster), geometric_mean(slower)
            yield (f"| **{group.name}: {group.title}**, geometric mean | | | | **{cell(mean)}** | "
                   f"{goal(mean, least=group.mean_times)} | **{cell(limit)}** | {goal(limit, most=group.native)} |")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     prog="./dev bench engine")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--accel", help="engine of Ostler, as in -accel (default: the program's)")
    parser.add_argument("--cpu", help="processor model of Ostler, as in -cpu (default: the program's)")
    parser.add_argument("--runs", type=int, default=3, help="boots of each program (default: %(default)s)")
    parser.add_argument("--against", default="qemu,native", help="who else runs (default: %(default)s; none: Ostler alone)")
    parser.add_argument("--pin", default=str(max(os.sched_getaffinity(0))), metavar="CPUS",
                        help="host processors, as for taskset (default: %(default)s)")
    parser.add_argument("--extra", default="", metavar="OPTIONS", help='further options of Ostler, such as "-d stats"')
    parser.add_argument("--log", help="file to which Ostler's console and messages are appended")
    parser.add_argument("--record", action="store_true", help="append the tables to bench/RESULTS.md")
    parser.add_argument("--program", default=vmm.default_program(), help="default: %(default)s")
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="default: %(default)s")
    options = parser.parse_args()
    try:
        options.pairs, options.boots = engine_suite.chosen(options.names)
    except KeyError as unknown:
        parser.error(f"there is no workload {unknown}; there are:\n  " + "\n  ".join(engine_suite.all_names()))
    return options


def main():
    options = parse()
    lines, wrong = [], []
    with guests.Scratch() as scratch:
        if options.pairs:
            seconds, wrong = measure(options, options.pairs, scratch)
            lines += table(options.pairs, seconds)
            print("\n".join(lines), flush=True)
        if options.boots:
            own = ["| figure | unit | Ostler | QEMU | QEMU / Ostler | goal |", "| --- | --- | ---: | ---: | ---: | --- |"]
            print("\n" + "\n".join(own), flush=True)
            for name in options.boots:
                try:
                    for line in engine_boots.measure(name, options, scratch):
                        own.append(line)
                        print(line, flush=True)
                except Failed as failure:
                    wrong.append(f"{name}: {failure}")
                    print(wrong[-1], file=sys.stderr, flush=True)
            lines += ["", *own]
    if options.record:
        head = f"`./dev bench engine{' --accel ' + options.accel if options.accel else ''}`, medians of {options.runs}\n\n"
        bench.record(head + "\n".join(lines).strip() + "".join(f"\n\nFailed: {one.splitlines()[0]}" for one in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
