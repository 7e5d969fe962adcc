#!/usr/bin/env python3
"""Boots the Debian guest, logs in on its serial console and checks that it works. `./dev run --check` calls it.

Prints one line per step with its time; exit status 1 when a step failed. The disk is a throwaway copy.
"""

import argparse
import os
import re
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from guestlib import guests, vmm  # noqa: E402
from guestlib.steps import Failed, Steps  # noqa: E402

BOOT_SECONDS = 1200  # an interpreter on a busy machine needs minutes
COMMAND_SECONDS = 300
FILE_MIB = 64


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=vmm.default_program(), help="VMM to check (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", default="1G")
    parser.add_argument("--accel", help="engine, as in -accel (default: the program's)")
    parser.add_argument("--machine", help="machine, as in -machine (default: the program's)")
    parser.add_argument("--legacy", action="store_true", help="disk, network and random numbers as devices of virtio 0.9.5")
    parser.add_argument("--log", help="file that keeps the guest's console (default: kept only on failure)")
    return parser.parse_args()


def expect(condition, sentence):
    if not condition:
        raise Failed(sentence)


def bytes_of(text):
    return int(text[:-1]) << {"M": 20, "G": 30}[text[-1].upper()]


def check_identity(console, steps, options):
    with steps.step("uname") as note:
        name = console.run("uname -a", COMMAND_SECONDS)
        note.append(name)
        expect("Linux ostler 6." in name and "x86_64" in name, f"unexpected kernel: {name}")
    with steps.step("processors") as note:
        count = console.run("nproc", COMMAND_SECONDS)
        note.append(count)
        expect(count == str(options.cpus), f"the guest sees {count} processors instead of {options.cpus}")
    with steps.step("memory") as note:
        line = console.run("head -1 /proc/meminfo", COMMAND_SECONDS)
        note.append(line)
        total, given = int(re.search(r"(\d+) kB", line)[1]) << 10, bytes_of(options.memory)
        expect(0.85 * given < total < given, f"{total >> 20} MiB of the {given >> 20} MiB are usable")


def check_interface(console, steps):
    with steps.step("legacy devices") as note:
        features = console.run("cat /sys/bus/virtio/devices/*/features", COMMAND_SECONDS).split()
        note.append(str(len(features)))
        expect(len(features) == 3 and all(each[32] == "0" for each in features), "a driver uses the modern interface")


def check_network(console, steps):
    """DHCP may take a while after the login prompt; the address must come, and the gateway must answer."""
    with steps.step("network address") as note:
        deadline = time.monotonic() + COMMAND_SECONDS
        while True:
            addresses = console.run("ip -br addr", COMMAND_SECONDS)
            if match := re.search(r"^(e\S+)\s+UP\s.*?(\d+\.\d+\.\d+\.\d+/\d+)", addresses, re.MULTILINE):
                note += [match[1], match[2]]
                break
            expect(time.monotonic() < deadline, f"no interface got an IPv4 address:\n{addresses}")
            time.sleep(1)
    with steps.step("ping the gateway"):
        gateway = console.run("ip -4 route show default", COMMAND_SECONDS).split()
        expect(len(gateway) > 2, "there is no default route")
        console.run(f"ping -c 3 -i 0.2 -W 10 {gateway[2]} >/dev/null", COMMAND_SECONDS)


def check_disk(console, steps):
    """Writes a file, drops the page cache, reads it back: what comes from the disk must be what went there."""
    with steps.step(f"write {FILE_MIB} MiB") as note:
        console.run(f"head -c {FILE_MIB}M /dev/urandom | tee /root/file | sha256sum >/root/sum && sync", COMMAND_SECONDS)
        note.append(console.run("cut -c1-16 /root/sum", COMMAND_SECONDS) + "…")
    with steps.step("read it back from the disk") as note:
        console.run("echo 3 >/proc/sys/vm/drop_caches", COMMAND_SECONDS)
        sectors = "awk '{ print $3 }' /sys/class/block/vda/stat"
        before = int(console.run(sectors, COMMAND_SECONDS))
        console.run("sha256sum </root/file | cmp - /root/sum", COMMAND_SECONDS)
        read = (int(console.run(sectors, COMMAND_SECONDS)) - before) // 2048
        note.append(f"{read} MiB came from the disk")
        expect(read >= FILE_MIB, f"only {read} MiB were read from the disk: the rest came from a cache")
        console.run("rm /root/file", COMMAND_SECONDS)


