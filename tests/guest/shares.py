"""Folders of the host in the guest: virtio-fs, its requests served by virtiofsd over vhost-user."""

import hashlib
import os
import shutil
import subprocess
import time

PLACES = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
MIB = 1 << 20


class Daemon:
    """A running virtiofsd."""

    def __init__(self, t, folder, name="virtiofsd"):
        program = next((place for place in PLACES if os.path.exists(place)), None) or shutil.which("virtiofsd")
        t.expect(program, "there is no virtiofsd: install qemu-system-common")
        self.socket = t.scratch.path / f"{name}.socket"
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen([program, "-f", f"--socket-path={self.socket}", "-o", f"source={folder}"],
                                        stderr=open(t.scratch.path / f"{name}.log", "ab"))
        end = time.monotonic() + 60
        while not self.socket.exists():
            t.expect(self.process.poll() is None and time.monotonic() < end, "virtiofsd does not start")
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()


def _folder(t):
    """A folder with a file, and the file's digest."""
    folder = t.scratch.path / "shared"
    folder.mkdir()
    content = os.urandom(3 * MIB + 77)
    (folder / "from-host").write_bytes(content)
    return folder, hashlib.sha256(content).hexdigest()


def _extra(daemon, options="", bus="pci", size="256M"):
    return ["-object", f"memory-backend-memfd,id=mem,size={size}", "-machine", "memory-backend=mem",
            "-chardev", f"socket,id=fs,path={daemon.socket}{options}",
            "-device", f"vhost-user-fs-{bus},chardev=fs,tag=shared"]


def _use(t, console, folder, digest):
    """Mounts the folder in the guest; files go both ways."""
    t.run(console, "modprobe virtiofs; mount -t virtiofs shared /mnt")
    t.expect(t.run(console, "sha256sum </mnt/from-host").split()[0] == digest, "the guest reads other bytes")
    t.run(console, "mkdir -p /mnt/deep/er; dd if=/dev/urandom of=/tmp/new bs=64k count=40 2>/dev/null")
    seen = t.run(console, "cp /tmp/new /mnt/deep/er/from-guest; sync; sha256sum </tmp/new").split()[0]
    written = (folder / "deep" / "er" / "from-guest").read_bytes()
    t.expect(hashlib.sha256(written).hexdigest() == seen, "the host finds other bytes than the guest wrote")
    (folder / "later").write_text("a line from the host\n")
    t.expect("a line from the host" in t.run(console, "cat /mnt/later"), "a new file does not show")
    t.run(console, "mv /mnt/later /mnt/moved; rm /mnt/moved; ! ls /mnt/later 2>/dev/null")
    t.expect(not (folder / "moved").exists(), "the guest's rm did not reach the host")


def folder_shared_by_virtiofsd(t):
    folder, digest = _folder(t)
    with Daemon(t, folder) as daemon, t.start(t.machine(memory="256M", extra=_extra(daemon))) as running:
        console = t.shell(running)
        _use(t, console, folder, digest)
        # A program from there is code that the back end wrote into the guest's memory.
        t.run(console, "cp /bin/busybox /mnt/busybox; umount /mnt; mount -t virtiofs shared /mnt")
        t.expect(t.run(console, "/mnt/busybox echo it runs") == "it runs", "a program does not run from the folder")
        t.run(console, "umount /mnt")


def folder_shared_on_virtio_mmio(t):
    folder, digest = _folder(t)
    machine = t.machine(memory="256M", machine="microvm")
    with Daemon(t, folder) as daemon:
        machine.extra = _extra(daemon, bus="device")
        machine.extra[3] = "microvm,memory-backend=mem"
        machine.machine = None
        with t.start(machine) as running:
            console = t.shell(running)
            _use(t, console, folder, digest)
            t.run(console, "umount /mnt")


def _descendants(pid):
    """Processes that a process has started, and theirs."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
            for child in map(int, file.read().split()):
                found += [child] + _descendants(child)
    return found


def _run_with_share(t, folder):
    machine = t.machine(memory="256M", extra=["--share", f"{folder}:shared"])
    return t.start_command(t.command(machine, t.people()))


def folder_of_the_short_command_line(t):
    folder, digest = _folder(t)
    with _run_with_share(t, folder) as running:
        console = t.shell(running)
        _use(t, console, folder, digest)
        helpers = _descendants(running.process.pid)
        t.expect(helpers, "no virtiofsd was started")
        t.run(console, "umount /mnt")
        console.send("poweroff -f\n")
        t.ends(running)
    _gone(t, helpers)


def virtiofsd_ends_with_a_killed_vmm(t):
    folder, _ = _folder(t)
    with _run_with_share(t, folder) as running:
        console = t.shell(running)
        t.run(console, "modprobe virtiofs; mount -t virtiofs shared /mnt; ls /mnt")
        helpers = _descendants(running.process.pid)
        t.expect(helpers, "no virtiofsd was started")
        running.process.kill()
        running.process.wait()
        _gone(t, helpers)


def _runs(process):
    """Not what has ended and waits for its parent to notice."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _gone(t, processes):
    with t.steps.step("virtiofsd ends"):
        end = time.monotonic() + 30
        while alive := [each for each in processes if _runs(each)]:
            t.expect(time.monotonic() < end, f"processes {alive} still run")
            time.sleep(0.05)


