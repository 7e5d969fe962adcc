"""Devices as a guest's drivers see them, from the busybox initrd."""

import hashlib
import os
import socket
import subprocess
import threading

MIB = 1 << 20


def _disk(t, mebibytes):
    """A raw image of random bytes, and their SHA-256."""
    path = t.scratch.path / "disk.img"
    content = os.urandom(mebibytes * MIB)
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def disk_keeps_what_was_written(t):
    path, digest = _disk(t, 32)
    with t.start(t.machine(disks=[path])) as running:
        console = t.shell(running)
        t.expect(t.run(console, "sha256sum </dev/vda").startswith(digest), "the guest reads other bytes than the disk has")
        t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=8 2>/dev/null")
        t.run(console, "dd if=/tmp/new of=/dev/vda bs=1M seek=5 conv=fsync 2>/dev/null")
        written = t.run(console, "sha256sum </tmp/new").split()[0]
        console.send("poweroff -f\n")
        t.ends(running)
    with open(path, "rb") as disk:
        disk.seek(5 * MIB)
        t.expect(hashlib.sha256(disk.read(8 * MIB)).hexdigest() == written, "the image has other bytes than the guest wrote")


def disk_in_a_qcow2_image(t):
    path, digest = _disk(t, 32)
    image = path.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", path, image], check=True)
    drive = ["-drive", f"file={image},format=qcow2,if=virtio"]
    with t.start(t.machine(extra=drive)) as running:
        console = t.shell(running)
        t.expect(t.run(console, "sha256sum </dev/vda").startswith(digest), "the guest reads other bytes than the image has")
        t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=8 2>/dev/null")
        t.run(console, "dd if=/tmp/new of=/dev/vda bs=1M seek=5 conv=fsync 2>/dev/null")
        written = t.run(console, "sha256sum </tmp/new").split()[0]
        console.send("poweroff -f\n")
        t.ends(running)
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", image], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, path], check=True)
    with open(path, "rb") as disk:
        disk.seek(5 * MIB)
        t.expect(hashlib.sha256(disk.read(8 * MIB)).hexdigest() == written, "the image has other bytes than the guest wrote")


def disk_on_virtio_mmio(t):
    path, digest = _disk(t, 8)
    with t.start(t.machine(machine="microvm", disks=[path])) as running:
        console = t.shell(running)
        t.expect(t.run(console, "sha256sum </dev/vda").startswith(digest), "the guest reads other bytes than the disk has")
        t.run(console, "echo changed | dd of=/dev/vda conv=fsync 2>/dev/null")
        console.send("poweroff -f\n")
        t.ends(running)
    t.expect(path.read_bytes().startswith(b"changed\n"), "the image has other bytes than the guest wrote")


def packed_rings(t):
    """Disk, network, random numbers over packed rings, as the driver negotiates them."""
    path, digest = _disk(t, 32)
    content = os.urandom(4 * MIB)
    server = Server(content)
    extra = ["-drive", f"file={path},format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d,packed=on,num-queues=2",
             "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,packed=on",
             "-device", "virtio-rng-pci,packed=on,iommu_platform=on"]
    with t.start(t.machine(cpus=2, extra=extra)) as running:
        console = t.shell(running)
        for device in t.run(console, "cat /sys/bus/virtio/devices/*/features").split():
            t.expect(device[34] == "1", "a driver did not accept packed rings")
        t.expect(t.run(console, "sha256sum </dev/vda").startswith(digest), "the guest reads other bytes than the disk has")
        t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=8 2>/dev/null")
        t.run(console, "dd if=/tmp/new of=/dev/vda bs=1M seek=5 conv=fsync 2>/dev/null")
        written = t.run(console, "sha256sum </tmp/new").split()[0]
        t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null")
        received = t.run(console, f"nc 10.0.2.2 {server.port} </dev/null | sha256sum").split()[0]
        t.expect(received == hashlib.sha256(content).hexdigest(), "the guest received other bytes than the host sent")
        t.run(console, "head -c 64 /dev/hwrng >/dev/null")
        console.send("poweroff -f\n")
        t.ends(running)
    with open(path, "rb") as disk:
        disk.seek(5 * MIB)
        t.expect(hashlib.sha256(disk.read(8 * MIB)).hexdigest() == written, "the image has other bytes than the guest wrote")


def disk_with_snapshot_stays_as_it_was(t):
    path, digest = _disk(t, 8)
    drive = ["-drive", f"file={path},format=raw,if=virtio,snapshot=on"]
    with t.start(t.machine(extra=drive)) as running:
        console = t.shell(running)
        t.run(console, "echo changed | dd of=/dev/vda conv=fsync 2>/dev/null")
        t.run(console, "echo 3 >/proc/sys/vm/drop_caches")
        t.expect(t.run(console, "head -1 /dev/vda") == "changed", "the guest does not read what it wrote")
        console.send("poweroff -f\n")
        t.ends(running)
    t.expect(hashlib.sha256(path.read_bytes()).hexdigest() == digest, "the image changed in spite of snapshot=on")


def disk_that_is_read_only_refuses_writes(t):
    path, digest = _disk(t, 8)
    drive = ["-drive", f"file={path},format=raw,if=virtio,readonly=on"]
    with t.start(t.machine(extra=drive)) as running:
        console = t.shell(running)
        t.expect(t.run(console, "cat /sys/class/block/vda/ro") == "1", "the guest takes the disk for a writable one")
        t.expect(t.run(console, "sha256sum </dev/vda").startswith(digest), "the guest reads other bytes than the disk has")


