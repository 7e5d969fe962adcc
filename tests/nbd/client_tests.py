"""The nbd node of ostler-img, with qemu-nbd and nbdkit as servers."""

import json
import time

import peers
from peers import MIB, TIMEOUT, Peers


class Client(Peers):
    def nbdkit(self, *words):
        socket = self.path("kit")
        self.start("nbdkit", "-f", "-U", socket, *words, until=socket)
        return f"nbd+unix:///?socket={socket}"

    def test_qemu_nbd(self):
        disk = self.content("disk.raw")
        self.start("qemu-nbd", "-r", "-f", "raw", "-t", "-k", self.path("q"), "-x", "an export", disk, until=self.path("q"))
        for name in (f"nbd+unix:///an%20export?socket={self.path('q')}", f"nbd:unix:{self.path('q')}:exportname=an export"):
            self.img("compare", "-f", "raw", "-F", "raw", name, disk)
        options = f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={self.path('q')},file.export=an export"
        info = json.loads(self.img("info", "--output=json", "--image-opts", options).stdout)
        self.assertEqual(info["virtual-size"], 4 * MIB)
        done = self.img("info", "-f", "raw", f"nbd+unix:///other?socket={self.path('q')}", status=1)
        self.assertIn("other", done.stderr)

    def test_map_tells_holes(self):
        disk = self.content("disk.raw")
        uri = self.nbdkit("file", disk)
        remote = json.loads(self.img("map", "-f", "raw", "--output=json", uri).stdout)
        local = json.loads(self.img("map", "-f", "raw", "--output=json", disk).stdout)
        shape = [(each["start"], each["length"], each["zero"], each["data"]) for each in local]
        self.assertEqual([(each["start"], each["length"], each["zero"], each["data"]) for each in remote], shape)

    def test_writes_through_qcow2(self):
        self.run_tool("truncate", "-s", "8M", self.path("disk"))
        uri = self.nbdkit("file", self.path("disk"))
        self.run_tool("qemu-img", "create", "-f", "qcow2", "local.qcow2", "4M")
        with open(self.path("disk"), "r+b") as file:
            file.write(self.path("local.qcow2").read_bytes())
        self.img("bitmap", "--add", "-f", "qcow2", uri, "b0")
        info = json.loads(self.run_tool("qemu-img", "info", "--output=json", "-f", "qcow2", self.path("disk")).stdout)
        self.assertEqual(info["format-specific"]["data"]["bitmaps"][0]["name"], "b0")
        self.run_tool("qemu-img", "check", "-f", "qcow2", self.path("disk"))

    def test_odd_sizes_and_large_blocks(self):
        self.path("disk").write_bytes(b"x" * 100_000)
        self.path("whole").write_bytes(b"x" * 100_000 + bytes(100_352 - 100_000))
        self.img("compare", "-f", "raw", "-F", "raw", self.nbdkit("file", self.path("disk")), self.path("whole"))

    def test_blocks_of_a_page(self):
        disk = self.content("disk.raw")
        uri = self.nbdkit("--filter=blocksize-policy", "file", disk, "blocksize-minimum=4096", "blocksize-preferred=65536",
                          "blocksize-maximum=1M", "blocksize-error-policy=error")
        self.img("compare", "-f", "raw", "-F", "raw", uri, disk)

    def test_servers_errors_are_told(self):
        disk = self.content("disk.raw")
        uri = self.nbdkit("--filter=error", "file", disk, "error-pread=EIO", "error-pread-rate=100%")
        done = self.img("compare", "-f", "raw", "-F", "raw", uri, disk, status=None)
        self.assertGreater(done.returncode, 1)
        self.assertIn("Input/output error", done.stderr)

    def test_slow_servers(self):
        disk = self.content("disk.raw")
        self.img("compare", "-f", "raw", "-F", "raw", self.nbdkit("--filter=delay", "file", disk, "delay-read=2ms"), disk)

    def test_lost_connections_are_made_again(self):
        """The server is killed while a read waits in it, and begun anew."""
        disk = self.content("disk.raw")
        words = ["nbdkit", "-f", "-U", self.path("kit"), "--filter=log", "--filter=delay", "file", disk, f"logfile={self.path('log')}"]
        options = f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={self.path('kit')},file.reconnect-delay=60"
        first = self.start(*words, "delay-read=60", until=self.path("kit"))
        reader = self.start(peers.BIN / "ostler-img", "compare", "--image-opts", options, "driver=raw,file.driver=file,file.filename=disk.raw")
        deadline = time.monotonic() + TIMEOUT
        # "Read id=…" is a request; "Ready" is the server's.
        while " Read id=" not in (self.path("log").read_text() if self.path("log").exists() else ""):
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(reader.poll())
            time.sleep(0.01)
        first.kill()
        first.wait(timeout=TIMEOUT)
        self.path("kit").unlink(missing_ok=True)
        self.start(*words, until=self.path("kit"))
        self.assertEqual(reader.wait(timeout=TIMEOUT), 0)

    def test_mistakes_are_explained(self):
        for name, text in (("nbd://", "onnect"), ("nbd+unix:///", "socket="), ("nbd:unix:", "path is missing"), ("nbd://host/?x=1", "no parameter"),
                           (f"nbd+unix:///?socket={self.path('nobody')}", "No such file")):
            self.assertIn(text, self.img("info", "-f", "raw", name, status=1).stderr)
        uri = self.nbdkit("-r", "memory", "1M")
        self.assertIn("read-only", self.img("resize", "-f", "raw", uri, "2M", status=1).stderr)
