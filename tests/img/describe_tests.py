"""Commands that read: info, map, check, measure, snapshot -l, compare."""

from judge import Judged, pattern_file

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

    # --- info ---

    def test_info_of_raw(self):
        self.both("info", "a.raw", status=0)
        self.both("info", "--output=json", "a.raw", status=0)
        self.both("info", "-f", "raw", "-U", "--output", "human", "a.raw", status=0)

    def test_info_of_vdi(self):
        self.both("info", "a.vdi", status=0, ignore=["disk size"])
        self.both("info", "--output=json", "a.vdi", status=0, ignore=["actual-size"])

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

    def test_check_mistakes(self):
        self.both("check", status=1)
        self.both("check", "missing", status=1)
        self.both("check", "-r", "everything", "a.raw", status=1)

    def test_measure_raw(self):
        self.both("measure", "--size", "1G", status=0)
        self.both("measure", "--size", "1G", "-O", "raw", "--output=json", status=0)
        self.both("measure", "-O", "raw", "a.vdi", status=0)

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
