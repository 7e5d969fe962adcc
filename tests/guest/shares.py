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


def _disk_of_the_storage_daemon(t, options):
    image, path = t.scratch.path / "disk.img", t.scratch.path / "disk.socket"
    image.write_bytes(os.urandom(8 * MIB))
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    daemon = subprocess.Popen(["qemu-storage-daemon", "--blockdev", f"file,node-name=disk,filename={image}",
                               "--export", f"vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path={path},"
                                           "writable=on,num-queues=2"])
    try:
        end = time.monotonic() + 60
        while not path.exists():
            t.expect(daemon.poll() is None and time.monotonic() < end, "qemu-storage-daemon does not start")
            time.sleep(0.05)
        extra = ["-object", "memory-backend-memfd,id=mem,size=256M", "-machine", "memory-backend=mem",
                 "-chardev", f"socket,id=d,path={path}", "-device", f"vhost-user-blk-pci,chardev=d,num-queues=2,{options}"]
        with t.start(t.machine(memory="256M", cpus=2, extra=extra)) as running:
            console = t.shell(running)
            t.expect(t.run(console, "sha256sum </dev/vda").split()[0] == before, "the guest reads another disk")
            t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=5 2>/dev/null")
            seen = t.run(console, "dd if=/tmp/new of=/dev/vda bs=64k seek=16 conv=fsync 2>/dev/null; sha256sum </tmp/new")
        written = image.read_bytes()[MIB:6 * MIB]
        t.expect(hashlib.sha256(written).hexdigest() == seen.split()[0], "the image has other bytes than the guest wrote")
    finally:
        daemon.terminate()
        daemon.wait()


def disk_of_the_storage_daemon(t):
    _disk_of_the_storage_daemon(t, "packed=on")


def disk_of_the_storage_daemon_by_the_legacy_interface(t):
    _disk_of_the_storage_daemon(t, "disable-modern=on")
