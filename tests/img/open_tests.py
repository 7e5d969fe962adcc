"""Images that cannot be opened: one sentence whose cure is an option that the command has."""

import fcntl
import struct

from judge import Judged, os

# Where QEMU and Ostler put their locks: a program writes, and wants no other that does.
WRITES, WRITES_ALONE = 101, 201
# A regular file that even root cannot open for writing.
SEALED = "/sys/kernel/uevent_seqnum"


class Open(Judged):
    def prepare(self, folder):
        self.make(folder, "create", "-q", "-f", "qcow2", "base.qcow2", "1M")
        self.make(folder, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")

    def failed(self, *words):
        done = self.our(*words)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertRegex(done.stderr, r"\Aostler-img: [^\n]+\n\Z")
        return done.stderr

    def test_cures_of_a_locked_image_are_the_commands_own(self):
        with open(self.ours / "base.qcow2", "rb") as held:
            for at in (WRITES, WRITES_ALONE):
                fcntl.fcntl(held, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, at, 1, 0))
            for words in (["info", "base.qcow2"], ["convert", "-O", "raw", "top.qcow2", "copy.raw"]):
                self.assertIn("in use by another program that writes to it; stop it, or give -U to read", self.failed(*words))
            self.assertEqual(self.our("info", "-U", "base.qcow2").returncode, 0)
            for words in (["resize", "base.qcow2", "2M"], ["create", "-f", "raw", "base.qcow2", "1M"],
                          ["amend", "-o", "lazy_refcounts=on", "base.qcow2"]):
                self.assertRegex(self.failed(*words), "in use by another program; stop it first\n")

    def test_cures_of_an_image_that_cannot_be_written(self):
        self.assertIn("check its permissions", self.failed("resize", "-f", "raw", SEALED, "1M"))
        self.assertIn("give --read-only", self.failed("serve", "-f", "raw", "-k", "socket", SEALED))

    def test_source_and_target_are_one_file(self):
        os.link(self.ours / "base.qcow2", self.ours / "link.qcow2")
        for words in (["convert", "-O", "qcow2", "base.qcow2", "base.qcow2"],
                      ["convert", "-O", "qcow2", "top.qcow2", "base.qcow2"],
                      ["convert", "-O", "qcow2", "base.qcow2", "link.qcow2"],
                      ["convert", "-n", "-O", "qcow2", "base.qcow2", "link.qcow2"],
                      ["dd", "-f", "qcow2", "-O", "qcow2", "if=base.qcow2", "of=base.qcow2"]):
            error = self.failed(*words)
            self.assertIn(" cannot be the target: its file ", error)
        self.sound("base.qcow2")


__all__ = ["Open"]
