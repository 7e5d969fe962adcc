"""Folders of the host in the guest by 9P: virtio-9p, served in the VMM's own process. The kernel with the file
system is Debian's generic one."""

import fcntl
import hashlib
import os
import signal
import stat
import struct
import time

import control
from guestlib import guests, vmm

MIB = 1 << 20
MOUNT = "mount -t 9p -o trans=virtio,version=9p2000.L"


def _machine(t, extra, **settings):
    made = guests.prepare("generic")
    return vmm.Machine(kernel=made["kernel_generic"], initrd=made["initrd_generic"], memory="256M",
                       append="console=ttyS0", extra=extra, **settings)


def _folder(t, name="shared"):
    folder = t.scratch.path / name
    folder.mkdir()
    return folder


def _device(folder, options="", bus="pci", model="passthrough"):
    return ["-fsdev", f"local,id=f,path={folder},security_model={model}{options}",
            "-device", f"virtio-9p-{bus},fsdev=f,mount_tag=shared"]


def _mount(t, console, options="", tag="shared"):
    t.run(console, f"modprobe -a 9pnet_virtio 9p; {MOUNT}{options} {tag} /mnt")


def _files_go_both_ways(t, console, folder):
    content = os.urandom(3 * MIB + 77)
    (folder / "from-host").write_bytes(content)
    t.expect(t.run(console, "sha256sum </mnt/from-host").split()[0] == hashlib.sha256(content).hexdigest(),
             "the guest reads other bytes")
    t.run(console, "mkdir -p /mnt/deep/er; dd if=/dev/urandom of=/tmp/new bs=64k count=40 2>/dev/null")
    seen = t.run(console, "cp /tmp/new /mnt/deep/er/from-guest; sync; sha256sum </tmp/new").split()[0]
    t.expect(hashlib.sha256((folder / "deep/er/from-guest").read_bytes()).hexdigest() == seen,
             "the host finds other bytes than the guest wrote")
    (folder / "later").write_text("a line from the host\n")
    t.expect("a line from the host" in t.run(console, "cat /mnt/later"), "a new file does not show")
    t.run(console, "mv /mnt/later /mnt/deep/moved; ! ls /mnt/later 2>/dev/null")
    t.expect((folder / "deep/moved").read_text() == "a line from the host\n", "the guest's mv did not reach the host")
    t.run(console, "rm /mnt/deep/moved")
    t.expect(not (folder / "deep/moved").exists(), "the guest's rm did not reach the host")


def folder_by_9p(t):
    folder = _folder(t)
    with t.start(_machine(t, _device(folder), cpus=2)) as running:
        console = t.shell(running)
        _mount(t, console)
        _files_go_both_ways(t, console, folder)
        t.run(console, "umount /mnt")


