"""Commands that make or change images without copying content: create, resize, amend, bitmap, snapshot."""

from judge import Judged, pattern_file

MIB = 1 << 20


class Make(Judged):
    def prepare(self, folder):
        pattern_file(folder / "a.raw", 4 * MIB)

    # --- create ---

    def test_create_raw(self):
        for size in ("10M", "1.5M", "1000", "0", "0x1000", "64k", "3b", "1G"):
            self.both("create", "-f", "raw", "new.raw", size, status=0)
            self.assertEqual((self.ours / "new.raw").stat().st_size, (self.theirs / "new.raw").stat().st_size)
        self.both("create", "new.raw", "1M", status=0)
        self.both("create", "-q", "new.raw", "1M", status=0)

    def test_create_empties_an_existing_file(self):
        self.both("create", "-f", "raw", "a.raw", "4M", status=0)
        self.assertEqual((self.ours / "a.raw").read_bytes(), bytes(4 * MIB))

    def test_create_with_options(self):
        self.both("create", "-f", "raw", "-o", "size=5M", "new.raw", status=0)
        self.both("create", "-f", "raw", "-o", "preallocation=full", "new.raw", "1M", status=0)
        self.assertEqual((self.ours / "new.raw").stat().st_blocks * 512, MIB)

    def test_create_mistakes(self):
        for words in ([], ["new.raw"], ["new.raw", "much"], ["new.raw", "--", "-1"], ["-f", "nonsense", "new.raw", "1M"],
                      ["-o", "size=5M", "new.raw", "6M"], ["-o", "siez=5M", "new.raw"], ["new.raw", "1M", "2M"],
                      ["-b", "a.raw", "-F", "raw", "new.raw", "1M"], ["--nonsense", "new.raw", "1M"]):
            self.both("create", *words, status=1)
            self.assertFalse((self.ours / "new.raw").exists(), words)
        self.both("create", "missing/new.raw", "1M", status=1)
        self.both("create", "-o", "preallocation=some", "new.raw", "1M", status=1, output=False)

    def test_create_help(self):
        ours = self.both("create", "-f", "raw", "-o", "help", "new.raw", "1M", status=0, output=False)
        for option in ("size=<size>", "preallocation=<str>"):
            self.assertIn(option, ours.stdout)

    # --- resize ---

    def test_resize_raw(self):
        for size in ("5M", "+1M", "+0", "6M"):
            self.both("resize", "-f", "raw", "a.raw", size, status=0)
        for size in ("-1M", "3M"):
            self.both("resize", "-f", "raw", "--shrink", "a.raw", size, status=0)
        self.both("resize", "-q", "-f", "raw", "a.raw", "4M", status=0)
        self.same_content("a.raw", fmt="raw")

    def test_resize_preallocates(self):
        self.both("resize", "-f", "raw", "--preallocation=full", "a.raw", "5M", status=0)
        self.both("resize", "-f", "raw", "--preallocation=metadata", "a.raw", "6M", status=1)
        self.same_content("a.raw", fmt="raw")

    def test_resize_mistakes(self):
        for words in (["a.raw"], [], ["a.raw", "much"], ["a.raw", "1M"], ["a.raw", "-1M"], ["missing", "1M"],
                      ["--shrink", "a.raw", "-20M"], ["--preallocation=some", "a.raw", "9M"],
                      ["--preallocation=full", "--shrink", "a.raw", "1M"]):
            self.both("resize", *words, status=1, output=False)
        self.same_content("a.raw", fmt="raw")

    # --- amend, bitmap: what raw images lack ---

    def test_amend_of_raw(self):
        self.both("amend", "-f", "raw", "-o", "help", status=1)
        self.both("amend", "-f", "raw", "-o", "size=5M", "a.raw", status=1)
        self.both("amend", "a.raw", status=1)

    def test_bitmap_of_raw(self):
        self.both("bitmap", "--add", "-f", "raw", "a.raw", "x", status=1)
        self.both("bitmap", "a.raw", "x", status=1)
        self.both("bitmap", "--clear", "a.raw", status=1)
        self.both("bitmap", "--clear", "-g", "64k", "a.raw", "x", status=1)
        self.both("bitmap", "--clear", "-b", "a.raw", "a.raw", "x", status=1)
