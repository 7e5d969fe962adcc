"""Disks and CDs behind a virtio SCSI controller, as Linux's drivers use them."""

import hashlib
import os

import control
import media

MIB = 1 << 20
CONTROLLER = ["-device", "virtio-scsi-pci,id=scsi0"]


def _disk(t, mebibytes):
    """A raw image of random bytes, and their SHA-256."""
    path = t.scratch.path / "disk.img"
    content = os.urandom(mebibytes * MIB)
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def _drivers(t, console, names="sd_mod", device="/dev/sda"):
    t.run(console, f"modprobe -a virtio_scsi {names}; until [ -b {device} ]; do sleep 0.1; done")


def _power_off(t, running, console):
    console.send("poweroff -f\n")
    t.ends(running)


def scsi_disk_is_written_and_trimmed(t):
    path, digest = _disk(t, 32)
    extra = CONTROLLER + ["-drive", f"if=none,id=d,file={path},format=raw,discard=unmap", "-device",
                          "scsi-hd,drive=d,bus=scsi0.0,scsi-id=3,lun=7,serial=S123,vendor=ACME,product=Disk,ver=7,wwn=0x5000c50015ea71ac"]
    with t.start(t.machine(extra=extra)) as running:
        console = t.shell(running)
        _drivers(t, console)
        place = t.run(console, "ls /sys/class/scsi_disk").strip()
        t.expect(place.endswith(":0:3:7"), f"the disk is at {place}")
        t.expect(t.run(console, "cat /sys/block/sda/device/vendor").strip() == "ACME", "the guest sees another vendor")
        wwid = t.run(console, "cat /sys/block/sda/device/wwid").strip()
        t.expect(wwid == "naa.5000c50015ea71ac", f"the guest sees the name {wwid}")
        t.expect(t.run(console, "sha256sum </dev/sda").startswith(digest), "the guest reads other bytes than the disk has")
        t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=8 2>/dev/null")
        t.run(console, "dd if=/tmp/new of=/dev/sda bs=1M seek=5 conv=fsync 2>/dev/null")
        written = t.run(console, "sha256sum </tmp/new").split()[0]
        before = os.stat(path).st_blocks * 512
        t.run(console, f"blkdiscard -o {16 * MIB} -l {16 * MIB} /dev/sda")
        freed = before - os.stat(path).st_blocks * 512
        t.expect(freed >= 15 * MIB, f"the image is {freed} bytes smaller after 16 MiB were given back")
        t.expect(t.run(console, "dmesg | grep -ciE 'i/o error|medium error|hardware error' || true") == "0", "the guest saw an error")
        _power_off(t, running, console)
    with open(path, "rb") as disk:
        disk.seek(5 * MIB)
        t.expect(hashlib.sha256(disk.read(8 * MIB)).hexdigest() == written, "the image has other bytes than the guest wrote")


def scsi_disk_with_several_queues(t):
    path, _ = _disk(t, 64)
    extra = ["-object", "iothread,id=io", "-device", "virtio-scsi-pci,id=scsi0,num_queues=4,iothread=io,packed=on", "-drive",
             f"if=none,id=d,file={path},format=raw,cache=none", "-device", "scsi-hd,drive=d"]
    with t.start(t.machine(cpus=4, extra=extra)) as running:
        console = t.shell(running)
        _drivers(t, console)
        t.expect(t.run(console, "ls /sys/block/sda/mq | wc -l") == "4", "the guest sees other than four queues")
        digests = []
        for cpu in range(4):
            t.run(console, f"dd if=/dev/urandom of=/tmp/new{cpu} bs=1M count=4 2>/dev/null")
            digests.append(t.run(console, f"sha256sum </tmp/new{cpu}").split()[0])
        writers = " ".join(f"taskset -c {cpu} dd if=/tmp/new{cpu} of=/dev/sda bs=64k seek={cpu * 64} conv=fsync 2>/dev/null &"
                           for cpu in range(4))
        t.run(console, f"{writers} wait")
        _power_off(t, running, console)
    content = path.read_bytes()
    for cpu, digest in enumerate(digests):
        part = content[cpu * 4 * MIB:(cpu + 1) * 4 * MIB]
        t.expect(hashlib.sha256(part).hexdigest() == digest, f"what processor {cpu} wrote is not in the image")


def scsi_disk_grows_and_is_restored(t):
    path, digest = _disk(t, 16)
    extra = CONTROLLER + ["-drive", f"if=none,id=d,file={path},format=raw,cache=writethrough", "-device", "scsi-hd,drive=d"]
    vmm, machine = control.start(t, t.machine(extra=extra))
    with vmm as running:
        console = t.shell(running)
        _drivers(t, console)
        t.expect(t.run(console, "cat /sys/class/scsi_disk/*/cache_type") == "write through", "the guest thinks of a cache")
        with t.steps.step("the guest is told of another size"):
            machine.do("resize", id="d", bytes=24 * MIB)
            t.run(console, f"until [ $(cat /sys/class/block/sda/size) = {24 * MIB // 512} ]; do sleep 0.1; done")
        machine.do("reload")
        machine.do("resume")
        t.run(console, "echo 3 >/proc/sys/vm/drop_caches")
        t.expect(t.run(console, f"head -c {16 * MIB} /dev/sda | sha256sum").startswith(digest), "other bytes after the restore")
        t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=4 2>/dev/null")
        t.run(console, "dd if=/tmp/new of=/dev/sda bs=1M seek=18 conv=fsync 2>/dev/null")
        written = t.run(console, "sha256sum </tmp/new").split()[0]
        _power_off(t, running, console)
    t.expect(hashlib.sha256(path.read_bytes()[18 * MIB:22 * MIB]).hexdigest() == written, "the image has other bytes")


def scsi_cd_is_changed_while_the_guest_runs(t):
    contents = {name: name.encode() * 700_000 for name in ("one", "second")}
    isos = {name: media.cd_image(t, name, content) for name, content in contents.items()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    extra = CONTROLLER + ["-drive", f"if=none,id=cd,media=cdrom,file={isos['one']}", "-device", "scsi-cd,id=tray,drive=cd"]
    vmm, machine = control.start(t, t.machine(extra=extra))
    with vmm as running:
        console = t.shell(running)
        _drivers(t, console, "sr_mod isofs", "/dev/sr0")
        t.expect(media.mounted_digest(t, console) == digests["one"], "the guest reads other bytes than the CD has")
        with t.steps.step("a mounted CD is locked"):
            t.expect("the guest has locked the tray" in machine.refused("open_tray", id="tray"), "another error")
        machine.do("reload")
        machine.do("resume")
        t.run(console, "umount /mnt")
        t.expect(media.mounted_digest(t, console) == digests["one"], "the guest reads other bytes after the restore")
        t.run(console, "umount /mnt")
        machine.do("change", id="cd", file=str(isos["second"]), force=False)
        t.expect(media.mounted_digest(t, console) == digests["second"], "the guest does not read the CD that was put in")
        t.run(console, "umount /mnt")
        _power_off(t, running, console)


def scsi_disk_on_virtio_mmio(t):
    path, digest = _disk(t, 8)
    extra = ["-device", "virtio-scsi-device", "-drive", f"if=none,id=d,file={path},format=raw", "-device", "scsi-hd,drive=d"]
    with t.start(t.machine(machine="microvm", extra=extra)) as running:
        console = t.shell(running)
        _drivers(t, console)
        t.expect(t.run(console, "sha256sum </dev/sda").startswith(digest), "the guest reads other bytes than the disk has")
        _power_off(t, running, console)
