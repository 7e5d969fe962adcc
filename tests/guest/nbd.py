"""The kernel's NBD client, in the guest, on an image that ostler-img serves."""

import hashlib
import re
import subprocess
import tarfile
from pathlib import Path

from guestlib import guests

MIB = 1 << 20
CLIENT = Path(__file__).with_name("nbd_client.c")


def _archive(t):
    """A disk that holds a tar archive: the kernel's module and a program that hands it a connection."""
    program, archive = t.scratch.path / "nbd_client", t.scratch.path / "nbd.tar"
    subprocess.run(["cc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-o", program, CLIENT], check=True)
    kernel = Path(guests.prepare("kernel")["kernel"]).parent
    with tarfile.open(archive, "w") as tar:
        tar.add(program, "nbd_client")
        tar.add(next(kernel.glob("lib/modules/*/kernel/drivers/block/nbd.ko")), "nbd.ko")
    return archive


def kernels_nbd_client(t):
    image = t.scratch.path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    server = subprocess.Popen([Path(t.program).with_name("ostler-img"), "serve", "-f", "qcow2", "--address", "127.0.0.1", "--port",
                               "0", "-t", "-x", "disk", image], stdout=subprocess.PIPE, text=True)
    try:
        port = re.search(r":(\d+)/", server.stdout.readline())[1]
        archive = _archive(t)
        machine = t.machine(net="user", extra=["-drive", f"file={archive},format=raw,if=virtio,readonly=on"])
        with t.start(machine) as running:
            console = t.shell(running)
            t.run(console, "tar -x -C /tmp -f /dev/vda && insmod /tmp/nbd.ko")
            t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null")
            t.run(console, f"(/tmp/nbd_client 10.0.2.2 {port} disk /dev/nbd0; echo $? >/tmp/ended) </dev/null >/dev/null 2>&1 &")
            t.run(console, "until [ $(cat /sys/block/nbd0/size) = 131072 ]; do sleep 0.1; done")
            t.run(console, "dd if=/dev/urandom of=/dev/nbd0 bs=1M count=24 conv=fsync 2>/dev/null")
            t.run(console, "dd if=/dev/urandom of=/dev/nbd0 bs=512 seek=70001 count=77 conv=fsync 2>/dev/null")
            t.run(console, f"blkdiscard -o {4 * MIB} -l {2 * MIB} /dev/nbd0")
            t.run(console, "echo 3 >/proc/sys/vm/drop_caches")
            digest = t.run(console, "sha256sum </dev/nbd0").split()[0]
            t.run(console, "killall nbd_client; until [ -e /tmp/ended ]; do sleep 0.1; done; grep -qx 0 /tmp/ended")
            console.send("poweroff -f\n")
            t.ends(running)
    finally:
        server.terminate()
        server.wait()
    subprocess.run(["qemu-img", "check", "-q", image], check=True)
    raw = t.scratch.path / "content.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    content = raw.read_bytes()
    t.expect(hashlib.sha256(content).hexdigest() == digest, "the image has other bytes than the guest wrote")
    t.expect(content[4 * MIB:6 * MIB] == bytes(2 * MIB), "the discard has not reached the image")
