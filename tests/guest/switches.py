"""Networks that another process carries by vhost-user: ports of Open vSwitch with DPDK, and of DPDK's testpmd, without huge
pages."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

from guestlib import guests
from guestlib.namespace import Namespace
from networks import _address, _copy, _hold_input, _ping

SWITCH = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class Switch:
    """Open vSwitch in a network namespace of its own, with its database and sockets in the scratch folder. Port `a`
    listens, port `b` connects to whoever listens."""

    def __init__(self, t, pairs=1):
        self.t, self.pairs = t, pairs
        t.expect(os.path.exists(SWITCH), "there is no switch: install openvswitch-switch-dpdk")
        self.folder = t.scratch.path / "ovs"
        self.folder.mkdir()
        self.a, self.b = self.folder / "a", self.folder / "b.socket"
        folder = str(self.folder)
        self.environment = {**os.environ, "OVS_RUNDIR": folder, "OVS_LOGDIR": folder, "OVS_DBDIR": folder,
                            "OVS_SYSCONFDIR": folder, "XDG_RUNTIME_DIR": folder}
        self.database = f"unix:{folder}/db"
        self.switch = None

    def __enter__(self):
        self.namespace = Namespace().__enter__()
        run = {"check": True, "env": self.environment}
        subprocess.run(["ovsdb-tool", "create", self.folder / "conf", SCHEMA], **run)
        self.server = subprocess.Popen(["ovsdb-server", self.folder / "conf", f"--remote=p{self.database}",
                                        f"--unixctl={self.folder}/db.ctl"], env=self.environment,
                                       stderr=open(self.folder / "db.log", "wb"))
        self._await(lambda: (self.folder / "db").exists(), self.server, "the switch's database")
        for words in (["init"],
                      ["set", "Open_vSwitch", ".", "other_config:dpdk-init=true", "other_config:pmd-maxsleep=200", "other_config:per-port-memory=true",
                       "other_config:dpdk-extra=--no-huge --no-pci --legacy-mem -m 256"],
                      ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"],
                      ["add-port", "br0", "a", "--", "set", "Interface", "a", "type=dpdkvhostuser"],
                      ["add-port", "br0", "b", "--", "set", "Interface", "b", "type=dpdkvhostuserclient",
                       f"options:vhost-server-path={self.b}"]):
            subprocess.run(["ovs-vsctl", f"--db={self.database}", "--no-wait", *words], **run)
        self.start()
        return self

    def __exit__(self, *exception):
        self.kill()
        self.server.kill()
        self.server.wait()
        self.namespace.__exit__(*exception)

    def start(self):
        """The switch itself, ready for guests."""
        self.a.unlink(missing_ok=True)
        log = open(self.folder / "switch.log", "ab")
        self.switch = subprocess.Popen([*self.namespace.prefix, SWITCH, self.database,
                                        f"--unixctl={self.folder}/switch.ctl"], env=self.environment, stderr=log)
        self._await(self.a.exists, self.switch, "the switch")

    def kill(self):
        if self.switch:
            self.switch.kill()
            self.switch.wait()

    def _await(self, condition, process, what):
        end = time.monotonic() + 60
        while not condition():
            self.t.expect(process.poll() is None and time.monotonic() < end, f"{what} does not start")
            time.sleep(0.05)


class Forwarder:
    """testpmd, which sends what comes in at one of its two ports out of the other. It listens at both."""

    def __init__(self, t):
        self.t = t
        self.program = Path(guests.prepare("testpmd")["testpmd"])
        self.ports = [t.scratch.path / f"port{i}" for i in (0, 1)]
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.kill()

    def start(self):
        libraries = self.program.parent.parent / "lib/x86_64-linux-gnu"
        command = [self.program, "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", "256",
                   # Two threads that go wherever the host has a processor.
                   "--lcores", f"0@({_processors()}),1@({_processors()})"]
        for name in ("librte_net_vhost.so", "librte_mempool_ring.so"):
            command += ["-d", next(libraries.glob(name + ".*"))]
        for i, port in enumerate(self.ports):
            port.unlink(missing_ok=True)
            command += ["--vdev", f"net_vhost{i},iface={port}"]
        command += ["--", "--auto-start", "--forward-mode=io", "--no-mlockall", "--total-num-mbufs=16384"]
        log = open(self.t.scratch.path / "testpmd.log", "ab")
        # It leaves at the end of its input.
        self.process = subprocess.Popen(command, env={**os.environ, "LD_LIBRARY_PATH": str(libraries)}, stdin=subprocess.PIPE,
                                        stdout=log, stderr=log)
        end = time.monotonic() + 60
        while not all(port.exists() for port in self.ports):
            self.t.expect(self.process.poll() is None and time.monotonic() < end, "testpmd does not start")
            time.sleep(0.05)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()


def _processors():
    return ",".join(str(number) for number in sorted(os.sched_getaffinity(0)))


def _carrier(t, console, up):
    t.run(console, f"until [ $(cat /sys/class/net/eth0/carrier) = {int(up)} ]; do sleep 0.1; done")


@contextlib.contextmanager
def _joined(t, first_port, second_socket):
    """Shells of two guests with addresses, whose networks another process carries. The first looks for it at a path, the
    second has `second_socket`, which is a -chardev."""
    first = t.machine(memory="256M", net=f"vhost-user={first_port},reconnect=1")
    second = t.machine(memory="256M", net="vhost-user,chardev=c", mac="52:54:00:99:00:02", extra=[
        "-object", "memory-backend-memfd,id=mem,size=256M", "-machine", "memory-backend=mem",
        "-chardev", f"socket,id=c,{second_socket}"])
    with t.start_command(t.command(first, t.people())) as running, t.start(second) as other:
        one, two = t.shell(running), t.shell(other)
        _address(t, one, 1)
        _address(t, two, 2)
        _ping(t, one, "10.99.0.2")
        yield one, two


def _restart(t, carrier, what, guests):
    """Each of the guests sees its cable pulled, and put in again."""
    with t.steps.step(f"{what} is killed"):
        carrier.kill()
    for console in guests:
        _carrier(t, console, False)
    with t.steps.step(f"{what} starts again"):
        carrier.start()
    for console in guests:
        _carrier(t, console, True)


def guests_joined_by_a_switch(t):
    """One guest's port listens and one's connects; the switch is killed while files are on their way, and starts again."""
    with Switch(t) as switch, _joined(t, switch.a, f"path={switch.b},server=on") as (one, two):
        _copy(t, one, two, "10.99.0.2", 8)
        _copy(t, two, one, "10.99.0.1", 8)
        _hold_input(t, two)
        t.run(two, "rm -f /tmp/sum; ((nc -l -p 9 0<>/tmp/hold | sha256sum >/tmp/sum) >/dev/null 2>&1 &)")
        t.run(two, "until netstat -ltn | grep -q ':9 '; do sleep 0.1; done")
        t.run(one, "dd if=/dev/urandom of=/tmp/sent bs=1M count=32 2>/dev/null")
        # Not a child of the shell: busybox's leaves when one ends while it waits for a line.
        t.run(one, "(nc 10.99.0.2 9 </tmp/sent >/dev/null 2>&1 &)")
        _restart(t, switch, "the switch", (one, two))
        digest = t.run(two, "until [ -s /tmp/sum ]; do sleep 0.1; done; cat /tmp/sum").split()[0]
        t.expect(digest == t.run(one, "sha256sum </tmp/sent").split()[0],
                 "the connection went on with other bytes than were sent")
        _ping(t, two, "10.99.0.1")


def guests_joined_by_testpmd(t):
    """It is killed and starts again between two copies."""
    with Forwarder(t) as forwarder, _joined(t, forwarder.ports[0], f"path={forwarder.ports[1]},reconnect=1") as (one, two):
        _copy(t, one, two, "10.99.0.2", 8)
        _restart(t, forwarder, "testpmd", (one, two))
        _ping(t, two, "10.99.0.1")
        _copy(t, two, one, "10.99.0.1", 8)
