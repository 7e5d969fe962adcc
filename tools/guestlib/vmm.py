"""Command lines of the VMMs that the checks can drive, and the running process with its serial console.

Two spellings exist: QEMU's (qemu-system-x86_64, ostler-system-x86_64) and that of `ostler run`. Which one a
program speaks follows from its name.
"""

import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from .console import Console


@dataclass
class Machine:
    """What to boot. `disks` are raw images that the guest may write; the caller makes throwaway copies."""
    kernel: str
    initrd: str = None
    append: str = ""
    memory: str = "512M"
    cpus: int = 1
    disks: list = field(default_factory=list)
    net: str = None             # the netdev's type and options, such as "user" or "user,hostfwd=tcp::2222-:22"
    mac: str = None             # the card's address; the program's default when None
    rng: bool = False
    machine: str = None         # "pc", "microvm"; the program's default when None
    accel: str = None           # "tcg", "interp"; the program's default when None
    cpu: str = None
    reboot: bool = False        # let the guest restart; otherwise a reset ends the process
    extra: list = field(default_factory=list)


def is_qemu(program):
    """True for QEMU itself, which needs to be told to leave out what Ostler never adds."""
    return Path(program).name.startswith("qemu")


def command(program, m):
    """The argument list that boots machine `m` with its serial port on standard input and output."""
    return (_ostler if Path(program).name == "ostler" else _qemu)(str(program), m)


def _qemu(program, m):
    args = [program, "-m", m.memory, "-smp", str(m.cpus), "-kernel", str(m.kernel)]
    if m.initrd:
        args += ["-initrd", str(m.initrd)]
    if m.append:
        args += ["-append", m.append]
    machine, accel = m.machine, m.accel
    if is_qemu(program):
        args += ["-nodefaults"]
        accel = accel or "tcg"
    if machine:
        args += ["-machine", machine]
    if accel:
        args += ["-accel", accel]
    if m.cpu:
        args += ["-cpu", m.cpu]
    for disk in m.disks:
        args += ["-drive", f"file={disk},format=raw,if=virtio"]
    if m.net:
        kind, _, options = m.net.partition(",")
        args += ["-netdev", f"{kind},id=net0" + (f",{options}" if options else ""),
                 "-device", "virtio-net-pci,netdev=net0" + (f",mac={m.mac}" if m.mac else "")]
    if m.rng:
        args += ["-device", "virtio-rng-pci"]
    args += ["-display", "none", "-serial", "stdio"]
    if not m.reboot:
        args += ["-no-reboot"]
    return args + [str(a) for a in m.extra]


def _ostler(program, m):
    args = [program, "run", "--kernel", str(m.kernel), "--memory", m.memory, "--cpus", str(m.cpus)]
    if m.initrd:
        args += ["--initrd", str(m.initrd)]
    if m.append:
        args += ["--append", m.append]
    if m.machine:
        args += ["--machine", m.machine]
    if m.accel:
        args += ["--accel", m.accel]
    if m.cpu:
        args += ["--cpu", m.cpu]
    for disk in m.disks:
        args += ["--disk", str(disk)]
    if m.net:
        args += ["--net", m.net]
    if not m.rng:
        args += ["--no-rng"]
    if not m.reboot:
        args += ["--no-reboot"]
    return args + [str(a) for a in m.extra]


class Vmm:
    """A running VMM; `console` is its serial port. Leaving the `with` block ends the process."""

    def __init__(self, arguments, log):
        self.arguments = arguments
        self.log = Path(log)
        # A session of its own, so that a Ctrl-C at the harness's terminal reaches the harness alone.
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, bufsize=0, start_new_session=True)
        self.console = Console(self.process.stdin, self.process.stdout, self.log)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.console.close()

    def wait(self, timeout):
        """The exit status (negative: the signal that ended it), or None when it still runs after `timeout` s."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


def default_program():
    """The program under test: $OSTLER_PROGRAM, or what the build made."""
    root = Path(__file__).resolve().parent.parent.parent
    return os.environ.get("OSTLER_PROGRAM") or str(root / "build/bin/ostler-system-x86_64")