def ide_disk_and_cd(t):
    path, digest = _disk(t, 32)
    folder, iso = t.scratch.path / "cd", t.scratch.path / "cd.iso"
    folder.mkdir()
    content = os.urandom(3 * MIB + 17)
    (folder / "file").write_bytes(content)
    subprocess.run(["genisoimage", "-quiet", "-R", "-o", iso, folder], check=True)
    with t.start(t.machine(extra=["-hda", path, "-cdrom", iso])) as running:
        console = t.shell(running)
        t.run(console, "modprobe -a ata_piix sd_mod sr_mod isofs; until [ -b /dev/sda ] && [ -b /dev/sr0 ]; do sleep 0.1; done")
        t.expect(t.run(console, "sha256sum </dev/sda").startswith(digest), "the guest reads other bytes than the disk has")
        t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=8 2>/dev/null")
        t.run(console, "dd if=/tmp/new of=/dev/sda bs=1M seek=5 conv=fsync 2>/dev/null")
        written = t.run(console, "sha256sum </tmp/new").split()[0]
        t.run(console, "mount -t iso9660 -o ro /dev/sr0 /mnt")
        t.expect(t.run(console, "sha256sum </mnt/file").startswith(hashlib.sha256(content).hexdigest()),
                 "the guest reads other bytes than the CD has")
        # The kernel opens the tray when the CD is unmounted, and closes it when it is opened; a medium that it
        # finds changed while opening it can be used the next time.
        t.run(console, "cd /proc/sys/dev/cdrom; echo 1 >autoeject; echo 0 >autoclose; cd /; umount /mnt")
        t.run(console, "! mount -t iso9660 -o ro /dev/sr0 /mnt 2>/dev/null")
        t.run(console, "cd /proc/sys/dev/cdrom; echo 0 >autoeject; echo 1 >autoclose; cd /; : </dev/sr0")
        t.run(console, "mount -t iso9660 -o ro /dev/sr0 /mnt")
        t.expect(t.run(console, "sha256sum </mnt/file").startswith(hashlib.sha256(content).hexdigest()),
                 "the guest reads other bytes than the CD that it loaded has")
        t.expect(t.run(console, "dmesg | grep -E '^.*ata[12].*(exception|failed|error|timeout)' || true") == "",
                 "the kernel complains about a drive")
        console.send("poweroff -f\n")
        t.ends(running)
    with open(path, "rb") as disk:
        disk.seek(5 * MIB)
        t.expect(hashlib.sha256(disk.read(8 * MIB)).hexdigest() == written, "the image has other bytes than the guest wrote")


def network_by_dhcp(t):
    with t.start(t.machine(net="user")) as running:
        console = t.shell(running)
        t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null")
        t.expect("10.0.2.15/24" in t.run(console, "ip -4 addr show eth0"), "the lease is not 10.0.2.15/24")
        t.run(console, "ping -c 2 -W 10 10.0.2.2")
        t.expect("10.0.2.3" in t.run(console, "cat /etc/resolv.conf"), "the lease names no DNS server")


class Server(threading.Thread):
    """A TCP server on the host that sends `content` to each client and keeps what it receives."""

    def __init__(self, content):
        super().__init__(daemon=True)
        self.content, self.received = content, b""
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self):
        while True:
            client, _ = self.socket.accept()
            with client:
                client.sendall(self.content)
                client.shutdown(socket.SHUT_WR)
                while data := client.recv(65536):
                    self.received += data


def network_to_a_server_on_the_host(t):
    content = os.urandom(8 * MIB)
    server = Server(content)
    with t.start(t.machine(net="user")) as running:
        console = t.shell(running)
        t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null")
        digest = t.run(console, f"nc 10.0.2.2 {server.port} </dev/null | sha256sum").split()[0]
        t.expect(digest == hashlib.sha256(content).hexdigest(), "the guest received other bytes than the host sent")


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def network_from_the_host_to_the_guest(t):
    port = _free_port()
    with t.start(t.machine(net=f"user,hostfwd=tcp:127.0.0.1:{port}-:7")) as running:
        console = t.shell(running)
        t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null")
        t.run(console, "(nc -ll -p 7 -e cat &) </dev/null >/dev/null 2>&1")
        t.run(console, "until netstat -ltn | grep -q ':7 '; do sleep 0.1; done")
        content = os.urandom(MIB)
        with t.steps.step("1 MiB through the guest and back"):
            with socket.create_connection(("127.0.0.1", port), timeout=120) as peer:
                sender = threading.Thread(target=peer.sendall, args=(content,), daemon=True)
                sender.start()
                back = b""
                while len(back) < len(content) and (data := peer.recv(65536)):
                    back += data
                sender.join(120)
        t.expect(back == content, f"{len(back)} bytes came back, and not those that were sent")


def random_numbers_from_the_host(t):
    with t.start(t.machine(rng=True)) as running:
        console = t.shell(running)
        t.expect("virtio" in t.run(console, "cat /sys/class/misc/hw_random/rng_current"), "virtio-rng is not in use")
        first = t.run(console, "head -c 64 /dev/hwrng | sha256sum")
        t.expect(first != t.run(console, "head -c 64 /dev/hwrng | sha256sum"), "two reads gave the same bytes")
