#!/usr/bin/env python3
"""Five minutes of mixed load on the Debian guest: processors, disk with checksums, network to the host, timers.

Exit status 0 only when every worker kept making progress, every checksum agreed, the guest's clock kept
step with the host's, the kernel reported nothing and the guest powered off by itself.
`./dev bench mixed` calls it; bench/guest/load.sh is what runs in the guest.
"""

import argparse
import base64
import os
import socket
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from guestlib import guests, vmm  # noqa: E402
from guestlib.steps import Failed, Steps  # noqa: E402

BOOT_SECONDS = 1200
COMMAND_SECONDS = 300
STUCK_SECONDS = 180     # a worker that finishes no round for so long has lost something
DRIFT_SECONDS = 2.0     # guest clock against host clock, over the whole run
WORKERS = ("processor-1", "processor-2", "disk-1", "network-1", "timers-1")
FAULTS = (r"bug:|call trace|lockup|stall|hung task|blocked for more than|nobody cared|netdev watchdog|"
          r"i/o error|ext4-fs error|marking clocksource|unstable")


class Echo(threading.Thread):
    """Sends 1 MiB of random bytes to each client, takes them back, answers `same` or what differed."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self):
        while True:
            client, _ = self.socket.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    @staticmethod
    def _serve(client):
        content = os.urandom(1 << 20)
        with client:
            client.settimeout(STUCK_SECONDS)
            try:
                client.sendall(content)
                back = bytearray()
                while len(back) < len(content) and (data := client.recv(65536)):
                    back += data
                answer = "same" if back == content else f"{len(back)} bytes came back, and others than were sent"
                client.sendall((answer + "\n").encode())
            except OSError as error:
                print(f"network server: {error}", flush=True)


class Watch:
    """Progress of the workers, asked for every few seconds."""

    def __init__(self, console):
        self.console = console
        self.rounds = {name: 0 for name in WORKERS}
        self.since = {name: time.monotonic() for name in WORKERS}

    def look(self):
        output = self.console.run(f"cd /root/load; for w in {' '.join(WORKERS)}; do echo $w $(cat $w 2>/dev/null); done; "
                                  "cat errors 2>/dev/null; true", COMMAND_SECONDS)
        lines = output.splitlines()
        for line in lines[:len(WORKERS)]:
            name, _, count = line.partition(" ")
            if int(count or 0) > self.rounds[name]:
                self.rounds[name], self.since[name] = int(count), time.monotonic()
            elif time.monotonic() - self.since[name] > STUCK_SECONDS:
                raise Failed(f"{name} has been in round {self.rounds[name]} for {STUCK_SECONDS}s")
        if lines[len(WORKERS):]:
            raise Failed("the guest found something wrong:\n" + "\n".join(lines[len(WORKERS):]))


def clock_offset(console):
    """Guest clock minus host clock in seconds, from the quickest of five questions."""
    best = None
    for _ in range(5):
        before = time.time()
        guest = float(console.run("date +%s.%N", COMMAND_SECONDS))
        after = time.time()
        if best is None or after - before < best[0]:
            best = after - before, guest - (before + after) / 2
    return best[1]


def load(console, steps, options, echo):
    with steps.step("start the load"):
        script = base64.encodebytes((ROOT / "bench/guest/load.sh").read_bytes()).decode()
        console.run("base64 -d >/root/load.sh <<'END'\n" + script + "END", COMMAND_SECONDS)
        offset = clock_offset(console)
        known = int(console.run("dmesg | wc -l", COMMAND_SECONDS))  # what the boot said is not about the load
        console.run(f"(setsid bash /root/load.sh /root/load 10.0.2.2 {echo.port} >/root/load.log 2>&1 </dev/null &)",
                    COMMAND_SECONDS)
    watch = Watch(console)
    with steps.step(f"{options.minutes:g} minutes of load") as note:
        end = time.monotonic() + options.minutes * 60
        while time.monotonic() < end:
            time.sleep(5)
            watch.look()
        note.append(", ".join(f"{name} {count} rounds" for name, count in watch.rounds.items()))
        if idle := [name for name, count in watch.rounds.items() if not count]:
            raise Failed(f"no round was finished by {', '.join(idle)}")
    with steps.step("the load ends"):
        console.run("touch /root/load/stop; while pgrep -f load.sh >/dev/null; do sleep 1; done", STUCK_SECONDS)
        watch.look()
    with steps.step("clock") as note:
        drift = clock_offset(console) - offset
        note.append(f"drifted by {drift * 1000:.0f} ms")
        if abs(drift) > DRIFT_SECONDS:
            raise Failed(f"the guest's clock drifted by {drift:.2f}s from the host's")
    with steps.step("kernel messages"):
        _, found = console.run(f"dmesg | tail -n +{known + 1} | grep -iE '{FAULTS}' | head -40", COMMAND_SECONDS, check=False)
        if found:
            raise Failed(f"the kernel reported:\n{found}")
    with steps.step("interrupts of every processor"):
        _, idle = console.run("awk '/LOC:/ { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) if ($i < 100) print i - 2 }' "
                              "/proc/interrupts", COMMAND_SECONDS, check=False)
        if idle:
            raise Failed(f"these processors took no timer interrupts: {idle}")


def check(options, scratch, log):
    steps, echo = Steps(), Echo()
    made = guests.prepare("kernel", "initrd", "debian")
    machine = vmm.Machine(kernel=made["kernel"], initrd=made["initrd"], append="root=LABEL=ostler rw console=ttyS0",
                          memory="1G", cpus=options.cpus, disks=[scratch.copy_of(made["debian"])], net="user", rng=True,
                          accel=options.accel)
    with vmm.Vmm(vmm.command(options.program, machine), log) as running:
        console = running.console
        with steps.step("boot"):
            console.wait_for(r"ostler login: ", BOOT_SECONDS, "the login prompt")
        with steps.step("log in"):
            console.log_in(COMMAND_SECONDS)
        with steps.step("network"):
            console.run("until ip -4 route show default | grep -q via; do sleep 1; done", COMMAND_SECONDS)
        load(console, steps, options, echo)
        with steps.step("power off"):
            console.send("poweroff\n")
            if (status := running.wait(COMMAND_SECONDS)) != 0:
                raise Failed(f"the VMM's status is {status} (None: it still runs):\n{console.tail()}")
    print(f"nothing went wrong in {steps.total():.0f}s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=vmm.default_program(), help="default: %(default)s")
    parser.add_argument("--cpus", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--accel")
    options = parser.parse_args()
    with guests.Scratch() as scratch:
        log = scratch.path / "console.log"
        try:
            check(options, scratch, log)
        except Failed as failure:
            kept = Path(f"/tmp/ostler-mixed-load-{os.getpid()}.log")
            if log.exists():
                kept.write_bytes(log.read_bytes())
            print(f"\nFAILED: {failure}\nThe whole console is in {kept}.", flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
