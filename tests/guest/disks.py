"""Disks in a running machine: full host disks, I/O threads, limits."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import control

MIB = 1 << 20


def _random_file(t, console, mebibytes):
    """Random bytes in the guest's /tmp/new; their SHA-256."""
    t.run(console, f"dd if=/dev/urandom of=/tmp/new bs=1M count={mebibytes} 2>/dev/null")
    return t.run(console, "sha256sum </tmp/new").split()[0]


def _content(t, image, offset, size):
    raw = t.scratch.path / "content.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    with open(raw, "rb") as disk:
        disk.seek(offset)
        return hashlib.sha256(disk.read(size)).hexdigest()


def _pause_on_a_full_host_disk(t, interface, device, drivers=""):
    """The image lies on a file system too small for what the guest writes, until a file there is removed."""
    folder = t.scratch.path / "small"
    folder.mkdir()
    command = t.command(t.machine(memory="256M", extra=["-drive", f"file={folder}/disk.qcow2,if={interface},format=qcow2"]))
    script = f"""set -e
        mount -t tmpfs -o size=24M tmpfs {folder}
        qemu-img create -q -f qcow2 {folder}/disk.qcow2 64M
        head -c 12M /dev/zero >{folder}/ballast
        mkfifo {folder}/room
        {{ read line <{folder}/room; rm {folder}/ballast; }} &
        "$@"
        cp {folder}/disk.qcow2 {t.scratch.path}/after.qcow2"""
    wrapped = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else []), "sh", "-c", script, "sh", *command]
    with t.start_command(wrapped) as running:
        console = t.shell(running)
        if drivers:
            t.run(console, f"modprobe -a {drivers}; until [ -b {device} ]; do sleep 0.1; done")
        digest = _random_file(t, console, 18)
        with t.steps.step("write more than there is room for"):
            console.send(f"dd if=/tmp/new of={device} bs=1M conv=fsync 2>/dev/null; echo writ''ten $?\n")
            console.wait_for(r"the guest is paused: disk '[^']*': No space left on device", 120, "the pause")
        with t.steps.step("make room"):
            with open(f"/proc/{running.process.pid}/root{folder}/room", "w", encoding="ascii") as room:
                room.write("now\n")
            console.wait_for(r"the guest goes on", 60, "the guest to go on")
            console.wait_for(r"written 0", 120, "the end of the guest's writing")
        t.run(console, "echo 3 >/proc/sys/vm/drop_caches")
        t.expect(t.run(console, f"head -c {18 * MIB} {device} | sha256sum").startswith(digest),
                 "the guest does not read what it wrote")
        t.expect(t.run(console, "dmesg | grep -ci 'i/o error' || true") == "0", "the guest saw an error")
        console.send("poweroff -f\n")
        t.ends(running)
    image = t.scratch.path / "after.qcow2"
    subprocess.run(["qemu-img", "check", "-q", image], check=True)
    t.expect(_content(t, image, 0, 18 * MIB) == digest, "the image has other bytes than the guest wrote")


def full_host_disk_pauses_the_guest(t):
    _pause_on_a_full_host_disk(t, "virtio", "/dev/vda")


def full_host_disk_pauses_a_guest_on_ide(t):
    _pause_on_a_full_host_disk(t, "ide", "/dev/sda", "ata_piix sd_mod")


def full_host_disk_pauses_a_guest_on_scsi(t):
    _pause_on_a_full_host_disk(t, "scsi", "/dev/sda", "virtio_scsi sd_mod")


def errors_are_reported_when_asked(t):
    """The same error reaches the guest with werror=report."""
    path = t.scratch.path / "disk.img"
    path.write_bytes(bytes(8 * MIB))
    nodes = ["-blockdev", f"file,node-name=f,filename={path}",
             "-blockdev", "blkdebug,node-name=d,image=f,inject-error.0.iotype=write,inject-error.0.errno=28",
             "-device", "virtio-blk-pci,drive=d,werror=report"]
    with t.start(t.machine(extra=nodes)) as running:
        console = t.shell(running)
        t.expect(t.run(console, "dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2>/dev/null; echo $?") != "0",
                 "the guest does not see that its write failed")


def queues_on_several_io_threads(t):
    image = t.scratch.path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    device = ('{"driver":"virtio-blk-pci","drive":"d","num-queues":4,'
              '"iothread-vq-mapping":[{"iothread":"a","vqs":[0,2]},{"iothread":"b","vqs":[1,3]}]}')
    options = ["-object", "iothread,id=a", "-object", "iothread,id=b", "-drive",
               f"if=none,id=d,file={image},format=qcow2,cache=none,aio=io_uring", "-device", device]
    with t.start(t.machine(cpus=4, extra=options)) as running:
        console = t.shell(running)
        t.expect(t.run(console, "ls /sys/block/vda/mq | wc -l") == "4", "the guest sees other than four queues")
        digests = []
        for cpu in range(4):
            digests.append(_random_file(t, console, 4))
            t.run(console, f"mv /tmp/new /tmp/new{cpu}")
        writers = " ".join(f"taskset -c {cpu} dd if=/tmp/new{cpu} of=/dev/vda bs=64k seek={cpu * 64} conv=fsync 2>/dev/null &"
                           for cpu in range(4))
        t.run(console, f"{writers} wait")
        console.send("poweroff -f\n")
        t.ends(running)
    subprocess.run(["qemu-img", "check", "-q", image], check=True)
    for cpu, digest in enumerate(digests):
        t.expect(_content(t, image, cpu * 4 * MIB, 4 * MIB) == digest, f"what processor {cpu} wrote is not in the image")


