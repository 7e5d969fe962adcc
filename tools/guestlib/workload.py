"""The workload guest (`tools/guest/make workload`) and the same tree run natively, behind one interface.

Both run bench/guest/engine/runner.cpp, which takes requests on its standard input: in a guest the serial
console, natively a pipe into a chroot. Disks are not written, so that no copy is needed.
"""

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from . import guests, vmm
from .steps import Failed

UNSUPPORTED = 3  # the status of a workload whose instructions the processor lacks


@dataclass
class Result:
    seconds: float
    status: int
    sum: str


class Runner:
    """A running runner. Leaving the `with` block ends it. Not for several threads at once."""

    def __init__(self, arguments, log, boot_seconds):
        self.process = vmm.Vmm(arguments, log)
        self.console = self.process.console
        try:
            self.console.wait_for(r"^@ready$", boot_seconds, "the runner")
        except Failed:
            self.process.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.process.stdin.close()
        self.process.__exit__(*exception)

    def run(self, name, seconds):
        """Result of one timed run of a workload; Failed when none comes within `seconds` of real time."""
        self.console.send(f"run {name}\n")
        match = self.console.wait_for(rf"^@done {re.escape(name)} ([\d.]+) (\d+) ([0-9a-f]{{16}})\n", seconds, name)
        return Result(float(match[1]), int(match[2]), match[3])

    def shell(self, command, seconds):
        """(status, output) of one line of shell."""
        begin = len(self.console.text())
        self.console.send(f"shell {command}\n")
        match = self.console.wait_for(r"^@done shell [\d.]+ (\d+) [0-9a-f]{16}\n", seconds, f"`{command}`")
        return int(match[1]), self.console.text()[begin:match.start()].strip("\n")


@functools.cache
def prepared(*kinds):
    """guests.prepare(), which takes a second, once per process."""
    return guests.prepare(*kinds)


def pinned(arguments, cpus):
    """The same command on the host processors `cpus` ("1", "0-3"; None: on all)."""
    return ["taskset", "-c", cpus, *arguments] if cpus else list(arguments)


def boot(program, log, *, cpus=1, memory="1G", accel=None, cpu=None, pin=None, prefix=(), extra=(), boot_seconds=600,
         control=None):
    """Boots the workload guest to its runner, without services; `prefix` is a command that runs another, as nsenter does.

    `control`: the socket of `ostler-control`."""
    made = prepared("kernel", "initrd", "workload")
    machine = vmm.Machine(
        kernel=made["kernel"], initrd=made["initrd"], memory=memory, cpus=cpus, accel=accel, cpu=cpu, rng=True,
        append="root=LABEL=ostler ro init=/opt/engine/init console=ttyS0",
        extra=["-drive", f"file={made['workload']},format=raw,if=virtio,readonly=on", *extra])
    command = vmm.command(program, machine)
    if control:
        command.insert(1, str(control))
    return Runner([*prefix, *pinned(command, pin)], log, boot_seconds)


def native(log, *, pin=None, share=None):
    """The runner in a chroot into the guest's tree, in namespaces that end with it; the folder `share` is /mnt."""
    root = Path(prepared("kernel", "initrd", "workload")["workload"]).with_name("root")
    script = ('cd "$1" && mount --rbind /dev dev && mount -t tmpfs tmpfs tmp && mount -t tmpfs tmpfs run && '
              'mount -t proc proc proc && if [ "$2" ]; then mount --bind "$2" mnt; fi && exec chroot . /opt/engine/start')
    # As in a guest: a shell's background jobs, of which this may be one, ignore the interrupt key.
    arguments = ["env", "--default-signal=INT,QUIT", "unshare", "--mount", "--pid", "--fork", "--kill-child", *(["--map-root-user"] if os.getuid() else []),
                 "sh", "-c", script, "sh", str(root), str(share or "")]
    return Runner(pinned(arguments, pin), log, 60)