def folder_by_9p_with_all_that_files_have(t):
    folder = _folder(t)
    for number in range(2000):
        (folder / f"file-{number:04}").write_bytes(b"")
    with t.start(_machine(t, _device(folder), cpus=2)) as running:
        console = t.shell(running)
        _mount(t, console, ",msize=65536")
        with t.steps.step("a folder of 2000 files"):
            t.expect(t.run(console, "ls /mnt | wc -l") == "2000", "not all files are listed")
            t.expect(t.run(console, "ls /mnt | sort -u | wc -l") == "2000", "files are listed twice")
            t.run(console, "cd /mnt; for f in file-1*; do mv $f moved-${f#file-}; done; rm file-0*; cd /")
            left = sorted(os.listdir(folder))
            t.expect(left == [f"moved-1{number:03}" for number in range(1000)], f"the host has {len(left)} other names")
        with t.steps.step("permissions, owners and times"):
            t.run(console, "umask 027; echo text >/mnt/new; mkdir /mnt/made; chmod 4711 /mnt/moved-1000; "
                           "chown 12:34 /mnt/moved-1000; chmod 4711 /mnt/moved-1000; touch -d @1000000007 /mnt/moved-1000")
            seen = (folder / "moved-1000").stat()
            t.expect((stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime) == (0o4711, 12, 34, 1000000007),
                     f"the host has {seen}")
            t.expect(stat.S_IMODE((folder / "new").stat().st_mode) == 0o640, "the umask is lost")
            t.expect(stat.S_IMODE((folder / "made").stat().st_mode) == 0o750, "the folder's umask is lost")
            t.expect(t.run(console, "stat -c '%a %u %g %Y' /mnt/moved-1000") == "4711 12 34 1000000007", "the guest sees others")
        with t.steps.step("links, pipes and devices"):
            t.run(console, "ln -s moved-1001 /mnt/soft; ln /mnt/moved-1001 /mnt/hard; mkfifo /mnt/pipe; mknod /mnt/null c 1 3")
            t.expect(os.readlink(folder / "soft") == "moved-1001", "the link has another target")
            t.expect((folder / "hard").stat().st_nlink == 2, "there is no hard link")
            t.expect(stat.S_ISFIFO((folder / "pipe").stat().st_mode), "there is no pipe")
            # The guest's own kernel serves both.
            t.expect(t.run(console, "(cat /mnt/pipe & echo through >/mnt/pipe; wait); echo x >/mnt/null") == "through",
                     "a pipe carries nothing")
        with t.steps.step("files that are cut, synced and open without a name"):
            t.run(console, "echo 0123456789 >/mnt/cut; truncate -s 4 /mnt/cut; dd if=/dev/zero of=/mnt/synced bs=4k "
                           "count=9 conv=fsync 2>/dev/null")
            t.expect((folder / "cut").read_bytes() == b"0123", "the file was not cut")
            t.expect((folder / "synced").stat().st_size == 9 * 4096, "the file has another size")
            t.expect(t.run(console, "exec 3<>/mnt/gone; rm /mnt/gone; echo still >&3; stat -L -c %s /proc/self/fd/3; "
                                    "exec 3>&-") == "6", "a file without a name has no size")
        with t.steps.step("extended attributes"):
            os.setxattr(folder / "new", "user.of", b"the host")
            t.run(console, "files set /mnt/new user.from guest")
            t.expect(os.getxattr(folder / "new", "user.from") == b"guest", "the guest's attribute is lost")
            t.expect(t.run(console, "files get /mnt/new user.of") == "the host", "the host's attribute is lost")
            t.run(console, "files remove /mnt/new user.of; ! files get /mnt/new user.of 2>/dev/null")
            t.expect(os.listxattr(folder / "new") == ["user.from"], "the guest removed no attribute")
        with t.steps.step("locks that the host sees"):
            # Whoever asks may be in the way of the one who is to keep the lock, who asks again then.
            t.run(console, "mkfifo /tmp/hold; (until files lock /mnt/new /tmp/hold 2>/dev/null; do :; done) & "
                           "while files lock /mnt/new /dev/null 2>/dev/null; do :; done")
            t.expect(_is_locked(folder / "new"), "the host sees no lock")
            t.run(console, "echo >/tmp/hold; wait; files lock /mnt/new /dev/null")
            t.expect(not _is_locked(folder / "new"), "the lock stays")
        t.run(console, "umount /mnt")


def folder_by_9p_and_a_host_that_does_not_answer(t):
    """A lease keeps whoever cuts the file waiting for 45 seconds; the VMM's end waits for nobody."""
    folder = _folder(t)
    slow = folder / "slow"
    slow.write_bytes(b"content")
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    with open(slow, "rb") as file, t.start(_machine(t, _device(folder))) as running:
        console = t.shell(running)
        _mount(t, console)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        t.run(console, "files cut /mnt/slow 0 &")
        with t.steps.step("a request waits for the host"):
            while fcntl.fcntl(file, fcntl.F_GETLEASE) == fcntl.F_RDLCK:
                t.expect(running.process.poll() is None, "the VMM has ended")
                time.sleep(0.01)
        running.process.terminate()
        t.ends(running)
        t.expect(slow.read_bytes() == b"content", "the VMM waited until the file was cut")


def _is_locked(path):
    """As an open file description lock sees it, as struct flock of 64-bit Linux."""
    with open(path, "r+b") as file:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        seen = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
    return struct.unpack("hhqqi4x", seen)[0] != fcntl.F_UNLCK


def folder_by_9p_that_is_read_only(t):
    folder = _folder(t)
    (folder / "file").write_text("content\n")
    with t.start(_machine(t, _device(folder, ",readonly=on"))) as running:
        console = t.shell(running)
        _mount(t, console)
        t.expect(t.run(console, "cat /mnt/file") == "content", "the guest reads other bytes")
        for command in ("echo x >>/mnt/file", "touch /mnt/new", "rm /mnt/file", "mv /mnt/file /mnt/other", "mkdir /mnt/d",
                        "chmod 777 /mnt/file", "ln -s x /mnt/link", "truncate -s 0 /mnt/file"):
            refused = t.run(console, f"! {command} 2>&1")
            t.expect("Read-only" in refused, f"'{command}' is not refused: {refused}")
        t.run(console, "umount /mnt")
    t.expect((folder / "file").read_text() == "content\n" and os.listdir(folder) == ["file"], "the folder was changed")


