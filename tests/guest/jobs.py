"""Disks that are given to NBD clients, copied and moved while a guest writes to them."""

import hashlib
import random
import subprocess
import threading
import time

import control
from guestlib.steps import Failed

MIB = 1 << 20
JOB_SECONDS = 120
# Writes at random to the first half of the disk until it is told to stop; the second half stays as it is.
WRITER = ("rm -f /tmp/stop; (until [ -e /tmp/stop ]; do dd if=/dev/urandom of=/dev/vda bs=64k count=4 "
          "seek=$((RANDOM % 120)) conv=fsync,notrunc 2>/dev/null; done; echo >/tmp/stopped) </dev/null >/dev/null &")
STOP = "echo >/tmp/stop; until [ -e /tmp/stopped ]; do sleep 0.1; done; rm /tmp/stopped"
SUM = "sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/vda"


def _sum(t, image):
    raw = t.scratch.path / "content.raw"
    subprocess.run(["qemu-img", "check", "-q", image], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    return hashlib.sha256(raw.read_bytes()).hexdigest()


def _wait(machine, job, status):
    """Until the job has this status; Failed when it ends otherwise."""
    end = time.monotonic() + JOB_SECONDS
    while True:
        seen = machine.do("jobs")[job]
        if seen["status"] == status:
            break
        if seen["error"] or seen["status"] == "concluded" or time.monotonic() > end:
            raise Failed(f"job {job} is {seen['status']} instead of {status}: {seen['error']}")
        time.sleep(0.02)
    if status == "concluded":
        if seen["error"]:
            raise Failed(seen["error"])
        machine.do("job_dismiss", job=job)


def _image(t, name, size="16M"):
    path = t.scratch.path / name
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, size], check=True)
    return path


def disk_is_copied_and_moved_under_a_guest(t):
    """Snapshot, stream, commit, mirror and backup, one after the other, below a guest that writes."""
    first = _image(t, "first.qcow2")
    files = {name: str(t.scratch.path / f"{name}.qcow2") for name in ("second", "third", "fourth", "backup")}
    vmm, machine = control.start(t, t.machine(extra=["-drive", f"if=virtio,id=d,file={first}"]))
    with vmm as running:
        console = t.shell(running)
        t.run(console, "dd if=/dev/urandom of=/dev/vda bs=1M seek=8 count=8 conv=fsync 2>/dev/null")
        kept = t.run(console, "dd if=/dev/vda bs=1M skip=8 2>/dev/null | sha256sum")
        t.run(console, WRITER)
        with t.steps.step("a snapshot, and a stream that makes it whole"):
            machine.do("snapshot", disk="d", file=files["second"])
            machine.do("stream", disk="d", job="stream")
            _wait(machine, "stream", "concluded")
        with t.steps.step("a snapshot, and a commit of the active layer"):
            machine.do("snapshot", disk="d", file=files["third"])
            machine.do("commit", disk="d", job="commit")
            _wait(machine, "commit", "ready")
            machine.do("job_complete", job="commit")
            _wait(machine, "commit", "concluded")
        with t.steps.step("a mirror that the guest goes over to"):
            machine.do("mirror", disk="d", job="mirror", file=files["fourth"], blocking=True)
            _wait(machine, "mirror", "ready")
            machine.do("job_complete", job="mirror")
            _wait(machine, "mirror", "concluded")
        t.run(console, STOP)
        moment = t.run(console, SUM).split()[0]
        with t.steps.step("a backup of one moment"):
            machine.do("backup", disk="d", job="backup", file=files["backup"], speed=MIB)
        t.run(console, WRITER)
        with t.steps.step("the backup's end"):
            _wait(machine, "backup", "concluded")
        t.run(console, STOP)
        t.expect(t.run(console, "dd if=/dev/vda bs=1M skip=8 2>/dev/null | sha256sum") == kept,
                 "what the guest left alone is not as it was")
        last = t.run(console, SUM).split()[0]
        t.expect(t.run(console, "dmesg | grep -ci 'i/o error' || true") == "0", "the guest saw an error")
        console.send("poweroff -f\n")
        t.ends(running)
    t.expect(_sum(t, files["fourth"]) == last, "the mirror's target has other bytes than the guest's disk")
    t.expect(_sum(t, files["backup"]) == moment, "the backup is not the disk as it was when it began")
    for each in (first, files["second"], files["third"]):
        subprocess.run(["qemu-img", "check", "-q", each], check=True)


