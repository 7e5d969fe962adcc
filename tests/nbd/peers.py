"""Servers and tools that a test starts in a folder of its own."""

import select
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

BIN = None
TIMEOUT = 60
MIB = 1 << 20


def is_listening(path):
    """Not just bound: a client in between would be refused. (proc(5): flag 00010000 of /proc/net/unix.)"""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(line[3] == "00010000" and line[-1] == str(path) for line in lines)


class CuttingProxy(threading.Thread):
    """Passes connections from one unix socket on to another, and cuts them off: the n-th after `cuts[n]` bytes of both directions, all
    later ones never.
    """

    def __init__(self, path, target, cuts):
        super().__init__(daemon=True)
        self.target, self.cuts, self.made = str(target), list(cuts), 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.start()

    def run(self):
        while True:
            client, _ = self.listener.accept()
            with client, socket.socket(socket.AF_UNIX) as server:
                server.connect(self.target)
                cut = self.cuts[self.made] if self.made < len(self.cuts) else None
                self.made += 1
                self.carry(client, server, cut)

    @staticmethod
    def carry(client, server, left):
        while left is None or left > 0:
            for end in select.select([client, server], [], [])[0]:
                try:
                    some = end.recv(65536 if left is None else min(left, 65536))
                    (server if end is client else client).sendall(some)
                except OSError:
                    return
                if not some:
                    return
                if left is not None:
                    left -= len(some)
                    if left <= 0:
                        return


class Peers(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="ostler-nbd-")
        self.home = Path(self.temporary.name)
        self.running = []

    def tearDown(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.communicate(timeout=TIMEOUT)
        self.temporary.cleanup()

    def path(self, name):
        return self.home / name

    def content(self, name, size=4 * MIB):
        """Runs of 64 KiB: half of them holes."""
        with open(self.path(name), "wb") as file:
            file.truncate(size)
            for at in range(0, size, 128 << 10):
                file.seek(at)
                file.write(bytes((at // 4096 + i) & 0xff for i in range(256)) * 256)
        return self.path(name)

    def start(self, *words, until=None):
        """`until`: the path of a unix socket that the program shall listen on."""
        process = subprocess.Popen([str(each) for each in words], cwd=self.home, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.running.append(process)
        deadline = time.monotonic() + TIMEOUT
        while until is not None and not is_listening(until):
            self.assertIsNone(process.poll(), f"{words} ended")
            self.assertLess(time.monotonic(), deadline, f"{words} did not begin")
            time.sleep(0.01)
        return process

    def serve(self, *words):
        """ostler-img serve; the address that it tells."""
        process = self.start(BIN / "ostler-img", "serve", *words)
        uri = process.stdout.readline().strip()
        if not uri:
            self.fail(process.communicate(timeout=TIMEOUT)[1])
        return process, uri

    def run_tool(self, *words, status=0):
        done = subprocess.run([str(each) for each in words], cwd=self.home, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if status is not None:
            self.assertEqual(done.returncode, status, f"{words}\n{done.stdout}{done.stderr}")
        return done

    def img(self, *words, status=0):
        return self.run_tool(BIN / "ostler-img", *words, status=status)

    def same(self, one, other):
        self.run_tool("qemu-img", "compare", "-f", "raw", "-F", "raw", one, other)
