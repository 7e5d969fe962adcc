"""Reads and writes that fail in the middle of convert and commit: one sentence that names the file and the offset,
sound images, and nothing lost that was there before."""

import re
import resource
import subprocess

import judge
from judge import TIMEOUT, Judged, command, json, qemu_io

MIB = 1 << 20
MOST = 300  # requests that a command needs at most


def failing(path, kind, skip, error):
    """The image with one request of its file that fails."""
    return {"driver": "qcow2",
            "file": {"driver": "blkdebug",
                     "inject-error": [{"event": "none", "iotype": kind, "skip": skip, "once": True, "errno": error}],
                     "image": {"driver": "file", "filename": str(path)}}}


def options(image, before=""):
    """The same for --image-opts."""
    words = []
    for key, value in image.items():
        if isinstance(value, dict):
            words.append(options(value, f"{before}{key}."))
        elif isinstance(value, list):
            words += [options(each, f"{before}{key}.{i}.") for i, each in enumerate(value)]
        else:
            words.append(f"{before}{key}={'on' if value is True else value}")
    return ",".join(words)


class Fault(Judged):
    def prepare(self, folder):
        self.make(folder, "create", "-q", "-f", "qcow2", "base.qcow2", "8M")
        qemu_io(folder / "base.qcow2", "write -P 1 0 1M", "write -P 1 6M 64k")
        self.make(folder, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        qemu_io(folder / "top.qcow2", "write -P 2 512k 3M", "write -z 6M 64k", "write -P 3 7M 64k")
        self.make(folder, "convert", "-O", "raw", "top.qcow2", "content.raw")

    def failed(self, done, *texts):
        """One sentence that has these; whether it tells an offset of the content."""
        shown = f"{done.returncode}\n{done.stdout}{done.stderr}"
        self.assertEqual(done.returncode, 1, shown)
        self.assertRegex(done.stderr, r"\Aostler-img: [^\n]+\n\Z", shown)
        for text in texts:
            self.assertIn(text, done.stderr)
        return re.search(r"\.qcow2: (reading|writing)[^:]* failed at offset \d+: ", done.stderr) is not None

    def no_worse_than_leaks(self, image):
        done = command("qemu-img", ["check", "-f", "qcow2", image], self.ours)
        self.assertIn(done.returncode, (0, 3), f"{image}\n{done.stdout}{done.stderr}")

    def content(self, image, fmt="qcow2"):
        done = command("qemu-img", ["compare", "-f", fmt, "-F", "raw", image, "content.raw"], self.ours)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def until_it_works(self, once):
        """`once(n)`, where the nth request fails, as long as there are so many; how often an offset was told."""
        told = n = 0
        while n < MOST:
            result = once(n)
            if result is None:
                return told
            told += result
            n += 1 + n // 6
        self.fail(f"more than {MOST} requests")

    def test_convert_with_a_read_that_fails(self):
        def once(n):
            source = "json:" + json.dumps(failing("top.qcow2", "read", n, 5))
            done = self.our("convert", "-O", "qcow2", source, "out.qcow2")
            if done.returncode == 0:
                return self.content("out.qcow2")
            return self.failed(done, "top.qcow2: ", "Input/output error")
        self.assertGreater(self.until_it_works(once), 0)

    def test_convert_with_a_backing_file_that_fails(self):
        def once(n):
            top = {"driver": "qcow2", "file": {"driver": "file", "filename": "top.qcow2"},
                   "backing": failing("base.qcow2", "read", n, 5)}
            done = self.our("convert", "-O", "raw", "json:" + json.dumps(top), "out.raw")
            if done.returncode == 0:
                return self.content("out.raw", "raw")
            return self.failed(done, ".qcow2: ", "Input/output error")
        self.assertGreater(self.until_it_works(once), 0)

    def convert_with_failing(self, kind, *words, cluster="4k"):
        def once(n):
            self.make(self.ours, "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "out.qcow2", "8M")
            done = self.our("convert", "-n", "--target-image-opts", *words, "top.qcow2",
                            options(failing("out.qcow2", kind, n, 28)))
            if done.returncode == 0:
                self.sound("out.qcow2")
                return self.content("out.qcow2")
            self.no_worse_than_leaks("out.qcow2")
            return self.failed(done, "out.qcow2: ", "No space left on device")
        return self.until_it_works(once)

    def test_convert_with_a_write_that_fails(self):
        self.assertGreater(self.convert_with_failing("write"), 0)
        self.assertGreater(self.convert_with_failing("write", "-W", "-m", "1"), 0)

    def test_convert_compressed_with_a_write_that_fails(self):
        self.assertGreater(self.convert_with_failing("write", "-c", cluster="64k"), 0)

    def test_convert_with_a_flush_that_fails(self):
        self.convert_with_failing("flush", "-t", "writeback")

    def commit_with_failing(self, kind, error, text):
        """The base fails: the image keeps what it has, so that the chain reads as before."""
        def once(n):
            for name in ("base.qcow2", "top.qcow2"):
                judge.shutil.copy(self.theirs / name, self.ours / name)
            base = failing(self.ours / "base.qcow2", kind, n, error)
            self.make(self.ours, "rebase", "-u", "-b", "json:" + json.dumps(base), "-F", "qcow2", "top.qcow2")
            done = self.our("commit", "top.qcow2")
            self.make(self.ours, "rebase", "-u", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
            self.content("top.qcow2")
            if done.returncode == 0:
                self.sound("base.qcow2")
                return self.content("base.qcow2")
            self.no_worse_than_leaks("base.qcow2")
            self.sound("top.qcow2")
            told = self.failed(done, "base.qcow2: ", text)
            again = self.our("commit", "top.qcow2")
            self.assertEqual(again.returncode, 0, again.stderr)
            self.content("base.qcow2")
            return told
        return self.until_it_works(once)

    def test_commit_with_a_write_that_fails(self):
        self.assertGreater(self.commit_with_failing("write", 28, "No space left on device"), 0)

    def test_commit_with_a_read_of_the_base_that_fails(self):
        self.commit_with_failing("read", 5, "Input/output error")

    def test_commit_with_a_flush_that_fails(self):
        self.commit_with_failing("flush", 5, "Input/output error")

    def commit_of_failing(self, kind, error, text):
        """The image itself fails, while it is read or while it is emptied."""
        def once(n):
            for name in ("base.qcow2", "top.qcow2"):
                judge.shutil.copy(self.theirs / name, self.ours / name)
            done = self.our("commit", "--image-opts", options(failing("top.qcow2", kind, n, error)))
            self.content("top.qcow2")
            self.no_worse_than_leaks("top.qcow2")
            self.sound("base.qcow2")
            if done.returncode == 0:
                return self.content("base.qcow2")
            return self.failed(done, "top.qcow2: ", text)
        return self.until_it_works(once)

    def test_commit_of_an_image_that_cannot_be_read(self):
        self.assertGreater(self.commit_of_failing("read", 5, "Input/output error"), 0)

    def test_commit_of_an_image_that_cannot_be_emptied(self):
        self.commit_of_failing("write", 28, "No space left on device")

    def limited(self, bytes_of_a_file, *words):
        """Files may not grow beyond this: a write across the limit is short, and the next one fails."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_of_a_file, bytes_of_a_file))
        return subprocess.run([judge.BIN / "ostler-img", *words], cwd=self.ours, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=TIMEOUT, check=False, preexec_fn=limit)

    def test_convert_with_a_short_write(self):
        for fmt in ("raw", "qcow2", "vdi"):
            for size in (MIB + 512, 2 * MIB + 100, 3 * MIB - 1):
                self.make(self.ours, "create", "-q", "-f", fmt, "out", "8M")
                done = self.limited(size, "convert", "-n", "-O", fmt, "-S", "0", "top.qcow2", "out")
                self.failed(done, "out: writing failed at offset ", "File too large")
                if fmt != "raw":
                    self.sound("out", fmt)

    def test_create_without_space(self):
        for words in (["-f", "raw", "-o", "preallocation=full"], ["-f", "raw", "-o", "preallocation=falloc"],
                      ["-f", "qcow2", "-o", "preallocation=full"], ["-f", "vdi", "-o", "static=on"],
                      ["-f", "vpc", "-o", "subformat=fixed"], ["-f", "vhdx", "-o", "subformat=fixed"],
                      ["-f", "qcow2", "-o", "data_file=data,data_file_raw=on"],
                      ["-f", "vmdk", "-o", "subformat=monolithicFlat"]):
            before = sorted(each.name for each in self.ours.iterdir())
            self.failed(self.limited(2 * MIB, "create", "-q", *words, "new.vmdk", "8M"), "File too large")
            self.assertEqual(sorted(each.name for each in self.ours.iterdir()), before, words)
            (self.ours / "there").touch()
            self.failed(self.limited(2 * MIB, "create", "-q", *words, "there", "8M"), "File too large")
            self.assertTrue((self.ours / "there").exists(), words)
            (self.ours / "there").unlink()

    def test_commit_with_a_short_write(self):
        size = (self.ours / "base.qcow2").stat().st_size
        for more in (512, MIB + 100, 2 * MIB + 65536 + 4096):
            done = self.limited(size + more, "commit", "top.qcow2")
            self.assertTrue(self.failed(done, "base.qcow2: ", "File too large"), done.stderr)
            self.no_worse_than_leaks("base.qcow2")
            self.content("top.qcow2")
        done = self.our("commit", "top.qcow2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.content("base.qcow2")
