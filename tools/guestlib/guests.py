"""Where the prepared test guests are; tools/guest/make builds what is missing."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def prepare(*kinds):
    """Paths of the named guests ('kernel', 'initrd', 'debian'), as a dict; built first when needed."""
    made = subprocess.run([ROOT / "tools/guest/make", *kinds], stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode:
        raise SystemExit(made.returncode)
    return dict(line.split("=", 1) for line in made.stdout.splitlines())


class Scratch:
    """A folder for throwaway copies of disks and for logs, on the disk that holds the cache (so that copies
    can share blocks); removed on exit from the `with` block."""

    def __enter__(self):
        base = os.environ.get("OSTLER_CACHE") or os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ostler")
        os.makedirs(base, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix="scratch-", dir=base))
        return self

    def __exit__(self, *exception):
        shutil.rmtree(self.path, ignore_errors=True)

    def copy_of(self, image):
        """A private, writable, sparse copy of a disk image."""
        copy = self.path / f"copy-{len(list(self.path.iterdir()))}.img"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, copy], check=True)
        return copy
