"""A guest's serial console: waiting for text, logging in, running commands.

A thread collects all output, so that the guest never blocks on us; waiting looks at what came since the
last match. Commands are framed by markers that the guest computes (their text differs from what is typed),
so that an echo of the command line is never taken for its result.
"""

import re
import secrets
import threading
import time

from .steps import Failed


class Console:
    def __init__(self, to_guest, from_guest, log):
        self._to_guest, self._from_guest = to_guest, from_guest
        self._log = open(log, "ab", buffering=0)
        self._text, self._position, self._ended = "", 0, False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self):
        while chunk := self._from_guest.read(65536):
            self._log.write(chunk)
            with self._changed:
                self._text += chunk.decode("utf-8", "replace").replace("\r", "")
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self):
        self._reader.join(5)
        self._log.close()

    def tail(self, lines=25):
        """The last lines of everything seen, for an error message."""
        with self._changed:
            return "\n".join("  | " + line for line in self._text.splitlines()[-lines:])

    def text(self):
        """Everything the guest has printed so far."""
        with self._changed:
            return self._text

    def send(self, text):
        try:
            self._to_guest.write(text.encode())
        except BrokenPipeError:
            raise Failed(f"the VMM ended; its last output:\n{self.tail()}") from None

    def wait_for(self, pattern, timeout, what=None):
        """Waits until the regular expression `pattern` appears in what came since the last match; returns the
        match. Seconds of real time; Failed when they pass or when the VMM ends."""
        expression, deadline = re.compile(pattern, re.MULTILINE), time.monotonic() + timeout
        with self._changed:
            while True:
                if match := expression.search(self._text, self._position):
                    self._position = match.end()
                    return match
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    break
                self._changed.wait(left)
            reason = "the VMM ended" if self._ended else f"nothing after {timeout:.0f}s"
        raise Failed(f"waiting for {what or repr(pattern)}: {reason}; the last output:\n{self.tail()}")

    def log_in(self, timeout, user="root", password="ostler"):
        """From a `login:` prompt to a shell that is quiet enough for run()."""
        self.send(user + "\n")
        self.wait_for(r"Password: ?", timeout, "the password prompt")
        self.send(password + "\n")
        self.wait_for(r"# ", timeout, "a shell prompt")
        # No line editing, no echo, no prompt: what comes back is what commands print.
        self.send("exec env TERM=dumb PS1= bash --norc --noprofile --noediting\n")
        self.quiet(timeout)

    def quiet(self, timeout):
        """Switches echo and prompt off, kernel messages too (they stay readable in dmesg). Says it again every
        few seconds: a shell that is still starting may throw away what was typed before."""
        deadline = time.monotonic() + timeout
        while True:
            mark = secrets.token_hex(6)
            self.send(f"stty -echo; PS1=; PS2=; dmesg -n 1; printf '\\n%s-%s\\n' QUIET {mark}\n")
            try:
                self.wait_for(rf"^QUIET-{mark}", min(10, timeout), "the shell to answer")
                return
            except Failed:
                if self._ended or time.monotonic() > deadline:
                    raise

    def run(self, command, timeout, check=True):
        """Runs a shell command; returns its output without the last newlines. With `check`, a status other
        than 0 is a failure; without, returns (status, output)."""
        mark = secrets.token_hex(6)
        # The marks are joined by the guest's printf, so the text that is typed does not contain them.
        self.send(f"printf '\\n%s-%s\\n' BEGIN {mark}; {command}\nprintf '\\n%s-%s %d\\n' END {mark} $?\n")
        self.wait_for(rf"^BEGIN-{mark}\n", timeout, f"`{command}` to start")
        begin = self._position
        match = self.wait_for(rf"^END-{mark} (\d+)\n", timeout, f"`{command}` to end")
        output = self._text[begin:match.start()].rstrip("\n")
        status = int(match[1])
        if not check:
            return status, output
        if status:
            raise Failed(f"`{command}` ended with status {status}:\n{output}")
        return output
