"""Keeps this machine's memory its own while something is measured.

A guest of a hypervisor may give its free pages back as soon as they are free (free page reporting, mm/page_reporting.c). A
program that then writes a large file waits for the hypervisor's page faults, or does not, by chance: the same conversion
takes several times as long. `held()` suspends the reporting where we may, and puts back what it found.
"""

import contextlib
from pathlib import Path

PARAMETERS = Path("/sys/module/page_reporting/parameters")
# The order is the kernel's own parameter; the other two are of kernels that bound how long free pages may wait.
LEAST_REPORTING = {"page_reporting_order": "10", "min_free_ms": "100000", "max_waiting_mib": "1048576"}


@contextlib.contextmanager
def held():
    found = {}
    try:
        for name, value in LEAST_REPORTING.items():
            with contextlib.suppress(OSError):  # no such parameter, or we are not root: measured as it is
                before = (PARAMETERS / name).read_text(encoding="ascii").strip()
                (PARAMETERS / name).write_text(value, encoding="ascii")
                found[name] = before
        yield
    finally:
        for name, before in found.items():
            (PARAMETERS / name).write_text(before, encoding="ascii")
