"""What Linux's virtio drivers see beyond disks and networks that work: offloads, links, many ports."""

import hashlib
import os
import socket
import threading
import time

import control
import devices

MIB = 1 << 20


class Sink(threading.Thread):
    """A TCP server on the host that takes what one client sends, more slowly than any guest sends: so that data piles up
    there and leaves in packets as large as the card takes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.port = self.socket.getsockname()[1]
        self.digest = None
        self.start()

    def run(self):
        client, _ = self.socket.accept()
        seen = hashlib.sha256()
        with client:
            while data := client.recv(65536):
                seen.update(data)
                time.sleep(0.02)
        self.digest = seen.hexdigest()


def _features(t, console, driver):
    """The features that a driver has accepted, a character for each bit."""
    return t.run(console, f"cat /sys/bus/virtio/drivers/{driver}/virtio*/features").split()[0]


def network_card_that_segments(t):
    sink = Sink()
    with t.start(t.machine(net="user")) as running:
        console = t.shell(running)
        features = _features(t, console, "virtio_net")
        t.expect(features[0] == "1" and features[11] == "1", "the driver leaves neither checksums nor segmentation to the card")
        t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null")
        t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=8 2>/dev/null")
        sent = t.run(console, f"sha256sum </tmp/new; nc 10.0.2.2 {sink.port} </tmp/new").split()[0]
        with t.steps.step("the host has all of it"):
            sink.join(120)
        t.expect(sink.digest == sent, "the host received other bytes than the guest sent")
        # TCP counts what a packet will be cut into, the driver counts packets.
        segments = int(t.run(console, "awk '/^Tcp: [0-9]/ { print $12 }' /proc/net/snmp"))
        packets = int(t.run(console, "cat /sys/class/net/eth0/statistics/tx_packets"))
        t.expect(packets < segments, f"the driver sent {packets} packets of {segments} segments: it cut them itself")


def link_of_a_network_card(t):
    vmm, machine = control.start(t, t.machine(extra=["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,id=card"]))
    with vmm as running:
        console = t.shell(running)
        t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null")
        t.run(console, "ping -c 1 -W 10 10.0.2.2")
        machine.do("set_link", name="card", up=False)
        t.run(console, "until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.1; done")
        t.run(console, "! ping -c 1 -W 1 10.0.2.2 >/dev/null")
        machine.do("set_link", name="n", up=True)
        t.run(console, "until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done")
        t.run(console, "until ping -c 1 -W 1 10.0.2.2 >/dev/null; do :; done")
        # The driver answers the request to announce itself after a restore.
        machine.do("reload")
        machine.do("resume")
        t.run(console, "until ping -c 1 -W 1 10.0.2.2 >/dev/null; do :; done")


def _resident(running):
    """Bytes of the host's memory that the VMM has."""
    with open(f"/proc/{running.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def _soon(t, condition, sentence):
    """`condition()` becomes true within minutes, by what the guest does in its own time; `sentence()` says what is, else."""
    end = time.monotonic() + 180
    while not condition():
        t.expect(time.monotonic() < end, sentence())
        time.sleep(0.2)


def balloon_gives_memory_back(t):
    extra = ["-device", "virtio-balloon-pci,guest-stats-polling-interval=1,packed=on"]
    vmm, machine = control.start(t, t.machine(memory="512M", extra=extra))
    with vmm as running:
        console = t.shell(running)
        t.run(console, "modprobe virtio_balloon; mount -t tmpfs -o size=400m none /mnt")
        t.run(console, "dd if=/dev/zero of=/mnt/file bs=1M count=300 2>/dev/null; rm /mnt/file")
        full = _resident(running)
        with t.steps.step("the guest keeps 128 MiB"):
            machine.do("balloon", target=128 * MIB)
            t.run(console, "until [ $(awk '/MemTotal/ { print $2 }' /proc/meminfo) -lt 131072 ]; do sleep 0.1; done")
            # Its driver tells when it is done; the kernel has counted most of the pages out before.
            _soon(t, lambda: machine.do("balloon")["actual"] == 128 * MIB, lambda: "the guest tells of another size")
        now = _resident(running)
        t.expect(now < full - 200 * MIB, f"the host has {full - now >> 20} MiB back of 300")
        with t.steps.step("statistics"):
            _soon(t, lambda: machine.do("balloon")["statistics"].get("5", 0) > 0, lambda: "the guest tells no total of its memory")
        machine.do("balloon", target=512 * MIB)
        t.run(console, "until [ $(awk '/MemTotal/ { print $2 }' /proc/meminfo) -gt 400000 ]; do sleep 0.1; done")
        t.run(console, "dd if=/dev/zero of=/mnt/file bs=1M count=300 2>/dev/null; rm /mnt/file")


def free_pages_are_reported(t):
    extra = ["-device", "virtio-balloon-pci,free-page-reporting=on,free-page-hint=on"]
    vmm, machine = control.start(t, t.machine(memory="512M", extra=extra))
    with vmm as running:
        console = t.shell(running)
        t.run(console, "mount -t tmpfs -o size=400m none /mnt")
        t.run(console, "dd if=/dev/zero of=/mnt/file bs=1M count=300 2>/dev/null")
        full = _resident(running)
        t.run(console, "rm /mnt/file; modprobe virtio_balloon")
        with t.steps.step("the host has the free pages"):
            _soon(t, lambda: _resident(running) < full - 200 * MIB,
                  lambda: f"the host has {full - _resident(running) >> 20} MiB back of 300")
        with t.steps.step("free pages on demand"):
            before = machine.do("balloon")["reclaimed"]
            machine.do("balloon", reclaim=True)
            _soon(t, lambda: machine.do("balloon")["reclaimed"] > before, lambda: "the guest hinted no pages")
        t.run(console, "dd if=/dev/urandom of=/mnt/file bs=1M count=100 2>/dev/null; sha256sum </mnt/file >/dev/null")


def _works(t, console, disks):
    """Each virtio device of the machine below does what its driver asks for; `disks` by their names in the guest."""
    t.run(console, "until [ -b /dev/vda ] && [ -b /dev/sda ]; do sleep 0.1; done")
    t.run(console, "dd if=/dev/urandom of=/tmp/new bs=64k count=64 2>/dev/null")
    for disk in disks:
        t.run(console, f"dd if=/tmp/new of=/dev/{disk} bs=64k conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; "
                       f"dd if=/dev/{disk} bs=64k count=64 2>/dev/null | cmp - /tmp/new")
    t.run(console, "ip link set eth0 up; ip addr replace 10.0.2.15/24 dev eth0; until ping -c 1 -W 1 10.0.2.2 >/dev/null; do :; done")
    t.run(console, "head -c 64 /dev/hwrng | wc -c | grep -qx 64; echo hello >/dev/vport*p1")


def all_devices_saved_and_driven_anew(t):
    disks = [t.scratch.path / name for name in ("a", "b")]
    for path in disks:
        with open(path, "wb") as file:
            file.truncate(16 * MIB)
    rings = "packed=on,in_order=on"
    extra = ["-drive", f"file={disks[0]},format=raw,if=none,id=a", "-device", f"virtio-blk-pci,drive=a,{rings}",
             "-device", f"virtio-scsi-pci,{rings}", "-drive", f"file={disks[1]},format=raw,if=none,id=b", "-device", "scsi-hd,drive=b",
             "-netdev", "user,id=n", "-device", f"virtio-net-pci,netdev=n,{rings}", "-device", f"virtio-rng-pci,{rings}",
             "-device", f"virtio-balloon-pci,free-page-reporting=on,{rings}",
             "-device", f"virtio-serial-pci,{rings}", "-chardev", "ringbuf,id=r", "-device", "virtserialport,chardev=r,name=port",
             "-device", f"virtio-vsock-pci,guest-cid=5,uds-path={t.scratch.path / 'vsock'},{rings}"]
    vmm, machine = control.start(t, t.machine(cpus=2, extra=extra))
    with vmm as running:
        console = t.shell(running)
        t.run(console, "modprobe -a virtio_scsi sd_mod virtio_balloon 2>/dev/null; true")
        _works(t, console, ("vda", "sda"))
        machine.do("reload")
        machine.do("resume")
        _works(t, console, ("vda", "sda"))
        for driver in ("blk", "scsi", "net", "rng", "balloon", "console"):
            t.run(console, f"cd /sys/bus/virtio/drivers/virtio_{driver}* && for i in virtio*; do echo $i >unbind; echo $i >bind; done; cd /")
        _works(t, console, ("vda", "sda"))
        machine.do("reload")
        machine.do("resume")
        _works(t, console, ("vda", "sda"))
        with t.steps.step("a disk that grows"):
            machine.do("resize", id="a", bytes=32 * MIB)
        t.run(console, "until [ $(cat /sys/block/vda/size) = 65536 ]; do sleep 0.1; done")
        t.run(console, "dd if=/tmp/new of=/dev/vda bs=1M seek=28 conv=fsync 2>/dev/null")


def named_ports_of_a_console(t):
    path = t.scratch.path / "channel"
    extra = ["-device", "virtio-serial-pci,packed=on", "-chardev", f"socket,id=c,path={path},server=on,wait=off",
             "-device", "virtserialport,chardev=c,name=org.ostler.test"]
    with t.start(t.machine(extra=extra)) as running:
        console = t.shell(running)
        t.run(console, "until [ -e /sys/class/virtio-ports/vport0p1/name ]; do sleep 0.1; done")
        t.expect(t.run(console, "cat /sys/class/virtio-ports/vport0p1/name") == "org.ostler.test", "the port has another name")
        content = bytes(range(256)) * 4096
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.settimeout(120)
            t.run(console, "(cat /dev/vport0p1 >/tmp/in &) </dev/null >/dev/null 2>&1; sleep 0.1")
            peer.sendall(content)
            digest = hashlib.sha256(content).hexdigest()
            t.run(console, f"until sha256sum </tmp/in | grep -q {digest}; do sleep 0.1; done")
            # The kernel lets one program open a port.
            t.run(console, "killall cat; while pidof cat; do sleep 0.1; done")
            console.send("cat /tmp/in >/dev/vport0p1\n")
            back = b""
            while len(back) < len(content) and (data := peer.recv(65536)):
                back += data
        t.expect(back == content, "other bytes came back than were sent")


def random_numbers_with_a_limit(t):
    with t.start(t.machine(extra=["-device", "virtio-rng-pci,max-bytes=256,period=500"])) as running:
        console = t.shell(running)
        t.run(console, "head -c 1024 /dev/hwrng | wc -c | grep -qx 1024")


class Exchange(threading.Thread):
    """A program of the host at one end of a stream: sends `content`, and takes what comes meanwhile."""

    def __init__(self, peer, content):
        super().__init__(daemon=True)
        self.peer, self.content, self.seen = peer, content, b""
        self.sender = threading.Thread(target=self._send, daemon=True)
        self.sender.start()
        self.start()

    def _send(self):
        self.peer.sendall(self.content)
        self.peer.shutdown(socket.SHUT_WR)

    def run(self):
        parts = []
        while data := self.peer.recv(65536):
            parts.append(data)
        self.sender.join()
        self.seen = b"".join(parts)


def _join(path, port):
    """A program of the host that is connected with a port of the guest."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(120)
    peer.connect(str(path))
    peer.sendall(f"CONNECT {port}\n".encode())
    answer = b""
    while not answer.endswith(b"\n"):
        byte = peer.recv(1)
        if not byte:
            peer.close()
            return None
        answer += byte
    return peer if answer.startswith(b"OK ") else None


def sockets_between_guest_and_host(t):
    path = t.scratch.path / "vsock"
    vmm, machine = control.start(t, t.machine(extra=["-device", f"virtio-vsock-pci,guest-cid=9,uds-path={path}"]))
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}_5000")
    server.listen()
    server.settimeout(120)
    content = os.urandom(8 * MIB)
    digest = hashlib.sha256(content).hexdigest()
    with vmm as running, server:
        console = t.shell(running)
        t.run(console, "until [ -e /dev/vsock ]; do sleep 0.1; done")
        t.run(console, "! vsock connect 2 5001 2>/dev/null")  # nobody serves it
        t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=8 2>/dev/null")
        sent = t.run(console, "sha256sum </tmp/new").split()[0]
        t.run(console, "(vsock connect 2 5000 </tmp/new | sha256sum >/tmp/sum &) >/dev/null 2>&1")
        with t.steps.step("8 MiB both ways at once"):
            program = Exchange(server.accept()[0], content)
            program.join(120)
            t.expect(hashlib.sha256(program.seen).hexdigest() == sent, "the host received other bytes than the guest sent")
            program.peer.close()
        t.run(console, f"until [ -s /tmp/sum ]; do sleep 0.1; done; grep -q {digest} /tmp/sum")
        t.run(console, "(vsock serve 77 cat &) </dev/null >/dev/null 2>&1; sleep 1")
        with t.steps.step("several connections to the guest at once"):
            programs = [Exchange(_join(path, 77), content[i * MIB:(i + 3) * MIB]) for i in range(4)]
            for program in programs:
                program.join(120)
                t.expect(program.seen == program.content, "the guest's echo differs")
                program.peer.close()
        t.expect(_join(path, 78) is None, "a port without a server in the guest accepted")
        with t.steps.step("connections end when a state is loaded, new ones work"):
            peer = _join(path, 77)
            machine.do("reload")
            t.expect(peer.recv(1) == b"", "the connection lives after the load")
            machine.do("resume")
            t.run(console, "while pidof cat >/dev/null; do sleep 0.1; done")
            program = Exchange(_join(path, 77), content[:MIB])
            program.join(120)
            t.expect(program.seen == program.content, "the guest's echo differs after the load")


def sockets_on_virtio_mmio(t):
    path = t.scratch.path / "vsock"
    extra = ["-device", f"virtio-vsock-device,guest-cid=3,uds-path={path},packed=on,in_order=on"]
    with t.start(t.machine(machine="microvm", extra=extra)) as running:
        console = t.shell(running)
        t.run(console, "(vsock serve 77 cat &) </dev/null >/dev/null 2>&1; sleep 1")
        content = os.urandom(MIB)
        program = Exchange(_join(path, 77), content)
        program.join(120)
        t.expect(program.seen == content, "the guest's echo differs")


def _all_by_the_legacy_interface(t, suffix, option, append):
    """Disks, a network, random numbers, ports and a balloon before drivers of virtio 0.9.5."""
    path = t.scratch.path / "disk.img"
    content = os.urandom(16 * MIB)
    path.write_bytes(content)
    scsi = t.scratch.path / "scsi.img"
    scsi.write_bytes(content)
    sent = os.urandom(2 * MIB)
    server = devices.Server(sent)
    channel = t.scratch.path / "channel"
    extra = ["-drive", f"file={path},format=raw,if=none,id=d", "-device", f"virtio-blk-pci{suffix},drive=d,num-queues=2{option}",
             "-netdev", "user,id=n", "-device", f"virtio-net-pci{suffix},netdev=n{option}",
             "-device", f"virtio-rng-pci{suffix}{option}",
             "-device", f"virtio-serial-pci{suffix}{option}", "-chardev", f"file,id=c,path={channel}",
             "-device", "virtserialport,chardev=c,name=org.test",
             "-device", f"virtio-balloon-pci{suffix}{option}",
             "-device", f"virtio-scsi-pci{suffix},id=scsi0{option}", "-drive", f"file={scsi},format=raw,if=none,id=s",
             "-device", "scsi-hd,drive=s"]
    vmm, machine = control.start(t, t.machine(cpus=2, memory="512M", extra=extra, append=append))
    with vmm as running:
        console = t.shell(running)
        t.run(console, "modprobe -a virtio_balloon virtio_console virtio_rng virtio_scsi sd_mod; until [ -b /dev/sda ]; do sleep 0.1; done")
        features = t.run(console, "cat /sys/bus/virtio/devices/*/features").split()
        t.expect(len(features) == 6, f"the guest has {len(features)} virtio devices instead of 6")
        t.expect(all(each[32] == "0" for each in features), "a driver uses the modern interface")
        t.expect(t.run(console, "sha256sum </dev/vda").startswith(hashlib.sha256(content).hexdigest()),
                 "the guest reads other bytes than the disk has")
        t.run(console, "dd if=/dev/urandom of=/tmp/new bs=1M count=4 2>/dev/null")
        t.run(console, "dd if=/tmp/new of=/dev/vda bs=1M seek=5 conv=fsync 2>/dev/null")
        written = t.run(console, "sha256sum </tmp/new").split()[0]
        t.expect(t.run(console, "sha256sum </dev/sda").startswith(hashlib.sha256(content).hexdigest()),
                 "the guest reads other bytes than the SCSI disk has")
        t.run(console, "dd if=/tmp/new of=/dev/sda bs=1M seek=5 conv=fsync 2>/dev/null")
        t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null")
        received = t.run(console, f"nc 10.0.2.2 {server.port} </dev/null | sha256sum").split()[0]
        t.expect(received == hashlib.sha256(sent).hexdigest(), "the guest received other bytes than the host sent")
        t.run(console, "head -c 64 /dev/hwrng >/dev/null")
        t.run(console, "grep -l org.test /sys/class/virtio-ports/*/name | cut -d/ -f5 >/tmp/port")
        t.run(console, "echo from the guest >/dev/$(cat /tmp/port)")
        machine.do("balloon", target=256 * MIB)
        _soon(t, lambda: machine.do("balloon")["actual"] == 256 * MIB, lambda: "the guest keeps another size")
        # The driver goes on with the same interface after a restore.
        machine.do("reload")
        machine.do("resume")
        t.run(console, "echo 3 >/proc/sys/vm/drop_caches")
        t.run(console, "ping -c 1 -W 10 10.0.2.2")
        for disk in ("vda", "sda"):
            again = t.run(console, f"dd if=/dev/{disk} bs=1M skip=5 count=4 2>/dev/null | sha256sum").split()[0]
            t.expect(again == written, f"the guest reads other bytes of {disk} than it wrote")
    with open(path, "rb") as disk:
        disk.seek(5 * MIB)
        t.expect(hashlib.sha256(disk.read(4 * MIB)).hexdigest() == written, "the image has other bytes than the guest wrote")
    t.expect(channel.read_text() == "from the guest\n", "the port's line did not come")


def legacy_devices(t):
    _all_by_the_legacy_interface(t, "", ",disable-modern=on", "")


def transitional_devices_before_a_legacy_driver(t):
    _all_by_the_legacy_interface(t, "-transitional", "", "virtio_pci.force_legacy=1")


def drivers_of_both_interfaces_by_turns(t):
    """One boot: the modern driver, the legacy one, the modern one again, before the same disk and card."""
    path = t.scratch.path / "disk.img"
    content = os.urandom(8 * MIB)
    path.write_bytes(content)
    with t.start(t.machine(cpus=2, disks=[path], net="user")) as running:
        console = t.shell(running)
        for legacy in (False, True, False):
            t.run(console, f"rmmod virtio_pci; modprobe virtio_pci force_legacy={int(legacy)}")
            t.run(console, "until [ -b /dev/vda ] && [ -e /sys/class/net/eth0 ]; do sleep 0.1; done")
            for device in t.run(console, "cat /sys/bus/virtio/devices/*/features").split():
                t.expect(device[32] == "01"[not legacy], "the driver uses the other interface")
            t.expect(t.run(console, "sha256sum </dev/vda").startswith(hashlib.sha256(content).hexdigest()),
                     "the guest reads other bytes than the disk has")
            t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null; ping -c 1 -W 10 10.0.2.2")