def virtiofsd_dies_and_comes_again(t):
    folder, digest = _folder(t)
    daemon = Daemon(t, folder)
    with daemon, t.start(t.machine(memory="256M", extra=_extra(daemon, ",reconnect=1"))) as running:
        console = t.shell(running)
        _use(t, console, folder, digest)
        daemon.process.kill()
        daemon.process.wait()
        with t.steps.step("programs see errors, and none hangs"):
            t.run(console, "! cat /mnt/from-host >/dev/null 2>&1; ! ls /mnt/deep 2>/dev/null; umount /mnt")
        with Daemon(t, folder):
            # A mount succeeds before the first request is answered.
            t.run(console, "until mount -t virtiofs shared /mnt; [ -e /mnt/from-host ]; do umount /mnt; sleep 0.2; done")
            t.expect(t.run(console, "sha256sum </mnt/from-host").split()[0] == digest, "the guest reads other bytes")
            t.run(console, "umount /mnt")


class StorageDaemon:
    """A running qemu-storage-daemon that shows an image as a disk."""

    def __init__(self, t, image):
        self.socket = t.scratch.path / "disk.socket"
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen([
            "qemu-storage-daemon", "--blockdev", f"file,node-name=disk,filename={image}",
            "--export", f"vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path={self.socket},writable=on,num-queues=2"])
        end = time.monotonic() + 60
        while not self.socket.exists():
            t.expect(self.process.poll() is None and time.monotonic() < end, "qemu-storage-daemon does not start")
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()


def _disk_image(t):
    """An image of 8 MiB, and its digest."""
    image = t.scratch.path / "disk.img"
    image.write_bytes(os.urandom(8 * MIB))
    return image, hashlib.sha256(image.read_bytes()).hexdigest()


def _disk(daemon, options="", chardev=""):
    return ["-object", "memory-backend-memfd,id=mem,size=256M", "-machine", "memory-backend=mem",
            "-chardev", f"socket,id=d,path={daemon.socket}{chardev}",
            "-device", f"vhost-user-blk-pci,chardev=d,num-queues=2{options}"]


def _disk_of_the_storage_daemon(t, options):
    image, before = _disk_image(t)
    with StorageDaemon(t, image) as daemon:
        with t.start(t.machine(memory="256M", cpus=2, extra=_disk(daemon, f",{options}"))) as running:
            console = t.shell(running)
            t.expect(t.run(console, "sha256sum </dev/vda").split()[0] == before, "the guest reads another disk")
            t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=5 2>/dev/null")
            seen = t.run(console, "dd if=/tmp/new of=/dev/vda bs=64k seek=16 conv=fsync 2>/dev/null; sha256sum </tmp/new")
        written = image.read_bytes()[MIB:6 * MIB]
        t.expect(hashlib.sha256(written).hexdigest() == seen.split()[0], "the image has other bytes than the guest wrote")


def storage_daemon_dies_and_comes_again(t):
    """Killed at any moment of the guest's writing: no request is lost, and none that was acknowledged."""
    image, _ = _disk_image(t)
    daemon = StorageDaemon(t, image)
    with t.start(t.machine(memory="256M", cpus=2, extra=_disk(daemon, chardev=",reconnect=1"))) as running:
        console = t.shell(running)
        t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=8 2>/dev/null; sha256sum </tmp/new >/tmp/sum")
        # Four writers, each of its own quarter, again and again until told to stop.
        t.run(console, "for q in 0 1 2 3; do (until [ -e /tmp/stop ]; do dd if=/tmp/new of=/dev/vda bs=16k skip=$((q * 128)) "
                       "seek=$((q * 128)) count=128 oflag=direct conv=notrunc,fsync 2>/tmp/$q.err || echo $q >>/tmp/failed; "
                       "echo >>/tmp/rounds; done; echo >>/tmp/done) & done")
        for again in range(3):
            t.run(console, f"while [ $(cat /tmp/rounds 2>/dev/null | wc -l) -lt {4 * again + 1} ]; do sleep 0.1; done")
            daemon.kill()
            daemon = StorageDaemon(t, image)
        with daemon:
            t.run(console, "echo >/tmp/stop; while [ $(cat /tmp/done 2>/dev/null | wc -l) -lt 4 ]; do sleep 0.1; done")
            t.expect(t.run(console, "[ -e /tmp/failed ] && cat /tmp/?.err; echo") == "", "writes have failed")
            seen = t.run(console, "cat /tmp/sum").split()[0]
            t.expect(hashlib.sha256(image.read_bytes()).hexdigest() == seen, "the image has other bytes than the guest wrote")
            t.expect(t.run(console, "dmesg | grep -ci 'I/O error' || true") == "0", "the guest saw errors")


def disk_of_the_storage_daemon(t):
    _disk_of_the_storage_daemon(t, "packed=on")


def disk_of_the_storage_daemon_by_the_legacy_interface(t):
    _disk_of_the_storage_daemon(t, "disable-modern=on")