def disks_have_a_queue_for_each_processor(t):
    image = t.scratch.path / "disk.img"
    image.write_bytes(bytes(8 * MIB))
    drive = f"if=none,file={image},format=raw,snapshot=on"
    options = ["-drive", f"{drive},id=a", "-device", "virtio-blk-pci,drive=a,num-queues=65535",
               "-drive", f"{drive},id=b", "-device", "virtio-blk-pci,drive=b,num-queues=2",
               "-device", "virtio-scsi-pci", "-drive", f"{drive},id=c", "-device", "scsi-hd,drive=c"]
    vmm, machine = control.start(t, t.machine(cpus=4, extra=options))
    with vmm as running:
        console = t.shell(running)
        t.run(console, "modprobe -a virtio_scsi sd_mod; until [ -b /dev/sda ]; do sleep 0.1; done")
        for disk, queues in (("vda", "4"), ("vdb", "2"), ("sda", "4")):
            t.expect(t.run(console, f"ls /sys/block/{disk}/mq | wc -l") == queues, f"{disk} has other than {queues} queues")
        t.expect(t.run(console, "grep -c virtio0-req /proc/interrupts") == "4", "the queues do not have an interrupt each")
        machine.do("reload")
        machine.do("resume")
        for disk in ("vda", "sda"):
            t.run(console, f"for cpu in 0 1 2 3; do taskset -c $cpu dd if=/dev/{disk} of=/dev/null bs=1M skip=$cpu count=1 2>/dev/null || exit; done")


def encrypted_disk_with_limits(t):
    image, key = t.scratch.path / "disk.luks", t.scratch.path / "key"
    key.write_text("open sesame")
    subprocess.run([Path(t.program).with_name("ostler-img"), "create", "-q", "-f", "luks", "--object",
                    f"secret,id=s,file={key}", "-o", "key-secret=s,iter-time=10", image, "16M"], check=True)
    options = ["-object", f"secret,id=s,file={key}", "-object", "throttle-group,id=g,x-bps-total=67108864", "-drive",
               f"if=virtio,file={image},format=luks,key-secret=s,throttling.group=g,detect-zeroes=on"]
    with t.start(t.machine(extra=options)) as running:
        console = t.shell(running)
        digest = _random_file(t, console, 4)
        t.run(console, "dd if=/tmp/new of=/dev/vda bs=1M conv=fsync 2>/dev/null")
        console.send("poweroff -f\n")
        t.ends(running)
    raw = t.scratch.path / "plain.raw"
    subprocess.run(["qemu-img", "convert", "--object", f"secret,id=s,file={key}", "--image-opts",
                    f"driver=luks,key-secret=s,file.filename={image}", "-O", "raw", raw], check=True)
    t.expect(hashlib.sha256(raw.read_bytes()[:4 * MIB]).hexdigest() == digest, "the image has other bytes than the guest wrote")


def compressed_disk_in_a_file_that_grows_ahead(t):
    image = t.scratch.path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    options = ["-blockdev", f"preallocate,node-name=p,prealloc-size=8M,file.driver=file,file.filename={image}",
               "-blockdev", "compress,node-name=c,file.driver=qcow2,file.file=p", "-device", "virtio-blk-pci,drive=c"]
    with t.start(t.machine(extra=options)) as running:
        console = t.shell(running)
        # Text, and pieces of it that begin within clusters.
        t.run(console, "yes ostler | head -c 4194304 >/tmp/new")
        t.run(console, "dd if=/tmp/new of=/dev/vda bs=1M conv=fsync 2>/dev/null")
        t.run(console, "dd if=/dev/urandom of=/tmp/part bs=512 count=3 2>/dev/null")
        for sector in (7, 127, 8190):
            t.run(console, f"dd if=/tmp/part of=/dev/vda bs=512 seek={sector} conv=fsync 2>/dev/null")
        digest = t.run(console, "dd if=/dev/vda bs=1M count=5 2>/dev/null | sha256sum").split()[0]
        console.send("poweroff -f\n")
        t.ends(running)
    report = json.loads(subprocess.run(["qemu-img", "check", "--output=json", image], check=True, stdout=subprocess.PIPE).stdout)
    t.expect(report["compressed-clusters"] == report["allocated-clusters"] > 60, "not every cluster is compressed")
    t.expect(image.stat().st_size < 4 * MIB, "the image's file was not cut")
    t.expect(_content(t, image, 0, 5 * MIB) == digest, "the image has other bytes than the guest wrote")
