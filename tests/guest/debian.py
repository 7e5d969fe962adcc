"""The Debian guest with systemd: the same check as `./dev run --check`."""

import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).resolve().parent.parent.parent / "tools/guest_check.py"


def _check(t, *options):
    done = subprocess.run([sys.executable, CHECK, "--program", t.program, *options], check=False)
    t.expect(done.returncode == 0, "the check of the Debian guest failed")


def debian_one_processor(t):
    _check(t, "--cpus", "1")


def debian_four_processors(t):
    _check(t, "--cpus", "4")
