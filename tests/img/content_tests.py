"""Commands that copy content: convert, dd, commit, rebase; and bench."""

from judge import Judged, pattern_file

MIB = 1 << 20


class Content(Judged):
    def prepare(self, folder):
        pattern_file(folder / "a.raw", 4 * MIB)
