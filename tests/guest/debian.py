"""The Debian guest with systemd: the same check as `./dev run --check`."""

import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).resolve().parent.parent.parent / "tools/guest_check.py"


def _check(t, program, *options):
    done = subprocess.run([sys.executable, CHECK, "--program", program, *options], check=False)
    t.expect(done.returncode == 0, "the check of the Debian guest failed")


def debian_one_processor(t):
    _check(t, t.program, "--cpus", "1")


def debian_four_processors(t):
    """Through `ostler run`, the other command line, when the program tested has that name beside it."""
    people = Path(t.program).with_name("ostler")
    _check(t, str(people) if people.exists() else t.program, "--cpus", "4")


def debian_on_legacy_devices(t):
    """Disk and network by the interface of virtio 0.9.5."""
    _check(t, t.program, "--cpus", "2", "--legacy")
