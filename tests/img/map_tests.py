"""Random images of every format, made by qemu-img, and overlays on them: both tools tell the same map, and both find the same
images alike. Where ours tells more, as docs/ostler-img.md says, that is compared with the content.
"""

import copy
import json
import os
import random
import subprocess
import tempfile
import unittest
from pathlib import Path

import judge
from judge import command

KIB, MIB = 1 << 10, 1 << 20
SEED = int(os.environ.get("OSTLER_MAP_SEED", "1"))
SECRET = ["--object", "secret,id=s,data=x"]

# Formats and options of creation; NAME is the image's own.
KINDS = {
    "raw": ["", "preallocation=falloc", "preallocation=full"],
    "qcow2": ["", "cluster_size=512", "cluster_size=4k", "cluster_size=2M", "compat=0.10", "extended_l2=on",
              "extended_l2=on,cluster_size=16k", "extended_l2=on,preallocation=metadata", "data_file=NAME.data",
              "data_file=NAME.data,data_file_raw=on", "data_file=NAME.data,extended_l2=on", "preallocation=metadata",
              "data_file=NAME.data,preallocation=metadata", "preallocation=falloc", "preallocation=full",
              "lazy_refcounts=on,refcount_bits=1", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"],
    "vdi": ["", "static=on"],
    "vpc": ["", "force_size=on", "subformat=fixed", "subformat=fixed,force_size=on"],
    "vmdk": ["", "zeroed_grain=on", "subformat=monolithicFlat", "subformat=twoGbMaxExtentSparse",
             "subformat=twoGbMaxExtentFlat", "subformat=streamOptimized"],
    "vhdx": ["", "block_size=1M", "subformat=fixed", "block_state_zero=off"],
    "parallels": ["", "cluster_size=64k"],
    "qed": ["", "cluster_size=4k"],
    "luks": ["key-secret=s,iter-time=10"],
}
OVERLAYS = [("qcow2", ""), ("qcow2", "extended_l2=on"), ("qcow2", "cluster_size=4k"), ("qcow2", "compat=0.10"),
            ("qcow2", "data_file=NAME.data"), ("qed", "")]


class Image:
    """An image with random content, and how it came to that."""

    def __init__(self, test, folder, name, kind, size, rng, backing=None):
        self.test, self.folder, self.name, self.random, self.size = test, folder, name, rng, size
        self.format, self.options = kind[0], kind[1].replace("NAME", name)
        self.story = []
        words = [*SECRET, "-f", self.format, *(["-o", self.options] if self.options else []),
                 *(["-b", backing.name, "-F", backing.format] if backing else [])]
        if "streamOptimized" in self.options:  # which is written once, from the beginning to the end
            source = Image(test, folder, f"{name}.source", ("raw", ""), size, rng)
            self.story += source.story
            self.run("convert", "-f", "raw", "-O", self.format, "-o", self.options, source.name, name)
        else:
            self.run("create", "-q", *words, name, str(size))
            self.change()

    def run(self, *words):
        self.story.append("qemu-img " + " ".join(words))
        done = command("qemu-img", words, self.folder)
        self.test.assertEqual(done.returncode, 0, "\n".join((*self.story, done.stderr)))

    def converted(self, name, kind, sparse):
        """A new image with the same content, of a `kind` that may be another; or None if qemu-img makes no such image."""
        made = copy.copy(self)
        made.name, made.format, made.options = name, kind[0], kind[1].replace("NAME", name)
        words = ["convert", "-S", sparse, "-O", made.format, *(["-o", made.options] if made.options else []), *self.opened(), name]
        made.story = [*self.story, "qemu-img " + " ".join(words)]
        return made if command("qemu-img", words, self.folder).returncode == 0 else None

    def opened(self):
        """The words by which both open it, without a look at the content."""
        options = [f"driver={self.format}", "file.driver=file", f"file.filename={self.name}"]
        if self.format == "luks":
            options.append("key-secret=s")
        if "encrypt" in self.options:
            options.append("encrypt.key-secret=s")
        return [*SECRET, "--image-opts", ",".join(options)]

    def change(self):
        commands = []
        for _ in range(self.random.randrange(14)):
            unit = min(self.random.choice((512, 4 * KIB, 64 * KIB, 300 * 512)), self.size)
            at = self.random.randrange(self.size // unit) * unit
            length = min(self.size - at, unit * self.random.choice((1, 1, 2, 3, 8, 40)))
            commands.append(self.random.choice((f"write -P {self.random.randrange(1, 256)}", "write -P 3", "write -P 0", "write -z",
                                                "write -z -u", "discard")) + f" {at} {length}")
        self.story += [f"qemu-io {self.name}: {each}" for each in commands]
        # What a format does not take changes nothing.
        subprocess.run(["qemu-io", "-d", "unmap", *self.opened(), *(word for each in commands for word in ("-c", each))],
                       cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=judge.TIMEOUT, check=False)


class Map(unittest.TestCase):
    def told(self, program, image):
        done = command(program, ["map", "--output=json", *image.opened()], image.folder)
        self.assertEqual(done.returncode, 0, "\n".join((*image.story, str(program), done.stderr)))
        return json.loads(done.stdout)

    def same(self, image, blocks_unknown):
        """`blocks_unknown`: qemu-img does not know where the format has its blocks, and tells all of it as data."""
        theirs, ours = self.told("qemu-img", image), self.told(judge.BIN / "ostler-img", image)
        shown = "\n".join((*image.story, "", *(f"qemu-img:   {each}" for each in theirs), *(f"ostler-img: {each}" for each in ours)))
        if not blocks_unknown:
            self.assertEqual(ours, theirs, shown)
        self.assertEqual(sum(each["length"] for each in ours), sum(each["length"] for each in theirs), shown)
        self.agrees_with_content(image, ours, shown)

    def agrees_with_content(self, image, told, shown):
        done = command("qemu-img", ["convert", "-O", "raw", *image.opened(), "content"], image.folder)
        self.assertEqual(done.returncode, 0, shown + done.stderr)
        content = (image.folder / "content").read_bytes()
        file = (image.folder / image.name).read_bytes() if image.format == "vhdx" else None
        for each in told:
            piece = content[each["start"]:each["start"] + each["length"]]
            if each["zero"]:
                self.assertEqual(piece.count(0), len(piece), f"{each}\n{shown}")
            elif file:
                self.assertEqual(file[each["offset"]:each["offset"] + len(piece)], piece, f"{each}\n{shown}")

    def test_random_images(self):
        for form, variants in KINDS.items():
            for options in variants:
                rng = random.Random(f"{form} {options} {SEED}")
                with self.subTest(format=form, options=options, seed=SEED), \
                     tempfile.TemporaryDirectory(prefix="ostler-img-") as folder:
                    size = rng.choice((512 * rng.randrange(1, 9000), MIB * rng.randrange(1, 8)))
                    base = Image(self, Path(folder), "base", (form, options), size, rng)
                    self.same(base, form == "vhdx")
                    if form == "luks" or "encrypt" in options:
                        continue  # an overlay's options would have to name the secret too
                    other = max(512, base.size + 512 * rng.choice((0, -8, -1000, 8, 1000, 5000)))
                    top = Image(self, Path(folder), "top", rng.choice(OVERLAYS), other, rng, backing=base)
                    top.story = base.story + top.story
                    self.same(top, form == "vhdx")

    def test_images_that_are_alike(self):
        # Of vhdx ours knows more; an encrypted image would need the secret's name in both operands.
        kinds = [(form, options) for form, variants in KINDS.items() for options in variants
                 if form not in ("vhdx", "luks") and "encrypt" not in options]
        results = set()
        for kind in kinds:
            rng = random.Random(f"alike {kind} {SEED}")
            with self.subTest(kind=kind, seed=SEED), tempfile.TemporaryDirectory(prefix="ostler-img-") as folder:
                size = rng.choice((512 * rng.randrange(1, 9000), MIB * rng.randrange(1, 8)))
                first = Image(self, Path(folder), "first", kind, size, rng)
                others = [first.converted("same", kind, rng.choice(("0", "4k"))),
                          first.converted("other", rng.choice(kinds), rng.choice(("0", "4k"))),
                          Image(self, Path(folder), "top", rng.choice(OVERLAYS), first.size, rng, backing=first)]
                for other in filter(None, others):
                    words = ["compare", "-s", "--image-opts", first.opened()[-1], other.opened()[-1]]
                    theirs, ours = (command(program, words, folder) for program in ("qemu-img", judge.BIN / "ostler-img"))
                    self.assertEqual((ours.returncode, ours.stdout), (theirs.returncode, theirs.stdout),
                                     "\n".join((*first.story, *other.story, *words)))
                    results.add(ours.returncode)
        self.assertEqual(results, {0, 1}, "some are alike and some are not")

    def test_filters_and_protocols(self):
        with tempfile.TemporaryDirectory(prefix="ostler-img-") as folder:
            rng = random.Random(f"filters {SEED}")
            image = Image(self, Path(folder), "base", ("qcow2", ""), 3 * MIB, rng)
            file = {"driver": "file", "filename": "base"}
            for name in ({"driver": "null-co", "size": MIB, "read-zeroes": True},
                         {"driver": "raw", "file": {"driver": "null-co", "size": MIB, "read-zeroes": True}},
                         {"driver": "qcow2", "file": {"driver": "blkdebug", "image": file}},
                         {"driver": "preallocate", "file": file},
                         {"driver": "raw", "offset": 64 * KIB, "size": 128 * KIB, "file": file}):
                words = ["map", "--output=json", "json:" + json.dumps(name)]
                theirs, ours = (command(program, words, folder) for program in ("qemu-img", judge.BIN / "ostler-img"))
                self.assertEqual((ours.returncode, theirs.returncode), (0, 0), ours.stderr + theirs.stderr)
                self.assertEqual(json.loads(ours.stdout), json.loads(theirs.stdout), "\n".join((*image.story, str(name))))


__all__ = ["Map"]
