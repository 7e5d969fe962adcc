#!/usr/bin/env python3
"""Runs one guest test: tests/guest/run.py NAME [--program VMM].

A test is a function of one of the modules below that takes a Context, boots guests with it and raises
Failed. Names are unique over all modules and listed in suite.txt.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tools")]
import boot  # noqa: E402
import debian  # noqa: E402
import debugger  # noqa: E402
import devices  # noqa: E402
import disks  # noqa: E402
import folders  # noqa: E402
import jobs  # noqa: E402
import media  # noqa: E402
import memory  # noqa: E402
import nbd  # noqa: E402
import networks  # noqa: E402
import scsi  # noqa: E402
import shares  # noqa: E402
import switches  # noqa: E402
import vhost_net  # noqa: E402
import virtio  # noqa: E402
from guestlib import guests, vmm  # noqa: E402
from guestlib.steps import Failed, Steps  # noqa: E402

MODULES = (boot, memory, devices, disks, media, jobs, virtio, debugger, debian, nbd, networks, scsi, shares, folders, switches,
           vhost_net)
BOOT_SECONDS = 600      # a slow engine on a busy machine
COMMAND_SECONDS = 120


class Context:
    """What a test works with."""

    def __init__(self, program, scratch):
        self.program, self.scratch = program, scratch
        self.steps = Steps()
        self.guests = guests.prepare("kernel", "initrd")
        self.logs = []

    def machine(self, append="", **settings):
        """A machine with the busybox initrd and its console on the serial port."""
        return vmm.Machine(kernel=self.guests["kernel"], initrd=self.guests["initrd"],
                           append=f"console=ttyS0 {append}".strip(), **settings)

    def command(self, machine, program=None):
        """The command line of a machine."""
        return vmm.command(program or self.program, machine)

    def people(self):
        """The program `ostler` beside the one that is tested."""
        return Path(self.program).resolve().with_name("ostler")

    def start(self, machine):
        """The running VMM, to be used in a `with` block."""
        return self.start_command(self.command(machine))

    def start_command(self, arguments):
        """The same for a command line that ends in a VMM's."""
        self.logs.append(self.scratch.path / f"console-{len(self.logs)}.log")
        print(" ".join(arguments), flush=True)
        return vmm.Vmm(arguments, self.logs[-1])

    def shell(self, running):
        """Waits for the busybox shell and makes it quiet; returns the console."""
        with self.steps.step("boot to the shell"):
            running.console.wait_for(r"ostler-guest: ready", BOOT_SECONDS, "the initrd to be ready")
            running.console.wait_for(r"/ # ", COMMAND_SECONDS, "the shell's prompt")
            running.console.quiet(COMMAND_SECONDS)
        return running.console

    def run(self, console, command):
        """The output of a command in the guest; Failed when its status is not 0."""
        with self.steps.step(command if len(command) < 60 else command[:57] + "…"):
            return console.run(command, COMMAND_SECONDS)

    def ends(self, running, status=0):
        """Waits for the VMM to end by itself with this status."""
        with self.steps.step("the process ends"):
            seen = running.wait(BOOT_SECONDS)
            self.expect(seen == status, f"the VMM's status is {seen} instead of {status} (None: it still runs); "
                                        f"its last output:\n{running.console.tail()}")

    @staticmethod
    def expect(condition, sentence):
        if not condition:
            raise Failed(sentence)


def find(name):
    for module in MODULES:
        if test := getattr(module, name, None):
            return test
    sys.exit(f"There is no guest test '{name}'; tests/guest/suite.txt lists them.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--program", default=vmm.default_program(), help="VMM to test (default: %(default)s)")
    options = parser.parse_args()
    test = find(options.name)
    with guests.Scratch() as scratch:
        context = Context(options.program, scratch)
        try:
            test(context)
        except Failed as failure:
            print(f"\nFAILED: {failure}")
            if context.logs and context.logs[-1].exists():
                kept = Path(tempfile.gettempdir()) / f"ostler-{options.name}-{os.getpid()}.log"
                kept.write_bytes(context.logs[-1].read_bytes())
                print(f"The whole console is in {kept}.")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
