"""One printed line per step of a check, with its result and its time."""

import sys
import time
from contextlib import contextmanager


class Failed(Exception):
    """A step found something wrong; the message says what was expected and what was seen."""


class Steps:
    def __init__(self, out=sys.stdout):
        self.out = out
        self.started = time.monotonic()

    @contextmanager
    def step(self, title):
        """`with steps.step("log in") as note:` prints 'ok   12.3s  log in: …' or the failure. Append what
        deserves to be seen to `note` (a list)."""
        begin, note = time.monotonic(), []
        if self.out.isatty():
            print(f"  …            {title}", end="\r", file=self.out, flush=True)
        try:
            yield note
        except Exception:
            self._line("FAIL", begin, title, note)
            raise
        self._line("ok", begin, title, note)

    def _line(self, result, begin, title, note):
        text = f"{title}: {', '.join(note)}" if note else title
        print(f"{result:4} {time.monotonic() - begin:8.1f}s  {text}", file=self.out, flush=True)

    def total(self):
        """Seconds since the first step could begin."""
        return time.monotonic() - self.started
