"""What Linux's virtio drivers see beyond disks and networks that work: offloads, links, many ports."""

import hashlib
import socket
import threading

import control

MIB = 1 << 20


class Sink(threading.Thread):
    """A TCP server on the host that takes what one client sends."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.digest = None
        self.start()

    def run(self):
        client, _ = self.socket.accept()
        seen = hashlib.sha256()
        with client:
            while data := client.recv(65536):
                seen.update(data)
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
        # Large packets: fewer left the driver than 8 MiB make of 1500 bytes.
        packets = int(t.run(console, "cat /sys/class/net/eth0/statistics/tx_packets"))
        t.expect(packets < 8 * MIB // 1500 // 2, f"the driver sent {packets} packets: it cut them itself")


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
