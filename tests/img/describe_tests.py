"""Commands that read: info, map, check, measure, snapshot -l, compare."""

import pty
import subprocess

import judge
from judge import Judged, json, os, pattern_file, qemu_io

MIB = 1 << 20


class Describe(Judged):
    def prepare(self, folder):
        pattern_file(folder / "a.raw", 4 * MIB)
        pattern_file(folder / "b.raw", 4 * MIB, seed=2)
        with open(folder / "long.raw", "wb") as file:
            file.write((folder / "a.raw").read_bytes() + bytes(MIB))
        with open(folder / "longer.raw", "wb") as file:
            file.write((folder / "a.raw").read_bytes() + bytes(MIB) + b"x" * 512)
        self.make(folder, "convert", "-O", "vdi", "a.raw", "a.vdi")
        self.make(folder, "create", "-q", "-f", "qcow2", "base.qcow2", "8M")
        qemu_io(folder / "base.qcow2", "write -P 1 0 1M", "write -P 1 6M 64k")
        self.make(folder, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "10M")
        qemu_io(folder / "top.qcow2", "write -P 2 512k 1M", "write -z 100k 200k")
        (folder / "below").mkdir()
        self.make(folder, "create", "-q", "-f", "qcow2", "-b", "../top.qcow2", "-F", "qcow2", "below/leaf.qcow2")
        self.make(folder, "convert", "-c", "-O", "qcow2", "a.raw", "packed.qcow2")
        self.make(folder, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "reserved.qcow2", "4M")

    # --- info ---

    def test_info_of_raw(self):
        self.both("info", "a.raw", status=0)
        self.both("info", "--output=json", "a.raw", status=0)
        self.both("info", "-f", "raw", "-U", "--output", "human", "a.raw", status=0)

    def test_info_of_a_part_of_a_file(self):
        file = {"driver": "file", "filename": "a.raw"}
        for name in ({"driver": "raw", "offset": 512, "file": file}, {"driver": "raw", "size": 1024, "file": file},
                     {"driver": "raw", "file": {"driver": "raw", "offset": 4096, "size": 8192, "file": file}},
                     {"driver": "raw", "file": file}):
            def told(run, name=name):
                done = run("info", "--output=json", "json:" + json.dumps(name))
                self.assertEqual(done.returncode, 0, done.stderr)
                text = json.loads(done.stdout)["filename"]
                return json.loads(text[5:]) if text.startswith("json:") else text
            self.assertEqual(told(self.our), told(self.their))
        text = self.our("info", "--image-opts", "driver=raw,offset=512,file.driver=file,file.filename=a.raw").stdout
        self.assertTrue(text.startswith('image: json:{"driver": "raw", "'), text)

    def test_info_of_vdi(self):
        self.both("info", "a.vdi", status=0, ignore=["disk size"])
        self.both("info", "--output=json", "a.vdi", status=0, ignore=["actual-size"])

    def test_info_of_qcow2(self):
        for image in ("base.qcow2", "top.qcow2", "below/leaf.qcow2", "packed.qcow2"):
            self.both("info", image, status=0, ignore=["disk size"])
            self.both("info", "--output=json", image, status=0, ignore=["actual-size"])

    def test_info_of_a_chain(self):
        self.both("info", "--backing-chain", "below/leaf.qcow2", status=0, ignore=["disk size"])
        self.both("info", "--backing-chain", "--output=json", "below/leaf.qcow2", status=0, ignore=["actual-size"])
        for folder in (self.theirs, self.ours):
            (folder / "base.qcow2").unlink()
        self.both("info", "top.qcow2", status=0, ignore=["disk size"])
        self.both("info", "--backing-chain", "top.qcow2", status=1)

    def test_info_with_snapshots(self):
        self.make(self.theirs, "snapshot", "-c", "first", "top.qcow2")
        self.make(self.theirs, "snapshot", "-c", "a name with spaces", "top.qcow2")
        (self.ours / "top.qcow2").write_bytes((self.theirs / "top.qcow2").read_bytes())
        self.both("info", "top.qcow2", status=0, ignore=["disk size"])
        self.both("info", "--output=json", "top.qcow2", status=0, ignore=["actual-size"])
        self.both("snapshot", "-l", "top.qcow2", status=0)

    def test_info_of_a_chain_of_one(self):
        self.both("info", "--backing-chain", "--output=json", "a.raw", status=0)

    def test_info_by_options_and_json_names(self):
        self.both("info", "--image-opts", "driver=raw,file.filename=a.raw", status=0)
        self.both("info", "--image-opts", "driver=raw,file.driver=file,file.filename=a.raw", status=0)
        self.both("info", 'json:{"driver":"raw","file":{"driver":"file","filename":"a.raw"}}', status=0)

    def test_info_mistakes(self):
        self.both("info", status=1)
        self.both("info", "missing", status=1)
        self.both("info", "a.raw", "b.raw", status=1)
        self.both("info", "--output=xml", "a.raw", status=1)
        self.both("info", "-f", "vdi", "a.raw", status=1)
        self.both("info", "-f", "nonsense", "a.raw", status=1)
        self.both("info", "--backing-chian", "a.raw", status=1)
        self.both("info", "--image-opts", "-f", "raw", "driver=raw", status=1)

    # --- map ---

    def test_map_of_raw(self):
        self.both("map", "a.raw", status=0)
        self.both("map", "--output=json", "a.raw", status=0)

    def test_map_of_vdi(self):
        self.both("map", "a.vdi", status=0)
        self.both("map", "--output=json", "a.vdi", status=0)

    def test_map_of_qcow2(self):
        for image in ("base.qcow2", "top.qcow2", "below/leaf.qcow2"):
            self.both("map", image, status=0)
            self.both("map", "--output=json", image, status=0)
        self.both("map", "--output=json", "packed.qcow2", status=0)
        self.both("map", "packed.qcow2", status=1, output=False)

    def test_map_of_preallocated_metadata(self):
        self.both("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "holes.qcow2", "8M", status=0)
        for folder in (self.theirs, self.ours):
            qemu_io(folder / "holes.qcow2", "write -P 3 1M 64k", "write -P 3 5M 1M")
        done = self.both("map", "--output=json", "holes.qcow2", status=0, ignore=["offset"])
        self.assertIn('"zero": true', done.stdout)
        self.assertEqual(len(self.our("map", "holes.qcow2").stdout.splitlines()), 3)

    def test_map_of_a_part(self):
        for start in ("0", "1k", "64k", "100000", "3M", "4M", "20M"):
            self.both("map", "--output=json", "--start-offset", start, "--max-length=1M", "a.raw", status=0)

    def test_map_mistakes(self):
        self.both("map", "--start-offset=here", "a.raw", status=1)
        self.both("map", "--max-length=much", "a.raw", status=1)

    # --- compare ---

    def test_compare_identical(self):
        self.both("compare", "a.raw", "a.raw", status=0)
        self.both("compare", "a.raw", "a.vdi", status=0)
        self.both("compare", "-f", "raw", "-F", "vdi", "a.raw", "a.vdi", status=0)
        self.both("compare", "-q", "a.raw", "a.vdi", status=0)
        self.both("compare", "a.raw", "packed.qcow2", status=0)
        self.both("compare", "-s", "top.qcow2", "top.qcow2", status=0)
        self.both("compare", "-s", "-U", "a.raw", "packed.qcow2")
        self.both("compare", "base.qcow2", "top.qcow2", status=1)

    def test_compare_different(self):
        self.both("compare", "a.raw", "b.raw", status=1)
        self.both("compare", "-q", "a.raw", "b.raw", status=1)

    def test_compare_sizes(self):
        for pair in (("a.raw", "long.raw"), ("long.raw", "a.vdi")):
            self.both("compare", *pair, status=0)
            self.both("compare", "-s", *pair, status=1)
        self.both("compare", "a.raw", "longer.raw", status=1)
        self.both("compare", "longer.raw", "a.raw", status=1)
        self.both("compare", "long.raw", "longer.raw", status=1)

    def test_compare_progress(self):
        ours = self.both("compare", "-p", "a.raw", "a.vdi", status=0, output=False)
        self.assertRegex(ours.stdout, r"(?s)\A    \(0\.00/100%\)\s.*    \(100\.00/100%\)\s")

    def test_compare_mistakes(self):
        self.both("compare", "a.raw", status=1)
        self.both("compare", "a.raw", "missing", status=2)
        self.both("compare", "missing", "a.raw", status=2)
        self.both("compare", "-f", "vdi", "a.raw", "a.vdi", status=2)

    # --- check, measure, snapshot -l ---

    def test_check_of_a_format_without_tables(self):
        self.both("check", "a.raw", status=63)
        self.both("check", "--output=json", "a.raw", status=63)

    def test_check_of_qcow2(self):
        for image in ("base.qcow2", "top.qcow2", "packed.qcow2", "reserved.qcow2"):
            self.both("check", image, status=0)
            self.both("check", "--output=json", image, status=0)
            self.both("check", "-q", image, status=0)

    def test_check_finds_and_repairs_leaks(self):
        for folder in (self.theirs, self.ours):
            # The L1 entry of the only L2 table is emptied: its cluster and all data leak.
            with open(folder / "base.qcow2", "r+b") as file:
                file.seek(40)
                table = int.from_bytes(file.read(8), "big")
                file.seek(table)
                file.write(bytes(8))
        self.both("check", "base.qcow2", status=3, ignore=["Image end"])
        self.both("check", "--output=json", "base.qcow2", status=3, ignore=["image-end-offset"])
        self.both("check", "-r", "leaks", "base.qcow2", status=0, ignore=["Image end"])
        self.both("check", "base.qcow2", status=0, ignore=["Image end"])

    def test_check_finds_and_repairs_corruption(self):
        for folder in (self.theirs, self.ours):
            # The first refcount block says that nothing is used.
            with open(folder / "base.qcow2", "r+b") as file:
                file.seek(48)
                file.seek(int.from_bytes(file.read(8), "big"))
                block = int.from_bytes(file.read(8), "big")
                file.seek(block + 8)
                file.write(bytes(8))
        self.both("check", "base.qcow2", status=2, ignore=["Image end"])
        self.both("check", "--output=json", "base.qcow2", status=2, ignore=["image-end-offset"])
        self.both("check", "-r", "all", "base.qcow2", status=0, ignore=["Image end"])
        self.both("check", "base.qcow2", status=0, ignore=["Image end"])

    def test_check_mistakes(self):
        self.both("check", status=1)
        self.both("check", "missing", status=1)
        self.both("check", "-r", "everything", "a.raw", status=1)

    def test_measure_raw(self):
        self.both("measure", "--size", "1G", status=0)
        self.both("measure", "--size", "1E", "-O", "qcow2", status=1)
        self.both("info", "null-co://,size=1M", status=1)
        self.both("measure", "--size", "1G", "-O", "raw", "--output=json", status=0)
        self.both("measure", "-O", "raw", "a.vdi", status=0)

    def test_measure_qcow2(self):
        for words in (["--size", "1G"], ["a.raw"], ["top.qcow2"], ["-o", "cluster_size=4k", "top.qcow2"],
                      ["-o", "preallocation=full", "--size", "10M"], ["--size", "2T"]):
            self.both("measure", "-O", "qcow2", *words, status=0)
            self.both("measure", "-O", "qcow2", "--output=json", *words, status=0)

    def test_measure_bitmaps(self):
        for folder in (self.theirs, self.ours):
            for words in (["one"], ["-g", "4k", "--disable", "of a longer name"], ["-g", "512", "fine"]):
                self.make(folder, "bitmap", "--add", *words[:-1], "base.qcow2", words[-1])
        for words in ([], ["-o", "cluster_size=4k"], ["-o", "cluster_size=512"], ["-o", "compat=0.10"]):
            self.both("measure", "-O", "qcow2", *words, "base.qcow2", status=0)
            self.both("measure", "-O", "qcow2", "--output=json", *words, "base.qcow2", status=0)
        self.both("measure", "-O", "raw", "base.qcow2", status=0)
        self.both("measure", "-O", "qcow2", "top.qcow2", status=0)

    def test_measure_of_what_would_be_encrypted(self):
        for words in (["-O", "luks"], ["-O", "luks", "-o", "key-secret=none"], ["-O", "qcow2", "-o", "encrypt.format=luks"],
                      ["-O", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=none"]):
            self.both("measure", *words, "--size", "1M", status=1)
        self.both("measure", "--object", "secret,id=s,data=x", "-O", "luks", "-o", "key-secret=s", "--size", "1M", status=0)

    def test_measure_mistakes(self):
        self.both("measure", status=1)
        self.both("measure", "--size", "1G", "a.raw", status=1)
        self.both("measure", "--size", "big", status=1)
        self.both("measure", "--size", "1G", "-O", "vdi", status=1)
        self.both("measure", "--size", "1G", "-O", "nonsense", status=1)

    def test_snapshots_of_raw(self):
        self.both("snapshot", "-l", "a.raw", status=0)
        self.both("snapshot", "a.raw", status=0)
        for action in ("-c", "-a", "-d"):
            self.both("snapshot", action, "x", "a.raw", status=1)
        self.both("snapshot", "-l", "-c", "x", "a.raw", status=1)

    def test_program_mistakes(self):
        self.both(status=1)
        self.both("frobnicate", status=1)
        ours = self.our("infoo", "a.raw")
        self.assertIn("did you mean 'info'", ours.stderr)

    def test_results_have_a_line_of_their_own_on_a_terminal(self):
        # Slow enough that the progress line is shown.
        slow = 'json:{"driver":"null-co","size":"%s","latency-ns":1000000,"read-zeroes":false}'
        for words, last in (([slow % "1100M", slow % "1100M"], "Images are identical."),
                            ([slow % "1100M", slow % "1200M"], "Warning: Image size mismatch!")):
            terminal, side = pty.openpty()
            process = subprocess.Popen([judge.BIN / "ostler-img", "compare", *words], cwd=self.ours, stdin=subprocess.DEVNULL,
                                       stdout=side, stderr=side)
            os.close(side)
            text = b""
            while True:
                try:
                    piece = os.read(terminal, 4096)
                except OSError:  # EIO: the other side is closed
                    break
                if not piece:
                    break
                text += piece
            os.close(terminal)
            process.wait(timeout=judge.TIMEOUT)
            lines = text.decode().split("\r\n")
            self.assertTrue(lines[0].startswith("\rcompare: "), lines)
            self.assertEqual(lines[1], last, lines)
