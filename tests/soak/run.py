#!/usr/bin/env python3
"""Long checks of the engine in the workload guest, beside CI; `./dev soak` calls it.

    ./dev soak stress [--minutes N] [--accel NAME] [--cpus N]     stress-ng with its own verification
    ./dev soak compile                                            a C++ program: objects and output as natively
    ./dev soak python                                             part of Python's test suite, judged as natively
    ./dev soak powercut [--kills N] [--seed N] [--job NAME]       kill -9 under a guest that writes with fsync

Exit status 1 when something was wrong; the guest's console is kept then.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest"), str(HERE.parent.parent / "tools")]
import scenarios  # noqa: E402
from guestlib import guests, vmm, workload  # noqa: E402
from guestlib.steps import Failed, Steps  # noqa: E402

FAULTS = (r"bug:|call trace|lockup|stall|hung task|blocked for more than|nobody cared|i/o error|ext4-fs error|"
          r"marking clocksource|unstable|general protection|invalid opcode|trap ")


class Context:
    """What a scenario works with."""

    def __init__(self, options, scratch):
        self.options, self.scratch, self.steps = options, scratch, Steps()
        self.log, self.known = scratch.path / "console.log", 0

    def boot(self, memory="2G", extra=(), control=None):
        """A Runner with the guest; with `control`, a socket, the machine obeys it (tests/machine/control.cpp)."""
        o = self.options
        program = Path(o.program).resolve().with_name("ostler-control") if control else o.program
        with self.steps.step(f"boot with {o.cpus} processors"):
            runner = workload.boot(program, self.log, cpus=o.cpus, memory=memory, accel=o.accel, extra=extra,
                                   control=control)
        self.known = int(runner.shell("dmesg | wc -l", 300)[1])  # what the boot said is not about the load
        return runner

    def native(self, share=None):
        """A Runner with the same tree on this machine; the folder `share` is its /mnt."""
        return workload.native(self.scratch.path / "native.log", share=share)

    def no_kernel_messages(self, runner):
        """Failed when the guest's kernel reported a fault since its boot."""
        _, found = runner.shell(f"dmesg | tail -n +{self.known + 1} | grep -iE '{FAULTS}' | head -40", 300)
        if found:
            raise Failed(f"the kernel reported:\n{found}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     prog="./dev soak")
    parser.add_argument("name", choices=scenarios.ALL, metavar="NAME", help=", ".join(scenarios.ALL))
    parser.add_argument("--minutes", type=float, default=10, help="for stress (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=100, help="for powercut (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="for powercut: its random choices (default: new ones)")
    parser.add_argument("--job", default="none", choices=("none", "any", *scenarios.JOBS),
                        help="for powercut: what goes on while the process is killed (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=4)
    parser.add_argument("--accel", help="engine, as in -accel (default: the program's)")
    parser.add_argument("--program", default=vmm.default_program(), help="default: %(default)s")
    options = parser.parse_args()
    with guests.Scratch() as scratch:
        context = Context(options, scratch)
        try:
            scenarios.ALL[options.name](context)
        except Failed as failure:
            kept = Path(tempfile.gettempdir()) / f"ostler-soak-{options.name}-{os.getpid()}.log"
            if context.log.exists():
                kept.write_bytes(context.log.read_bytes())
            print(f"\nFAILED: {failure}\nThe whole console is in {kept}.", flush=True)
            return 1
    print(f"nothing went wrong in {context.steps.total():.0f}s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
