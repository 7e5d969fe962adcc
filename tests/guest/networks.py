"""Networks beyond user mode: guests joined by sockets, QEMU among them, and tap devices in a network namespace of
the test's own, with dnsmasq and tshark as peers."""

import hashlib
import os
import socket
import subprocess

from guestlib import vmm
from guestlib.namespace import Namespace

MIB = 1 << 20


def _address(t, console, number):
    t.run(console, f"ip link set eth0 up; ip addr add 10.99.0.{number}/24 dev eth0")


def _ping(t, console, address):
    t.run(console, f"ping -c 3 -W 20 {address}")


def _hold_input(t, console):
    """A pipe that never ends: an nc whose input has ended shuts its half of the connection, and the other nc leaves."""
    t.run(console, "[ -p /tmp/hold ] || mkfifo /tmp/hold")


def _copy(t, source, target, address, mebibytes=4):
    """Random bytes from one guest to another by TCP."""
    _hold_input(t, target)
    t.run(target, "rm -f /tmp/sum; (nc -l -p 9 0<>/tmp/hold >/tmp/copy; sha256sum </tmp/copy >/tmp/sum) >/dev/null 2>&1 &")
    t.run(target, "until netstat -ltn | grep -q ':9 '; do sleep 0.1; done")
    t.run(source, f"dd if=/dev/urandom of=/tmp/sent bs=1M count={mebibytes} 2>/dev/null; nc {address} 9 </tmp/sent")
    digest = t.run(target, "until [ -s /tmp/sum ]; do sleep 0.1; done; cat /tmp/sum").split()[0]
    t.expect(digest == t.run(source, "sha256sum </tmp/sent").split()[0], "the guest received other bytes than were sent")


def _joined(t, first_net, second_net, second_program=None):
    """Two guests, the second on another VMM when one is named: they ping and send files both ways."""
    second_machine = t.machine(net=second_net, mac="52:54:00:99:00:02")
    command = vmm.command(second_program or t.program, second_machine)
    with t.start(t.machine(net=first_net, mac="52:54:00:99:00:01")) as first:
        one = t.shell(first)
        with t.start_command(command) as second:
            two = t.shell(second)
            _address(t, one, 1)
            _address(t, two, 2)
            _ping(t, one, "10.99.0.2")
            _copy(t, one, two, "10.99.0.2")
            _copy(t, two, one, "10.99.0.1")
            second.process.kill()
        # Its successor finds the first guest waiting.
        with t.start_command(command) as second:
            two = t.shell(second)
            _address(t, two, 2)
            _ping(t, two, "10.99.0.1")


def guests_joined_by_a_unix_socket(t):
    path = t.scratch.path / "s"
    _joined(t, f"stream,server=on,addr.type=unix,addr.path={path}", f"stream,server=off,addr.type=unix,addr.path={path}")


def guest_joined_to_one_of_qemu(t):
    path = t.scratch.path / "s"
    _joined(t, f"stream,server=on,addr.type=unix,addr.path={path}", f"stream,server=off,addr.type=unix,addr.path={path}",
            "qemu-system-x86_64")


def guest_joined_to_one_of_qemu_by_datagrams(t):
    a, b = t.scratch.path / "a", t.scratch.path / "b"
    _joined(t, f"dgram,local.type=unix,local.path={a},remote.type=unix,remote.path={b}",
            f"dgram,local.type=unix,local.path={b},remote.type=unix,remote.path={a}", "qemu-system-x86_64")