def folder_by_9p_that_cannot_be_left(t):
    folder = _folder(t)
    (folder.parent / "secret").write_text("what no guest may see\n")
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_text("content\n")
    os.symlink("../secret", folder / "out")
    os.symlink(folder.parent, folder / "above")
    with t.start(_machine(t, _device(folder))) as running:
        console = t.shell(running)
        _mount(t, console)
        for path in ("out", "above/secret", "../secret", "inner/../../secret", "inner/../out"):
            t.run(console, f"! cat /mnt/{path} 2>&1")
        # A folder that goes away to above the share, under a guest that stands in it.
        t.run(console, "cd /mnt/inner")
        os.rename(folder / "inner", folder.parent / "inner")
        t.run(console, "! cat ../secret 2>&1; ! cat ../../secret 2>&1; cd /")
        # The guest's own links are the guest's.
        t.run(console, "ln -s /proc/version /mnt/version")
        t.expect("Linux version" in t.run(console, "cat /mnt/version"), "a link does not lead to the guest's own file")
        t.run(console, "umount /mnt")


def folder_by_9p_with_mapped_owners(t):
    folder = _folder(t)
    with t.start(_machine(t, _device(folder, model="mapped-xattr"))) as running:
        console = t.shell(running)
        _mount(t, console)
        t.run(console, "echo text >/mnt/file; chown 12:34 /mnt/file; chmod 4755 /mnt/file; ln -s file /mnt/link; "
                       "mknod /mnt/null c 1 3; mkdir /mnt/d; chmod 1777 /mnt/d")
        t.expect(t.run(console, "stat -c '%a %u %g' /mnt/file") == "4755 12 34", "the guest sees another owner")
        t.expect(t.run(console, "cat /mnt/link; echo x >/mnt/null; readlink /mnt/link").split() == ["text", "file"],
                 "the link leads elsewhere")
        t.run(console, "umount /mnt; " + MOUNT + " shared /mnt")
        t.expect(t.run(console, "stat -c '%F %a' /mnt/d /mnt/null /mnt/link").splitlines()
                 == ["directory 1777", "character special file 644", "symbolic link 777"], "types are lost by a new mount")
        t.run(console, "umount /mnt")
    for name in ("file", "link", "null"):
        seen = (folder / name).lstat()
        t.expect(stat.S_ISREG(seen.st_mode) and stat.S_IMODE(seen.st_mode) == 0o600 and seen.st_uid == os.geteuid(),
                 f"on the host {name} is {seen}")


def folder_by_9p_on_virtio_mmio(t):
    folder = _folder(t)
    with t.start(_machine(t, ["-virtfs", f"local,path={folder},mount_tag=shared,security_model=none"],
                          machine="microvm")) as running:
        console = t.shell(running)
        _mount(t, console)
        _files_go_both_ways(t, console, folder)
        t.run(console, "umount /mnt")


def folder_by_9p_of_the_short_command_line(t):
    folder = _folder(t)
    machine = _machine(t, ["--share", f"{folder}:shared", "--share-as", "9p"])
    with t.start_command(t.command(machine, t.people())) as running:
        console = t.shell(running)
        _mount(t, console)
        _files_go_both_ways(t, console, folder)
        # A guest that ends with files open.
        t.run(console, "exec 3>/mnt/open")
        console.send("poweroff -f\n")
        t.ends(running)


def folder_by_9p_and_a_saved_guest(t):
    folder = _folder(t)
    (folder / "file").write_text("content\n")
    vm, machine = control.start(t, _machine(t, _device(folder)))
    with vm as running:
        console = t.shell(running)
        _mount(t, console)
        with t.steps.step("a mounted folder cannot be saved"):
            t.expect("unmount it in the guest" in machine.refused("reload"), "the error has no cure")
            machine.do("resume")
        t.run(console, "umount /mnt")
        with t.steps.step("an unmounted one can"):
            machine.do("reload")
            machine.do("resume")
        _mount(t, console)
        t.expect(t.run(console, "cat /mnt/file") == "content", "the guest reads other bytes after the restore")
        t.run(console, "umount /mnt")
