"""qcow2 images with a past: random sequences of writes, zeros, discards, snapshots, resizes, rebases and commits, each step by
one of the two tools. After each step both read the same, which is what a model in memory says, and qemu-img's check is content.
"""

import os
import random
import subprocess
import tempfile
import unittest
from pathlib import Path

import judge
from judge import command, qemu_io

KIB, MIB = 1 << 10, 1 << 20
STEPS = int(os.environ.get("OSTLER_HISTORY_STEPS", "25"))
SEED = int(os.environ.get("OSTLER_HISTORY_SEED", "1"))


class Past:
    """An image, what it must read as, and how it came to that."""

    def __init__(self, test, folder, options, seed):
        self.test, self.folder, self.random = test, folder, random.Random(f"{options} {seed}")
        self.model, self.snapshots, self.story, self.bases = bytearray(3 * MIB + 512 * self.random.randrange(99)), {}, [], 0
        self.options = options
        self.tool("create", "-q", "-f", "qcow2", "-o", options, "disk", str(len(self.model)), who="qemu-img")

    def tool(self, *words, who=None):
        who = who or self.random.choice(("qemu-img", judge.BIN / "ostler-img"))
        self.story.append(f"{Path(who).name} {' '.join(words)}")
        done = command(who, words, self.folder)
        self.test.assertEqual(done.returncode, 0, "\n".join((*self.story, done.stderr)))

    def range(self, unit=512):
        first = self.random.randrange(len(self.model) // unit)
        count = self.random.randrange(1, 1 + min(len(self.model) // unit - first, self.random.choice((8, 64, 700)) * 512 // unit + 1))
        return first * unit, count * unit

    def io(self, *words):
        self.story.append(f"qemu-io {' '.join(map(str, words))}")
        qemu_io(self.folder / "disk", " ".join(map(str, words)))

    def write(self):
        at, size = self.range()
        byte = self.random.randrange(1, 256)
        self.io("write", "-P", byte, at, size)
        self.model[at:at + size] = bytes([byte]) * size

    def compress(self):
        """QEMU compresses to clusters that have no place yet, and refuses others."""
        at, size = self.range(64 * KIB)
        byte = self.random.randrange(1, 256)
        for each in range(at, at + size, 64 * KIB):
            try:
                self.io("write", "-c", "-P", byte, each, 64 * KIB)
            except subprocess.CalledProcessError:
                self.story[-1] += " (refused)"
                continue
            self.model[each:each + 64 * KIB] = bytes([byte]) * 64 * KIB

    def zero(self):
        at, size = self.range()
        self.io("write", "-z", *self.random.choice(((), ("-u",))), at, size)
        self.model[at:at + size] = bytes(size)

    def discard(self):
        """Content is as it was or zero then, in which qemu-img is believed."""
        at, size = self.range(64 * KIB)
        before = bytes(self.model)
        self.io("discard", at, size)
        self.tool("convert", "-O", "raw", "disk", "now", who="qemu-img")
        self.model = bytearray((self.folder / "now").read_bytes())
        self.test.assertEqual((self.model[:at], self.model[at + size:]), (before[:at], before[at + size:]), self.story)

    def snapshot(self):
        if self.snapshots and self.random.random() < 0.6:
            name = self.random.choice(list(self.snapshots))
            if self.random.random() < 0.5:
                self.tool("snapshot", "-a", name, "disk")
                self.model = bytearray(self.snapshots[name])
            else:
                self.tool("snapshot", "-d", name, "disk")
                del self.snapshots[name]
        else:
            name = f"s{len(self.story)}"
            self.tool("snapshot", "-c", name, "disk")
            self.snapshots[name] = bytes(self.model)

    def resize(self):
        if self.snapshots and "0.10" in self.options:  # which is not to be done in version 2
            return self.write()
        size = 512 * self.random.randrange(2 * MIB // 512, 5 * MIB // 512)
        self.tool("resize", "-q", *(("--shrink",) if size < len(self.model) else ()), "disk", str(size))
        self.model = self.model[:size] + bytes(max(0, size - len(self.model)))
        return None

    def rebase(self):
        """On a new image with content of its own, or on none. A snapshot reads from the new one, too: there must be none."""
        if self.snapshots:
            return self.write()
        if self.random.random() < 0.3:
            self.tool("rebase", "-b", "", "disk")
            return None
        self.bases += 1
        name = f"base{self.bases}"
        self.tool("create", "-q", "-f", "qcow2", name, str(512 * self.random.randrange(1000, 9000)), who="qemu-img")
        for _ in range(5):
            qemu_io(self.folder / name, f"write -P {self.random.randrange(256)} {self.random.randrange(900) * 512} 20k")
        self.tool("rebase", "-b", name, "-F", "qcow2", "disk")
        return None

    def verify(self):
        (self.folder / "model").write_bytes(self.model)
        for who in ("qemu-img", judge.BIN / "ostler-img"):
            done = command(who, ["compare", "-f", "raw", "-F", "qcow2", "model", "disk"], self.folder)
            self.test.assertEqual(done.returncode, 0, "\n".join((*self.story, str(who), done.stdout, done.stderr)))
            done = command(who, ["check", "-q", "disk"], self.folder)
            self.test.assertEqual(done.returncode, 0, "\n".join((*self.story, str(who), done.stdout, done.stderr)))

    def go_on(self):
        kinds = [self.write] * 4 + [self.zero] * 2 + [self.discard] * 2 + [self.snapshot] * 3 + [self.resize, self.rebase]
        if "extended_l2" not in self.options and "cluster_size" not in self.options:
            kinds.append(self.compress)
        self.random.choice(kinds)()
        self.verify()


class History(unittest.TestCase):
    def test_images_with_a_past(self):
        for options in ("compat=1.1", "compat=0.10", "cluster_size=4k,refcount_bits=64", "extended_l2=on,cluster_size=128k",
                        "lazy_refcounts=on", "compression_type=zstd", "preallocation=metadata"):
            with self.subTest(options=options, seed=SEED), tempfile.TemporaryDirectory(prefix="ostler-img-") as folder:
                past = Past(self, Path(folder), options, SEED)
                for _ in range(STEPS):
                    past.go_on()