class _Client:
    """qemu-io on an export, over one connection: writes to the second half of a disk of 16 MiB until it ends."""

    def __init__(self, uri, said):
        self.said = said
        with said.open("w") as output:
            self.process = subprocess.Popen(["qemu-io", "-f", "raw", uri], stdin=subprocess.PIPE, stdout=output,
                                            stderr=subprocess.STDOUT, text=True)
        self.written = {}
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self):
        numbers = random.Random(1)
        while not self.stop.is_set():
            offset, pattern = 8 * MIB + numbers.randrange(2048) * 4096, numbers.randrange(1, 256)
            self.process.stdin.write(f"write -q -P {pattern} {offset} 4k\n")
            self.process.stdin.flush()
            self.written[offset] = pattern

    def end(self):
        """Every request was answered, and it reads what it wrote: what it said otherwise."""
        self.stop.set()
        self.thread.join()
        checks = "".join(f"read -q -P {pattern} {offset} 4k\n" for offset, pattern in self.written.items())
        self.process.communicate(f"{checks}flush\nquit\n", timeout=JOB_SECONDS)
        return self.said.read_text().replace("qemu-io> ", "").strip()


def disk_with_nbd_clients_is_copied_and_moved(t):
    """Commit and mirror put other images in the place of a disk that a guest and an NBD client write."""
    first = _image(t, "first.qcow2")
    files = {name: str(t.scratch.path / f"{name}.qcow2") for name in ("overlay", "target")}
    sock = t.scratch.path / "nbd.sock"
    vmm, machine = control.start(t, t.machine(extra=["-drive", f"if=none,id=d,file={first}", "-device",
                                                     "virtio-blk-pci,drive=d,share-rw=on"]))
    with vmm as running:
        console = t.shell(running)
        machine.do("nbd_start", path=str(sock))
        machine.do("nbd_add", id="disk", node="d", writable=True)
        t.run(console, WRITER)
        client = _Client(f"nbd+unix:///disk?socket={sock}", t.scratch.path / "client.txt")
        try:
            with t.steps.step("a snapshot, and a commit of the active layer"):
                machine.do("snapshot", disk="d", file=files["overlay"])
                machine.do("commit", disk="d", job="commit")
                _wait(machine, "commit", "ready")
                machine.do("job_complete", job="commit")
                _wait(machine, "commit", "concluded")
            with t.steps.step("a mirror"):
                machine.do("mirror", disk="d", job="mirror", file=files["target"])
                _wait(machine, "mirror", "ready")
                machine.do("job_complete", job="mirror")
                _wait(machine, "mirror", "concluded")
        finally:
            said = client.end()
        t.expect(client.written, "the client did not come to write")
        t.expect(not said, f"the client was told:\n{said}")
        t.run(console, STOP)
        last = t.run(console, SUM).split()[0]
        t.expect(t.run(console, "dmesg | grep -ci 'i/o error' || true") == "0", "the guest saw an error")
        machine.do("nbd_stop")
        console.send("poweroff -f\n")
        t.ends(running)
    t.expect(_sum(t, files["target"]) == last, "the mirror's target has other bytes than the guest's disk")


