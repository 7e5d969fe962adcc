"""A running machine that a test tells what to do: the program `ostler-control` (tests/machine/control.cpp)."""

import json
import os
import socket
import time
from pathlib import Path

from guestlib import vmm
from guestlib.steps import Failed

CONNECT_SECONDS = 60


class Control:
    """The machine's socket. `do(name, **arguments)` returns the answer, or raises Failed with the error."""

    def __init__(self, path):
        self.path, self.lines = path, None

    def _connect(self):
        end = time.monotonic() + CONNECT_SECONDS
        while True:
            peer = socket.socket(socket.AF_UNIX)
            try:
                peer.connect(os.fspath(self.path))
                return peer.makefile("rw")
            except OSError:
                peer.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def ask(self, name, /, **arguments):
        """The whole answer: {"return": …} or {"error": …}."""
        if self.lines is None:
            self.lines = self._connect()
        self.lines.write(json.dumps({"do": name, **arguments}) + "\n")
        self.lines.flush()
        answer = self.lines.readline()
        if not answer:
            raise Failed(f"the machine ended while it was to '{name}'")
        return json.loads(answer)

    def do(self, name, /, **arguments):
        answer = self.ask(name, **arguments)
        if "error" in answer:
            raise Failed(f"{name}: {answer['error']}")
        return answer["return"]

    def refused(self, name, /, **arguments):
        """The error; Failed when there is none."""
        answer = self.ask(name, **arguments)
        if "error" not in answer:
            raise Failed(f"{name} with {arguments} was not refused")
        return answer["error"]


def start(t, machine):
    """The running VMM, for a `with` block, and its Control."""
    path = t.scratch.path / f"control-{len(t.logs)}"
    program = Path(t.program).resolve().parent / "ostler-control"
    name, *options = vmm.command(program, machine)
    return t.start_command([name, str(path), *options]), Control(path)
