"""Both image tools on copies of the same files."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

BIN = None
TIMEOUT = 60
# qemu-img measures how fast the host is when it makes a key, and gives up on one that is busy.
GAVE_UP = "Unable to get accurate CPU usage"
TRIES = 20


def command(program, words, folder):
    done = None
    for _ in range(TRIES):
        done = subprocess.run([program, *map(str, words)], cwd=folder, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if program != "qemu-img" or GAVE_UP not in done.stderr:
            break
    return done


def qemu_io(image, *commands, fmt="qcow2"):
    """Writes into an image: `write -P 7 1M 64k`."""
    words = [word for each in commands for word in ("-c", each)]
    subprocess.run(["qemu-io", "-f", fmt, *words, str(image)], check=True, capture_output=True, timeout=TIMEOUT)


def formats():
    """Those that ours knows."""
    text = subprocess.run([BIN / "ostler-img", "--help"], capture_output=True, text=True, check=True).stdout
    return text[text.index("Supported formats:"):].split()[2:]


class Judged(unittest.TestCase):
    """A folder of images for each program: what setUp() makes is copied, then commands run in both."""

    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="ostler-img-")
        self.home = Path(self.temporary.name)
        self.theirs, self.ours = self.home / "theirs", self.home / "ours"
        made = self.home / "made"
        made.mkdir()
        self.prepare(made)
        # Both are copies: which of a file's zeros are holes changes with copying, and is told by `map`.
        for folder in (self.theirs, self.ours):
            subprocess.run(["cp", "-a", "--sparse=auto", made, folder], check=True)
        shutil.rmtree(made)

    def tearDown(self):
        self.temporary.cleanup()

    def prepare(self, folder):
        """Makes the images, with qemu-img."""

    def make(self, folder, *words):
        done = command("qemu-img", words, folder)
        self.assertEqual(done.returncode, 0, done.stderr)

    def our(self, *words):
        return command(BIN / "ostler-img", words, self.ours)

    def their(self, *words):
        return command("qemu-img", words, self.theirs)

    def both(self, *words, status=None, output=True, ignore=()):
        """The same exit status (`status`, if it is given) and, unless told otherwise, standard output. JSON is
        compared as values; keys in `ignore` may differ."""
        theirs, ours = self.their(*words), self.our(*words)
        shown = (f"{' '.join(map(str, words))}\nqemu-img: {theirs.returncode}\n{theirs.stdout}{theirs.stderr}\n"
                 f"ostler-img: {ours.returncode}\n{ours.stdout}{ours.stderr}")
        self.assertEqual(ours.returncode, theirs.returncode, shown)
        if status is not None:
            self.assertEqual(ours.returncode, status, shown)
        if ours.returncode == 1 and not ours.stdout and "-q" not in words:
            self.assertRegex(ours.stderr, r"\A(ostler-img: [^\n]+\n)+\Z", shown)
        if not output:
            return ours
        if theirs.stdout[:1] in ("{", "[") and "json" in " ".join(map(str, words)):
            self.assertEqual(without(json.loads(ours.stdout), ignore), without(json.loads(theirs.stdout), ignore), shown)
        else:
            self.assertEqual(normal(ours.stdout, ignore), normal(theirs.stdout, ignore), shown)
        return ours

    def same_content(self, theirs, ours=None, fmt=None):
        """qemu-img finds their file and ours identical."""
        words = ["compare", "-U", *(["-f", fmt, "-F", fmt] if fmt else []), self.theirs / theirs, self.ours / (ours or theirs)]
        done = command("qemu-img", words, self.home)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def sound(self, image, fmt="qcow2"):
        """qemu-img check finds nothing wrong with our file."""
        done = command("qemu-img", ["check", "-f", fmt, image], self.ours)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


def without(value, keys):
    if isinstance(value, list):
        return [without(each, keys) for each in value]
    if isinstance(value, dict):
        return {key: without(each, keys) for key, each in value.items() if key not in keys}
    return value


def normal(text, ignore):
    """What differs between two runs of one program is masked: times, and lines that begin with `ignore`."""
    lines = [line for line in text.replace("\r", "\n").splitlines() if not line.startswith(tuple(ignore) or ("\0",))]
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", "\n".join(lines))




def pattern_file(path, size, seed=1):
    """Half data, half holes, in runs of 64 KiB."""
    with open(path, "wb") as file:
        file.truncate(size)
        for at in range(0, size, 128 << 10):
            file.seek(at)
            file.write(bytes((seed * 7 + at // 4096 + i) & 0xff for i in range(256)) * 256)


__all__ = ["Judged", "Path", "command", "formats", "json", "os", "pattern_file", "qemu_io", "shutil"]
