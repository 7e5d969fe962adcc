"""The figures of `./dev bench engine` that need boots of their own: boot, login and memory, several processors,
the cost of a translation."""

import re
import statistics
import time

import run as bench
from guestlib import guests, vmm, workload
from guestlib.steps import Failed

BOOT_SECONDS = 1200
WORKLOAD_SECONDS = 900
GUEST_MIB = 1024


def line(title, unit, ours, theirs, least=None, most=None, form=".2f"):
    """A row of the table; `least` bounds QEMU / Ostler from below, `most` our own figure from above."""
    ratio = theirs / ours if ours and theirs else None
    goal, missed = "", False
    if least is not None:
        goal, missed = f"≥ {least:g}", ratio is not None and ratio < least
    if most is not None:
        goal, missed = f"≤ {most:g} {unit}", ours > most
    shown = [format(value, form) if value is not None else "–" for value in (ours, theirs)]
    return (f"| {title} | {unit} | {shown[0]} | {shown[1]} | {format(ratio, '.2f') if ratio else '–'} | "
            f"{goal}{' **missed**' if missed else ''} |")


def programs(options):
    """[(program, -cpu, -accel)], ours first; QEMU only when asked for."""
    ours = (options.program, options.cpu, options.accel)
    return [ours, (options.qemu, "max", None)] if "qemu" in options.against else [ours]


def alternate(options, measure):
    """Medians per program of the tuples that measure(program, cpu, accel) returns, with None where QEMU is left out."""
    chosen = programs(options)
    values = [[] for _ in chosen]
    for _ in range(options.runs):
        for place, program in enumerate(chosen):
            values[place].append(measure(*program))
    columns = [[statistics.median(column) for column in zip(*one)] for one in values]
    if len(columns) == 1:
        columns.append([None] * len(columns[0]))
    return list(zip(*columns))


def boot(options, scratch):
    """The busybox initrd, from the process's start and from the kernel's first message; our pc beside our microvm."""
    made = guests.prepare("kernel", "initrd")

    def measure(program, cpu, accel, name=None):
        machine = vmm.Machine(kernel=made["kernel"], initrd=made["initrd"], cpu=cpu, accel=accel, machine=name,
                              append="console=ttyS0 earlyprintk=ttyS0,115200")
        begin = time.monotonic()
        with vmm.Vmm(workload.pinned(vmm.command(program, machine), options.pin), scratch.path / "boot.log") as running:
            running.console.wait_for("Linux version", BOOT_SECONDS, "the kernel's first message")
            kernel = time.monotonic()
            running.console.wait_for("ostler-guest: init", BOOT_SECONDS, "init")
            end = time.monotonic()
        return end - kernel, end - begin
    from_kernel, from_start = alternate(options, measure)
    yield line("kernel's first message to init of a busybox initrd", "s", *from_kernel, least=2.5)
    yield line("process start to init of a busybox initrd", "s", *from_start)
    seconds = {"pc": [], "microvm": []}
    for _ in range(options.runs):
        for name, values in seconds.items():
            values.append(measure(options.program, options.cpu, options.accel, name)[1])
    pc, microvm = (statistics.median(values) for values in seconds.values())
    yield (f"| Ostler alone, process start to init: pc {pc:.2f} s, microvm {microvm:.2f} s | times | {pc / microvm:.2f} | – | – | "
           f"≥ 1.3{'' if pc >= 1.3 * microvm else ' **missed**'} |")


def login(options, scratch):
    """Debian with systemd, from the process's start to the login prompt, and what the VMM then holds."""
    made = guests.prepare("kernel", "initrd", "debian")

    def measure(program, cpu, accel):
        machine = vmm.Machine(
            kernel=made["kernel"], initrd=made["initrd"], memory=f"{GUEST_MIB}M", cpu=cpu, accel=accel, rng=True,
            append="root=LABEL=ostler rw console=ttyS0", net="user",
            extra=["-drive", f"file={made['debian']},format=raw,if=virtio,snapshot=on"])
        begin = time.monotonic()
        with vmm.Vmm(workload.pinned(vmm.command(program, machine), options.pin), scratch.path / "login.log") as running:
            running.console.wait_for("ostler login: ", BOOT_SECONDS, "the login prompt")
            seconds = time.monotonic() - begin
            time.sleep(2)
            return seconds, bench.resident_beyond_ram(running.process.pid, GUEST_MIB << 20)
    seconds, memory = alternate(options, measure)
    yield line("process start to Debian's login prompt", "s", *seconds, least=2.5)
    yield line(f"resident memory beyond the {GUEST_MIB} MiB of the guest, at the login prompt", "MiB", *memory, least=1, most=96,
               form=".1f")


def smp(options, scratch):
    """`make` with as many jobs as vCPUs, on all host processors."""
    def measured(cpus):
        def measure(program, cpu, accel):
            with workload.boot(program, scratch.path / "smp.log", cpus=cpus, cpu=cpu, accel=accel) as runner:
                result = runner.run("make", WORKLOAD_SECONDS)
                if result.status:
                    raise Failed(f"make with {cpus} processors ended with status {result.status} under {program}")
                return (result.seconds,)
        return alternate(options, measure)[0]
    times = {cpus: measured(cpus) for cpus in (1, 2, 4)}
    for cpus, pair in times.items():
        yield line(f"make -j{cpus} with {cpus} vCPU{'s' if cpus > 1 else ''}", "s", *pair)
    yield line("make: 1 vCPU / 2 vCPUs", "times",
               *[one / two if one else None for one, two in zip(times[1], times[2])])


def translation(options, scratch):
    """Host time per translated guest instruction, as the VMM's own counters tell it at its end."""
    with workload.boot(options.program, scratch.path / "translation.log", cpu=options.cpu, accel=options.accel,
                       pin=options.pin, extra=["-d", "stats"]) as runner:
        for name in ("cold-gcc", "cold-python"):
            runner.run(name, WORKLOAD_SECONDS)
        console = runner.console
    found = re.findall(r"translated (\d+) (?:guest )?instructions in ([\d.]+) ms", console.text())
    if not found:
        raise Failed("the VMM's -d stats says nothing of translated instructions")
    instructions, milliseconds = int(found[-1][0]), float(found[-1][1])
    yield line(f"translation of {instructions} guest instructions", "ns per instruction",
               1e6 * milliseconds / max(instructions, 1), None, most=80, form=".0f")


MEASURES = {"boot": boot, "login": login, "smp": smp, "translation": translation}


def measure(name, options, scratch):
    """Rows of the table for one of engine_suite.BOOTS; Failed when it cannot be measured."""
    return MEASURES[name](options, scratch)