def tap_on_a_bridge_with_dhcp(t):
    """A guest on a bridge of the host: a lease from dnsmasq, files both ways, and what tshark says of the capture."""
    capture = t.scratch.path / "capture.pcap"
    with Namespace() as host:
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "link", "add", "br0", "type", "bridge")
        host.run("ip", "addr", "add", "10.77.0.1/24", "dev", "br0")
        host.run("ip", "link", "set", "br0", "up")
        dhcp = host.start("dnsmasq", "--conf-file=/dev/null", "--keep-in-foreground", "--port=0", "--interface=br0",
                          "--bind-interfaces", "--dhcp-range=10.77.0.50,10.77.0.60,1h", "--no-ping", "--leasefile-ro",
                          "--user=root", "--pid-file", stderr=subprocess.DEVNULL)
        try:
            machine = t.machine(net="bridge,br=br0,helper=no",
                                extra=["-object", f"filter-dump,id=dump,netdev=net0,file={capture}"])
            with t.start_command([*host.prefix, *t.command(machine)]) as running:
                console = t.shell(running)
                t.run(console, "udhcpc -q -n -t 20 -i eth0 2>/dev/null")
                lease = t.run(console, "ip -4 addr show eth0")
                t.expect("10.77.0.5" in lease or "10.77.0.60" in lease, f"the lease is not dnsmasq's: {lease}")
                _ping(t, console, "10.77.0.1")
                _files_with_the_host(t, console, host)
                console.send("poweroff -f\n")
                t.ends(running)
        finally:
            dhcp.kill()
            dhcp.wait()

    def packets(display_filter):
        return subprocess.run(["tshark", "-r", str(capture), "-Y", display_filter], check=True, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.splitlines()
    with t.steps.step("tshark reads the capture"):
        t.expect(any("DHCP ACK" in line for line in packets("dhcp")), "tshark finds no DHCP ACK in the capture")
        t.expect(len(packets("icmp.type == 8")) >= 3, "tshark finds fewer pings than were sent")
        t.expect(len(packets("icmp.type == 0")) >= 3, "tshark finds fewer answers than came")
        t.expect(packets("_ws.malformed") == [], "tshark finds malformed packets")


def bridge_that_is_looked_after(t):
    """`ostler run --net bridge=NAME,nat` where there is no bridge, killed and started again; nothing of it stays."""
    def links(host):
        return host.run("ip", "-br", "link")
    with Namespace() as host:
        machine = t.machine(net="bridge=guests,nat,address=10.66.0.1/24")
        command = [*host.prefix, *t.command(machine, str(t.people()))]
        for life in range(2):
            with t.start_command(command) as running:
                console = t.shell(running)
                t.run(console, "udhcpc -q -n -t 20 -i eth0 2>/dev/null")
                t.expect("10.66.0." in t.run(console, "ip -4 addr show eth0"), "the guest has no lease of this bridge")
                _ping(t, console, "10.66.0.1")
                t.expect("masquerade" in host.run("nft", "list", "ruleset"), "there is no way to the world")
                if life == 0:
                    running.process.kill()
                    running.process.wait()
                    t.expect("guests" in links(host), "the bridge went away with a killed process")
                    continue
                console.send("poweroff -f\n")
                t.ends(running)
        t.expect("guests" not in links(host), "the bridge is still there")
        t.expect("masquerade" not in host.run("nft", "list", "ruleset"), "the rule is still there")
        t.expect(subprocess.run(["pgrep", "-f", "dnsmasq.*--interface=guests"], check=False).returncode, "dnsmasq still runs")


def _files_with_the_host(t, console, host, mebibytes=8):
    """TCP with a server in the host's namespace, both ways."""
    content = os.urandom(mebibytes * MIB)
    digest = hashlib.sha256(content).hexdigest()
    path, back = t.scratch.path / "content", t.scratch.path / "back"
    path.write_bytes(content)
    with open(path, "rb") as source, open(back, "wb") as target:
        server = host.start("busybox", "nc", "-l", "-p", "900", stdin=source, stdout=target)
        _hold_input(t, console)
        t.run(console, "until nc 10.77.0.1 900 0<>/tmp/hold >/tmp/got 2>/dev/null && [ -s /tmp/got ]; do sleep 0.2; done")
        server.wait(60)
        t.expect(t.run(console, "sha256sum </tmp/got").startswith(digest), "the guest received other bytes than the host sent")
    with open(back, "wb") as target:
        server = host.start("busybox", "nc", "-l", "-p", "901", stdin=subprocess.PIPE, stdout=target)
        t.run(console, "until nc 10.77.0.1 901 </tmp/got 2>/dev/null; do sleep 0.2; done")
        server.wait(60)
        server.stdin.close()
    t.expect(hashlib.sha256(back.read_bytes()).hexdigest() == digest, "the host received other bytes than the guest sent")


def user_network_with_its_options(t):
    """Names that DHCP gives, TFTP, a command behind an address, IPv6 with its router's prefix."""
    folder = t.scratch.path / "tftp"
    folder.mkdir()
    content = os.urandom(MIB)
    (folder / "file").write_bytes(content)
    net = (f"user,net=10.9.8.0/24,dhcpstart=10.9.8.40,dns=10.9.8.5,host=10.9.8.1,hostname=guest,domainname=example.org,tftp={folder},"
           f"guestfwd=tcp:10.9.8.100:80-cmd:/usr/bin/tr a-z A-Z,ipv6-prefix=fd12::,"
           f"guestfwd=tcp:10.9.8.101:81-unix:{folder}/socket,guestfwd=tcp:10.9.8.102:82-file:{folder}/log")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/socket")
    listener.listen(1)
    with listener, t.start(t.machine(net=net)) as running:
        console = t.shell(running)
        t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null")
        t.expect("10.9.8.40/24" in t.run(console, "ip -4 addr show eth0"), "the lease is not 10.9.8.40/24")
        names = t.run(console, "cat /etc/resolv.conf")
        t.expect("10.9.8.5" in names and "example.org" in names, f"the lease tells other names: {names}")
        t.run(console, "ping -c 1 -W 10 10.9.8.1")
        t.run(console, "tftp -g -b 1400 -r file -l /tmp/file 10.9.8.1")
        t.expect(t.run(console, "sha256sum </tmp/file").startswith(hashlib.sha256(content).hexdigest()), "TFTP gave other bytes")
        t.expect(t.run(console, "(echo hello; sleep 4) | nc 10.9.8.100 80 | head -1") == "HELLO", "the command did not answer")
        peer, _ = listener.accept()
        with peer, t.steps.step("a character device behind an address"):
            peer.settimeout(60)
            for line in ("first", "second"):
                t.run(console, f"(nc 10.9.8.101 81 -e sh -c 'echo {line} from the guest; read line; echo $line >/tmp/{line}' &)")
                t.expect(peer.recv(100).decode() == f"{line} from the guest\n", "the host got something else")
                peer.sendall(f"{line} to the guest\n".encode())
                t.run(console, f"until grep '^{line} to the guest$' /tmp/{line}; do sleep 0.1; done 2>/dev/null")
        t.run(console, "nc 10.9.8.102 82 -e cat /tmp/file")
        t.run(console, f"until tftp -g -b 1400 -r log -l /tmp/log 10.9.8.1 && cmp /tmp/file /tmp/log; do sleep 0.1; done 2>/dev/null")
        t.run(console, "until ip -6 addr show dev eth0 | grep -q fd12::; do sleep 0.1; done")
        t.run(console, "ping6 -c 1 -W 10 fd12::2")


def user_network_that_is_restricted(t):
    """With restrict=on the guest reaches its router and no server, but what is forwarded to it still arrives."""
    server = socket.create_server(("127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with server, t.start(t.machine(net=f"user,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:7")) as running:
        console = t.shell(running)
        t.run(console, "udhcpc -q -n -t 10 -i eth0 2>/dev/null")
        t.run(console, f"! nc -w 3 10.0.2.2 {server.getsockname()[1]} </dev/null")
        t.run(console, "(nc -ll -p 7 -e cat &) </dev/null >/dev/null 2>&1; until netstat -ltn | grep -q ':7 '; do sleep 0.1; done")
        with t.steps.step("a connection to the guest"), socket.create_connection(("127.0.0.1", port), timeout=60) as peer:
            peer.sendall(b"inwards")
            t.expect(peer.recv(100) == b"inwards", "the guest did not answer")
        server.settimeout(0)
        try:
            server.accept()
        except BlockingIOError:
            return
        t.expect(False, "the guest reached the host's server")