def disks_are_backed_up_at_one_moment(t):
    """A transaction of two backups and a bitmap; one that cannot be done leaves everything as it was."""
    options = []
    for name in ("a", "b"):
        options += ["-drive", f"if=virtio,id={name},file={_image(t, name + '.qcow2', '4M')}"]
    vmm, machine = control.start(t, t.machine(extra=options))
    copies = {name: str(t.scratch.path / f"copy-{name}.qcow2") for name in ("a", "b")}
    with vmm as running:
        console = t.shell(running)
        t.run(console, "for each in vda vdb; do dd if=/dev/urandom of=/dev/$each bs=1M conv=fsync 2>/dev/null; done; true")
        sums = {name: t.run(console, f"sha256sum </dev/vd{name}").split()[0] for name in ("a", "b")}
        actions = [{"do": "backup", "disk": name, "job": f"job-{name}", "file": copies[name], "speed": MIB}
                   for name in ("a", "b")]
        with t.steps.step("a transaction that cannot be done"):
            refused = machine.refused("transaction", actions=[*actions, {"do": "snapshot", "disk": "b",
                                                                         "file": str(t.scratch.path / "no.qcow2")}])
            t.expect("in use by job 'job-b'" in refused, f"another error: {refused}")
            for name in ("a", "b"):
                machine.do("job_dismiss", job=f"job-{name}")
        with t.steps.step("both disks and a bitmap"):
            machine.do("transaction", grouped=True, actions=[*actions, {"do": "add_bitmap", "disk": "a", "bitmap": "since"}])
        t.run(console, "for each in vda vdb; do dd if=/dev/urandom of=/dev/$each bs=1M conv=fsync 2>/dev/null; done; true")
        with t.steps.step("the end of both"):
            for name in ("a", "b"):
                _wait(machine, f"job-{name}", "concluded")
        last = t.run(console, "sha256sum </dev/vda").split()[0]
        for name in ("a", "b"):
            t.expect(_sum(t, copies[name]) == sums[name], f"the backup of {name} is of another moment")
        with t.steps.step("an incremental backup"):
            machine.do("backup", disk="a", job="more", file=copies["a"], existing=True, sync="incremental", bitmap="since")
            _wait(machine, "more", "concluded")
        t.expect(_sum(t, copies["a"]) == last, "the incremental backup has not brought the copy up to date")


def disk_is_shared_with_nbd_clients(t):
    """-nbd-server and -export: the clients and the guest see each other's writes."""
    image = _image(t, "disk.qcow2")
    subprocess.run(["qemu-img", "bitmap", "--add", "-g", "64k", image, "bits"], check=True)
    sock = t.scratch.path / "nbd.sock"
    uri = f"nbd+unix:///%s?socket={sock}"
    options = ["-drive", f"if=none,id=d,file={image}", "-device", "virtio-blk-pci,drive=d,share-rw=on",
               "-nbd-server", str(sock), "-export", "nbd,node-name=d,name=read,id=r,bitmap=bits",
               "-export", "nbd,node-name=d,name=write,id=w,writable=on"]
    with t.start(t.machine(extra=options)) as running:
        console = t.shell(running)
        t.run(console, "dd if=/dev/urandom of=/dev/vda bs=64k seek=4 count=2 conv=fsync 2>/dev/null")
        with t.steps.step("nbdcopy reads what the guest has written"):
            copy = t.scratch.path / "copy.raw"
            subprocess.run(["nbdcopy", uri % "read", copy], check=True)
            digest = hashlib.sha256(copy.read_bytes()).hexdigest()
        t.expect(t.run(console, "sha256sum </dev/vda").startswith(digest), "the client reads other bytes than the guest")
        with t.steps.step("the dirty bitmap"):
            told = subprocess.run(["nbdinfo", "--map=qemu:dirty-bitmap:bits", uri % "read"], check=True,
                                  capture_output=True, text=True).stdout
            dirty = [line.split()[:2] for line in told.splitlines() if line.split()[2] == "1"]
            t.expect(dirty == [["262144", "131072"]], f"the bitmap tells other places:\n{told}")
        with t.steps.step("qemu-io writes"):
            subprocess.run(["qemu-io", "-f", "raw", "-c", "write -q -P 0x71 1M 4k", uri % "write"], check=True)
            refused = subprocess.run(["qemu-io", "-f", "raw", "-c", "write -q 1M 4k", uri % "read"], check=False,
                                     capture_output=True)
            t.expect(refused.returncode != 0, "the export for reading takes writes")
        t.run(console, "echo 3 >/proc/sys/vm/drop_caches")
        t.expect(t.run(console, "dd if=/dev/vda bs=4k skip=256 count=1 2>/dev/null | tr -d q | wc -c") == "0",
                 "the guest does not read what the client wrote")
        with t.steps.step("the machine ends with a client connected"):
            client = subprocess.Popen(["qemu-io", "-f", "raw", uri % "read"], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            client.stdin.write(b"read -q 0 4k\n")
            client.stdin.flush()
            console.send("poweroff -f\n")
        t.ends(running)
        client.communicate(b"quit\n", timeout=60)
    subprocess.run(["qemu-img", "check", "-q", image], check=True)
    t.expect(not sock.exists(), "the socket is left behind")