def check_messages(console, steps):
    with steps.step("kernel messages") as note:
        _, count = console.run("dmesg | grep -ciE 'bug:|call trace'", COMMAND_SECONDS, check=False)
        note.append(f"{count} that tell of a fault")
        if count != "0":
            lines = console.run("dmesg | grep -iE -A20 'bug:|call trace' | head -60", COMMAND_SECONDS)
            raise Failed(f"the kernel reported faults:\n{lines}")
    with steps.step("services") as note:
        failed = console.run("systemctl list-units --failed --no-legend --plain", COMMAND_SECONDS)
        note.append("none failed" if not failed else "some failed")
        expect(not failed, f"failed units:\n{failed}")


def check(options, scratch, log):
    steps = Steps()
    made = guests.prepare("kernel", "initrd", "debian")
    disk = scratch.copy_of(made["debian"])
    devices = {"disks": [disk], "net": "user", "rng": True}
    if options.legacy:
        devices = {"extra": ["-drive", f"file={disk},format=raw,if=none,id=d",
                             "-device", "virtio-blk-pci,drive=d,disable-modern=on",
                             "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,disable-modern=on",
                             "-device", "virtio-rng-pci,disable-modern=on"]}
    machine = vmm.Machine(
        kernel=made["kernel"], initrd=made["initrd"], append="root=LABEL=ostler rw console=ttyS0",
        memory=options.memory, cpus=options.cpus, accel=options.accel, machine=options.machine, **devices)
    arguments = vmm.command(options.program, machine)
    print(" ".join(arguments), flush=True)
    with vmm.Vmm(arguments, log) as running:
        console = running.console
        with steps.step("first kernel message"):
            console.wait_for(r"Linux version", BOOT_SECONDS, "the kernel's first message")
        with steps.step("initrd"):
            console.wait_for(r"ostler-guest: init", BOOT_SECONDS, "the initrd's first message")
        with steps.step("login prompt"):
            console.wait_for(r"ostler login: ", BOOT_SECONDS, "the login prompt")
        with steps.step("log in"):
            console.log_in(COMMAND_SECONDS)
        check_identity(console, steps, options)
        if options.legacy:
            check_interface(console, steps)
        check_network(console, steps)
        check_disk(console, steps)
        check_messages(console, steps)
        with steps.step("power off through ACPI") as note:
            console.send("poweroff\n")
            status = running.wait(COMMAND_SECONDS)
            expect(status is not None, f"the VMM still runs {COMMAND_SECONDS}s after poweroff:\n{console.tail()}")
            expect(status == 0, f"the VMM ended with status {status}:\n{console.tail()}")
            note.append("the VMM ended with status 0")
    print(f"everything passed in {steps.total():.1f}s")


def main():
    options = parse()
    if not os.access(options.program, os.X_OK) and not shutil.which(options.program):
        sys.exit(f"There is no program {options.program}. Build it first (./dev build), or name one with --program.")
    with guests.Scratch() as scratch:
        log = Path(options.log) if options.log else scratch.path / "console.log"
        try:
            check(options, scratch, log)
        except (Failed, AssertionError) as failure:
            kept = log
            if not options.log and log.exists():
                kept = Path(f"/tmp/ostler-guest-check-{os.getpid()}.log")
                shutil.copy(log, kept)
            print(f"\nFAILED: {failure}\nThe whole console is in {kept}.", flush=True)
            return 1
        except KeyboardInterrupt:
            print("\nInterrupted.")
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
