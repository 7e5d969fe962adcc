"""Commands that copy content: convert, dd, commit, rebase; bench; and what only `ostler image` has."""

import io
import os
import tarfile

import judge
from judge import Judged, command, json, pattern_file, qemu_io

MIB = 1 << 20


class Content(Judged):
    def prepare(self, folder):
        pattern_file(folder / "a.raw", 4 * MIB)
        pattern_file(folder / "b.raw", MIB, seed=3)
        self.make(folder, "create", "-q", "-f", "qcow2", "base.qcow2", "8M")
        qemu_io(folder / "base.qcow2", "write -P 1 0 1M", "write -P 1 6M 64k")
        self.make(folder, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "mid.qcow2")
        qemu_io(folder / "mid.qcow2", "write -P 2 512k 1M", "write -z 100k 200k")
        self.make(folder, "create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2", "10M")
        qemu_io(folder / "top.qcow2", "write -P 3 1M 1M", "write -P 3 9M 4k", "write -z 6M 64k")
        self.make(folder, "create", "-q", "-f", "qcow2", "other.qcow2", "8M")
        qemu_io(folder / "other.qcow2", "write -P 1 0 512k", "write -P 9 4M 1M")

    # --- convert ---

    def test_convert_between_formats(self):
        for fmt in ("raw", "qcow2", "vdi"):
            for source in ("a.raw", "top.qcow2"):
                self.both("convert", "-O", fmt, source, "out", status=0)
                self.same_content("out", fmt=fmt)
                if fmt != "raw":
                    self.sound("out", fmt)

    def test_convert_is_sparse(self):
        self.both("convert", "-O", "raw", "top.qcow2", "out", status=0)
        self.assertLess((self.ours / "out").stat().st_blocks * 512, 4 * MIB)
        self.both("convert", "-S", "0", "-O", "raw", "top.qcow2", "out", status=0)
        # Not by its blocks, of which the host's file system may take one for itself.
        with open(self.ours / "out", "rb") as file:
            self.assertEqual(os.lseek(file.fileno(), 0, os.SEEK_HOLE), 10 * MIB)
        self.same_content("out", fmt="raw")

    def test_convert_options(self):
        for words in (["-W"], ["-m", "1"], ["-m", "16"], ["-S", "64k"], ["-S", "4M"], ["-t", "none"], ["-T", "none"],
                      ["-t", "writethrough"], ["-f", "raw"], ["-U"], ["-C"], ["--salvage"], ["-r", "1G"]):
            self.both("convert", *words, "-O", "qcow2", "a.raw", "out", status=0)
            self.same_content("out", fmt="qcow2")
            self.sound("out")

    def test_convert_compressed(self):
        for words in ([], ["-o", "compression_type=zstd"], ["-W", "-m", "4"], ["-o", "cluster_size=4k"]):
            self.both("convert", "-c", "-O", "qcow2", *words, "top.qcow2", "out", status=0)
            self.same_content("out", fmt="qcow2")
            self.sound("out")
        self.both("convert", "-c", "-O", "raw", "a.raw", "out", status=1)
        self.both("convert", "-c", "-O", "qcow2", "-o", "preallocation=full", "a.raw", "out", status=1)

    def test_convert_compressed_to_vmdk(self):
        self.both("create", "-q", "-f", "vmdk", "there.vmdk", "4M", status=0)
        self.both("convert", "-c", "-n", "-O", "vmdk", "a.raw", "there.vmdk", status=0)
        self.same_content("there.vmdk", fmt="vmdk")
        for words in ([], ["-o", "subformat=twoGbMaxExtentSparse"], ["-o", "subformat=streamOptimized"]):
            done = self.both("convert", "-c", "-O", "vmdk", *words, "a.raw", "out.vmdk", status=0)
            self.same_content("out.vmdk", fmt="vmdk")
            self.assertEqual("warning: -c" in done.stderr, words[1:] != ["subformat=streamOptimized"], done.stderr)
        for folder in (self.theirs, self.ours):
            (folder / "out.vmdk").unlink()
        done = self.both("convert", "-c", "-O", "vmdk", "-o", "subformat=monolithicFlat", "a.raw", "out.vmdk", status=1)
        self.assertIn("-c: ", done.stderr)
        self.assertFalse((self.ours / "out.vmdk").exists())

    def test_convert_several_sources(self):
        self.both("convert", "-O", "qcow2", "a.raw", "b.raw", "top.qcow2", "out", status=0)
        self.same_content("out", fmt="qcow2")

    def test_convert_onto_a_backing_file(self):
        self.both("convert", "-O", "qcow2", "-B", "mid.qcow2", "-F", "qcow2", "top.qcow2", "out", status=0)
        self.both("info", "out", status=0, ignore=["disk size"])
        self.same_content("out", fmt="qcow2")
        self.assertLess((self.ours / "out").stat().st_size, 2 * MIB)
        self.both("convert", "-O", "qcow2", "-B", "mid.qcow2", "top.qcow2", "out", status=1)
        self.both("convert", "-O", "raw", "-B", "mid.qcow2", "-F", "qcow2", "top.qcow2", "out", status=1)

    def test_convert_into_an_existing_image(self):
        for folder in (self.theirs, self.ours):
            self.make(folder, "convert", "-O", "qcow2", "other.qcow2", "there")
        self.both("convert", "-n", "-O", "qcow2", "a.raw", "there", status=0)
        self.same_content("there", fmt="qcow2")
        self.both("convert", "-n", "-O", "qcow2", "top.qcow2", "there", status=1)
        for folder in (self.theirs, self.ours):
            self.make(folder, "create", "-f", "qcow2", "empty", "4M")
        self.both("convert", "-n", "--target-is-zero", "-O", "qcow2", "a.raw", "empty", status=0)
        self.same_content("empty", fmt="qcow2")
        self.both("convert", "-n", "--target-image-opts", "a.raw", "driver=qcow2,file.filename=there", status=0)
        self.same_content("there", fmt="qcow2")

    def test_convert_a_snapshot(self):
        for folder in (self.theirs, self.ours):
            self.make(folder, "snapshot", "-c", "before", "other.qcow2")
            qemu_io(folder / "other.qcow2", "write -P 5 0 2M")
        for which in ("before", "snapshot.name=before", "snapshot.id=1"):
            self.both("convert", "-l", which, "-O", "raw", "other.qcow2", "out", status=0)
            self.same_content("out", fmt="raw")
        self.both("convert", "-l", "nothing", "-O", "raw", "other.qcow2", "out", status=1)

    def test_convert_with_bitmaps(self):
        for folder in (self.theirs, self.ours):
            self.make(folder, "bitmap", "--add", "other.qcow2", "one")
            self.make(folder, "bitmap", "--add", "--disable", "-g", "4k", "other.qcow2", "two")
            qemu_io(folder / "other.qcow2", "write -P 5 1M 2M")
        self.both("convert", "--bitmaps", "-O", "qcow2", "other.qcow2", "out", status=0)
        self.both("info", "--output=json", "out", status=0, ignore=["actual-size"])
        self.same_content("out", fmt="qcow2")
        self.sound("out")

    def test_convert_progress(self):
        ours = self.both("convert", "-p", "a.raw", "out", status=0, output=False)
        self.assertRegex(ours.stdout, r"(?s)\A    \(0\.00/100%\)\s.*    \(100\.00/100%\)\n+\Z")
        self.assertEqual(self.our("convert", "-p", "-q", "a.raw", "out").stdout, "")
        self.assertEqual(self.our("convert", "a.raw", "out").stdout, "")

    def test_convert_mistakes(self):
        for words in (["a.raw"], [], ["missing", "out"], ["-n", "a.raw", "out"], ["-m", "0", "a.raw", "out"],
                      ["-m", "17", "a.raw", "out"], ["-S", "100", "a.raw", "out"], ["-S", "x", "a.raw", "out"],
                      ["-C", "-S", "4k", "a.raw", "out"], ["-C", "--salvage", "a.raw", "out"],
                      ["--target-is-zero", "a.raw", "out"], ["--target-image-opts", "a.raw", "driver=raw"],
                      ["-n", "-o", "size=3M", "a.raw", "b.raw"], ["-t", "never", "a.raw", "out"],
                      ["-T", "never", "a.raw", "out"], ["-r", "fast", "a.raw", "out"], ["-o", "siez=1", "a.raw", "out"],
                      ["-O", "nonsense", "a.raw", "out"], ["-f", "nonsense", "a.raw", "out"],
                      ["--bitmaps", "-O", "qcow2", "a.raw", "out"], ["--skip-broken-bitmaps", "a.raw", "out"]):
            self.both("convert", *words, status=1)
            self.assertFalse((self.ours / "out").exists(), words)

    def test_convert_an_image_into_itself(self):
        before = (self.ours / "a.raw").read_bytes()
        self.both("convert", "a.raw", "a.raw", status=1)
        self.assertEqual((self.ours / "a.raw").read_bytes(), before)

    # --- dd ---

    def test_dd(self):
        for words in ([], ["bs=1M"], ["bs=1M", "count=2"], ["bs=1M", "count=2", "skip=1"], ["bs=3M", "skip=1"],
                      ["bs=1000", "skip=3"], ["bs=1M", "count=2", "skip=10"], ["bs=1M", "count=100", "skip=1"]):
            self.both("dd", "if=a.raw", "of=out", *words, status=0)
            self.assertEqual((self.ours / "out").read_bytes(), (self.theirs / "out").read_bytes(), words)
        self.both("dd", "-f", "raw", "-O", "qcow2", "bs=64k", "if=a.raw", "of=out.qcow2", status=0)
        self.same_content("out.qcow2", fmt="qcow2")

    def test_dd_mistakes(self):
        for words in (["if=a.raw"], ["of=out"], ["if=a.raw", "of=out", "bs=0"], ["if=a.raw", "of=out", "bs=x"],
                      ["if=a.raw", "of=out", "count=x"], ["if=a.raw", "of=out", "seek=1"], ["if=missing", "of=out"]):
            self.both("dd", *words, status=1)

    # --- commit ---

    def chain_is_sound(self, *images):
        for image in images:
            self.sound(image)
            self.same_content(image, fmt="qcow2")

    def test_commit(self):
        self.both("commit", "top.qcow2", status=0)
        self.chain_is_sound("top.qcow2", "mid.qcow2", "base.qcow2")
        done = command("qemu-img", ["map", "--output=json", "top.qcow2"], self.ours)
        self.assertTrue(all(each["depth"] > 0 or not each["present"] for each in json.loads(done.stdout)), done.stdout)

    def test_commit_that_keeps_the_image(self):
        self.both("commit", "-d", "top.qcow2", status=0)
        self.chain_is_sound("top.qcow2", "mid.qcow2", "base.qcow2")

    def test_commit_into_a_lower_image(self):
        before = command("qemu-img", ["convert", "-O", "raw", "top.qcow2", "../before"], self.ours)
        self.assertEqual(before.returncode, 0)
        self.both("commit", "-b", "base.qcow2", "top.qcow2", status=0)
        self.sound("base.qcow2")
        done = command("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", "base.qcow2", "../before"], self.ours)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_commit_mistakes(self):
        self.both("commit", "base.qcow2", status=1)
        self.both("commit", "a.raw", status=1)
        self.both("commit", "-b", "other.qcow2", "top.qcow2", status=1)
        self.both("commit", "-r", "fast", "top.qcow2", status=1)

    # --- rebase ---

    def test_rebase_keeps_the_content(self):
        for base in ("base.qcow2", "other.qcow2", ""):
            words = ["-b", base, *(["-F", "qcow2"] if base else [])]
            self.both("rebase", *words, "top.qcow2", status=0)
            self.both("info", "top.qcow2", status=0, ignore=["disk size"])
            self.chain_is_sound("top.qcow2")

    def test_rebase_unsafe(self):
        self.both("rebase", "-u", "-b", "missing", "-F", "raw", "top.qcow2", status=0)
        self.both("info", "top.qcow2", status=0, ignore=["disk size"])
        self.both("rebase", "-u", "-b", "", "top.qcow2", status=0)
        self.chain_is_sound("top.qcow2")

    def test_rebase_shares_what_it_reads_alone(self):
        self.both("rebase", "-U", "-u", "-b", "other.qcow2", "-F", "qcow2", "top.qcow2", status=0)
        self.both("snapshot", "-U", "-c", "name", "top.qcow2", status=1)
        self.both("check", "-U", "-r", "all", "top.qcow2", status=1)

    def test_rebase_mistakes(self):
        self.both("rebase", "top.qcow2", status=1)
        self.both("rebase", "-b", "other.qcow2", "top.qcow2", status=1)
        self.both("rebase", "-b", "missing", "-F", "qcow2", "top.qcow2", status=1)
        self.both("rebase", "-f", "raw", "-b", "b.raw", "-F", "raw", "a.raw", status=1)
        self.chain_is_sound("top.qcow2")

    # --- bench ---

    def test_bench(self):
        for words in ([], ["-w"], ["-d", "5", "-s", "8192", "-S", "512", "-o", "64k", "-t", "none"],
                      ["-w", "-d", "5", "--flush-interval", "10"],
                      ["-w", "-d", "5", "--flush-interval", "10", "--no-drain", "--pattern", "5"]):
            self.both("bench", "-c", "100", "-f", "raw", *words, "b.raw", status=0, ignore=["Run completed"])

    def test_bench_mistakes(self):
        for words in (["-c", "x"], ["--flush-interval", "10"], ["-w", "--flush-interval", "1"], ["-i", "hope"], ["-i", "native"], ["-n"],
                      ["-w", "--pattern", "256"]):
            self.both("bench", "-f", "raw", *words, "b.raw", status=1)

    # --- ostler image ---

    def people(self, *words, status=0):
        done = command(judge.BIN / "ostler", ["image", *words], self.ours)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done

    def test_people_formats_follow_from_names(self):
        self.people("create", "new.qcow2", "5M")
        self.people("convert", "a.raw", "copy.qcow2")
        for image in ("new.qcow2", "copy.qcow2"):
            self.sound(image)

    def test_people_shrink(self):
        for image in ("full.raw", "full.qcow2"):
            fmt = image.split(".")[1]
            self.make(self.ours, "convert", "-S", "0", "-O", fmt, "b.raw", image)
            qemu_io(self.ours / image, "write -P 0 0 512k", fmt=fmt)
            before = (self.ours / image).stat().st_blocks
            self.make(self.ours, "convert", "-O", "raw", image, "before")
            done = self.people("shrink", image)
            self.assertIn("given back", done.stdout)
            self.assertLessEqual((self.ours / image).stat().st_blocks, before - 512 * 1024 // 512)
            self.make(self.ours, "compare", "before", image)
        self.sound("full.qcow2")

    def test_people_shrink_cuts_the_end_of_a_file(self):
        self.make(self.ours, "create", "-q", "-f", "qcow2", "long.qcow2", "8M")
        qemu_io(self.ours / "long.qcow2", "write -P 7 0 8M", "write -P 0 1M 7M")
        self.people("shrink", "long.qcow2")
        self.assertLess((self.ours / "long.qcow2").stat().st_size, 3 << 20)
        self.sound("long.qcow2")

    def test_people_import(self):
        self.make(self.ours, "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", "a.raw", "disk.vmdk")
        with tarfile.open(self.ours / "machine.ova", "w", format=tarfile.USTAR_FORMAT) as archive:
            member = tarfile.TarInfo("machine.ovf")
            member.size = 700
            archive.addfile(member, io.BytesIO(bytes(700)))
            archive.add(self.ours / "disk.vmdk", "disk.vmdk")
        self.people("import", "machine.ova")
        self.people("import", "disk.vmdk", "second.qcow2")
        for image in ("machine.qcow2", "second.qcow2"):
            self.sound(image)
            self.make(self.ours, "compare", "-f", "raw", "-F", "qcow2", "a.raw", image)

    def test_people_import_overwrites_only_what_is_named(self):
        self.make(self.ours, "convert", "-O", "vmdk", "a.raw", "disk.vmdk")
        (self.ours / "disk.qcow2").write_bytes(b"precious")
        done = self.people("import", "disk.vmdk", status=1)
        self.assertIn("disk.qcow2: it exists already", done.stderr)
        self.assertEqual((self.ours / "disk.qcow2").read_bytes(), b"precious")
        self.people("import", "disk.vmdk", "disk.qcow2")
        self.make(self.ours, "compare", "-f", "raw", "-F", "qcow2", "a.raw", "disk.qcow2")

    def test_people_import_compresses(self):
        self.make(self.ours, "convert", "-O", "vdi", "a.raw", "disk.vdi")
        for target in ("new.qcow2", "new.vmdk"):
            fmt = target[4:]
            self.people("import", "-c", "-O", fmt, "disk.vdi", target)
            self.make(self.ours, "compare", "-f", "raw", "-F", fmt, "a.raw", target)
            self.assertLess((self.ours / target).stat().st_size, (self.ours / "a.raw").stat().st_size // 4)
        done = self.people("import", "-c", "-O", "parallels", "disk.vdi", "new.hds", status=1)
        self.assertIn("-c: the format 'parallels' does not compress; leave -c out", done.stderr)
        self.assertFalse((self.ours / "new.hds").exists())

    def test_people_import_of_what_is_no_archive(self):
        (self.ours / "broken.ova").write_bytes(b"x" * 4096)
        done = self.people("import", "broken.ova", status=1)
        self.assertIn("broken.ova: at offset 0", done.stderr)
