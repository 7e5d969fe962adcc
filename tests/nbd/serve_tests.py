"""ostler-img serve, used by qemu-img and libnbd's tools."""

import json
import os
import signal
import time
from peers import MIB, TIMEOUT, Peers


def data_bytes(path):
    """What is no hole; blocks of the file system's own do not count."""
    total = at = 0
    with open(path, "rb") as file:
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: only holes follow
                return total
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            total, at = total + end - at, end


class Serve(Peers):
    def test_qemu_img_reads(self):
        disk = self.content("disk.raw")
        _, uri = self.serve("-f", "raw", "--socket", self.path("s"), "-t", "-r", disk)
        self.same(disk, uri)
        self.run_tool("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, self.path("copy.raw"))
        self.same(disk, self.path("copy.raw"))
        ours = json.loads(self.run_tool("qemu-img", "map", "-f", "raw", "--output=json", uri).stdout)
        theirs = json.loads(self.run_tool("qemu-img", "map", "-f", "raw", "--output=json", disk).stdout)
        shape = [(each["start"], each["length"], each["zero"]) for each in theirs]
        self.assertEqual([(each["start"], each["length"], each["zero"]) for each in ours], shape)
        info = json.loads(self.run_tool("qemu-img", "info", "-f", "raw", "--output=json", uri).stdout)
        self.assertEqual(info["virtual-size"], 4 * MIB)

    def test_qemu_img_writes(self):
        disk = self.content("disk.raw")
        with open(self.path("target.raw"), "wb") as file:
            file.write(b"\xff" * 4 * MIB)
        _, uri = self.serve("-f", "raw", "--socket", self.path("s"), "-t", self.path("target.raw"))
        self.run_tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", disk, uri)
        self.same(disk, self.path("target.raw"))

    def test_qemu_io_over_tcp(self):
        disk = self.content("disk.raw")
        _, uri = self.serve("-f", "raw", "--address", "127.0.0.1", "--port", "0", "-t", disk)
        self.run_tool("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "write -z 2M 64k", "-c", "discard 3M 64k",
                      "-c", "flush", "-c", "read -P 7 1M 64k", "-c", "read -P 0 2M 64k", uri)

    def test_nbdinfo_and_nbdcopy(self):
        disk = self.content("disk.raw")
        self.run_tool("truncate", "-s", 4 * MIB, self.path("target.raw"))
        _, uri = self.serve("-f", "raw", "--socket", self.path("s"), "-t", "-e", "8", "-x", "an export", "-D", "a text", disk)
        told = json.loads(self.run_tool("nbdinfo", "--json", uri.replace(" ", "%20")).stdout)
        export = told["exports"][0]
        self.assertEqual(export["export-size"], 4 * MIB)
        self.assertEqual(export["description"], "a text")
        self.assertTrue(export["can_multi_conn"] and export["can_df"] and export["can_fast_zero"])
        listed = json.loads(self.run_tool("nbdinfo", "--list", "--json", uri.replace(" ", "%20")).stdout)
        self.assertEqual(listed["exports"][0]["export-name"], "an export")
        _, target = self.serve("-f", "raw", "--socket", self.path("t"), "-t", "-e", "0", self.path("target.raw"))
        self.run_tool("nbdcopy", uri.replace(" ", "%20"), target)
        self.same(disk, self.path("target.raw"))

    def test_qcow2_with_backing_file_and_depth(self):
        self.content("base.raw")
        self.run_tool("qemu-img", "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2")
        self.run_tool("qemu-io", "-f", "qcow2", "-c", "write -P 9 1M 64k", "top.qcow2")
        _, uri = self.serve("-f", "qcow2", "--socket", self.path("s"), "-t", "-A", "top.qcow2")
        told = json.loads(self.run_tool("nbdinfo", "--map=qemu:allocation-depth", "--json", uri).stdout)
        self.assertEqual([(each["offset"], each["type"]) for each in told], [(0, 2), (MIB, 1), (MIB + 65536, 2)])

    def test_bitmap(self):
        self.run_tool("qemu-img", "create", "-f", "qcow2", "disk.qcow2", "4M")
        self.run_tool("qemu-img", "bitmap", "--add", "disk.qcow2", "b0")
        self.run_tool("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", "disk.qcow2")
        _, uri = self.serve("-f", "qcow2", "--socket", self.path("s"), "-t", "-r", "-B", "b0", "disk.qcow2")
        told = json.loads(self.run_tool("nbdinfo", "--map=qemu:dirty-bitmap:b0", "--json", uri).stdout)
        self.assertEqual([(each["offset"], each["length"], each["type"]) for each in told],
                         [(0, MIB, 0), (MIB, 65536, 1), (MIB + 65536, 3 * MIB - 65536, 0)])
        done = self.img("serve", "-f", "qcow2", "--socket", self.path("t"), "-r", "-B", "none", "disk.qcow2", status=1)
        self.assertIn("it has no bitmap 'none'", done.stderr)

    def test_ends_with_its_last_client_and_by_signals(self):
        disk = self.content("disk.raw")
        process, uri = self.serve("-f", "raw", "--socket", self.path("s"), disk)
        self.run_tool("nbdinfo", "--size", uri)
        self.assertEqual(process.wait(timeout=TIMEOUT), 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            process, uri = self.serve("-f", "raw", "--socket", self.path("s"), "-t", disk)
            process.send_signal(number)
            self.assertEqual(process.wait(timeout=TIMEOUT), 0)
            self.assertFalse(self.path("s").exists())

    def reads(self, uri, *commands):
        self.run_tool("qemu-io", "-f", "raw", *(word for each in commands for word in ("-c", each)), uri)

    def test_offset(self):
        disk = self.content("disk.raw")
        _, uri = self.serve("-f", "raw", "-k", self.path("s"), "-t", "--offset", "1M", disk)
        self.assertEqual(int(self.run_tool("nbdinfo", "--size", uri).stdout), 3 * MIB)
        self.reads(uri, "write -P 7 0 64k", "flush")
        self.run_tool("qemu-io", "-r", "-U", "-f", "raw", "-c", "read -P 7 1M 64k", disk)
        other = self.content("other.raw")
        for offset, text in (("5M", "beyond its end"), ("100", "multiples of 512"), ("x", "--offset")):
            self.assertIn(text, self.img("serve", "-f", "raw", "-k", self.path("t"), "-o", offset, other, status=1).stderr)

    def test_a_temporary_copy_takes_the_writes(self):
        disk = self.content("disk.raw")
        before = disk.read_bytes()
        process, uri = self.serve("-f", "raw", "-k", self.path("s"), "-t", "-s", "-o", "1M", disk)
        # Beside a reader: the image is only read.
        self.run_tool("qemu-img", "info", "-f", "raw", disk)
        self.reads(uri, "write -P 7 0 64k", "flush")
        self.reads(uri, "read -P 7 0 64k")
        process.terminate()
        self.assertEqual(process.wait(timeout=TIMEOUT), 0)
        self.assertEqual(disk.read_bytes(), before)

    def test_a_snapshot_of_the_image(self):
        self.run_tool("qemu-img", "create", "-f", "qcow2", "disk.qcow2", "1M")
        self.run_tool("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", "disk.qcow2")
        self.run_tool("qemu-img", "snapshot", "-c", "then", "disk.qcow2")
        self.run_tool("qemu-io", "-f", "qcow2", "-c", "write -P 2 0 64k", "disk.qcow2")
        for name, which in (("s", "then"), ("t", "snapshot.name=then")):
            _, uri = self.serve("-f", "qcow2", "-k", self.path(name), "-t", "-l", which, "disk.qcow2")
            self.run_tool("qemu-io", "-r", "-f", "raw", "-c", "read -P 1 0 64k", uri)
            self.assertEqual(self.run_tool("nbdinfo", "--is", "read-only", uri, status=None).returncode, 0)
        self.assertIn("-l", self.img("serve", "-k", self.path("u"), "-l", "never", "disk.qcow2", status=1).stderr)

    def test_discards_and_zeros(self):
        def blocks(*words):
            path = self.path(f"full{len(self.running)}.raw")
            path.write_bytes(b"\xff" * MIB)
            _, uri = self.serve("-f", "raw", "-k", self.path(f"s{len(self.running)}"), "-t", *words, path)
            self.reads(uri, "discard 0 512k", "write -P 0 512k 512k", "flush")
            return data_bytes(path)
        self.assertEqual(blocks("--discard=ignore"), MIB)
        self.assertEqual(blocks("--discard=unmap"), MIB // 2)
        self.assertEqual(blocks("--discard=unmap", "--detect-zeroes=unmap"), 0)

    def test_in_the_background(self):
        disk, pid_file = self.content("disk.raw"), self.path("pid")
        words = ["serve", "-f", "raw", "--fork", "--pid-file", pid_file, "-t", "-r", "--bind", "127.0.0.1", "-p", "0", disk]
        # It returns though the server runs: that keeps none of our descriptors.
        uri = self.img(*words).stdout.strip()
        pid = int(pid_file.read_text())
        try:
            self.same(disk, uri)
            self.assertIn("belongs to another server", self.img(*words, status=1).stderr)
        finally:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + TIMEOUT
        while pid_file.exists():
            self.assertLess(time.monotonic(), deadline, "the file stays")
            time.sleep(0.01)
        done = self.img("serve", "--fork", "-k", self.path("s"), "none.raw", status=1)
        self.assertIn("no such disk image", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)

    def test_ways_to_reach_the_host(self):
        disk = self.content("disk.raw")
        for number, words in enumerate((["-n"], ["-n", "--aio=native"], ["--aio=threads"], ["--aio=io_uring", "-v"])):
            _, uri = self.serve("-f", "raw", "-k", self.path(f"s{number}"), "-t", "-r", *words, disk)
            self.same(disk, uri)

    def test_mistakes_are_explained(self):
        disk = self.content("disk.raw")
        for words, text in ((["--socket", "x", "--port", "1"], "excludes"), (["--tls-creds", "nowhere"], "no object 'nowhere'"), (["--tls-creds", "."], "neither server-cert.pem"),
                            (["--tls-creds", ""], "is missing"), (["--tls-authz", "a"], "leave it out"),
                            (["--shared", "9999"], "1024"), (["--socket", "/nowhere/x"], "No such file"),
                            (["--aio=native"], "--nocache"), (["--aio=some"], "io_uring"), (["--discard=no"], "unmap"),
                            (["--detect-zeroes=unmap", "--discard=ignore"], "needs --discard=unmap"),
                            (["--detect-zeroes=much"], "not one of off"), (["-n", "--cache=none"], "exclude each other"),
                            (["--pid-file", "/nowhere/pid", "-k", self.path("s")], "--pid-file")):
            done = self.img("serve", "-f", "raw", *words, disk, status=1)
            self.assertIn(text, done.stderr)
