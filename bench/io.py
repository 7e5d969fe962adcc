#!/usr/bin/env python3
"""Measures disks, networks and shared folders of one guest under Ostler and QEMU TCG; `./dev bench io` calls it.

    ./dev bench io [disk] [memdisk] [tap] [user] [idle] [virtiofs] [9p] [--runs N] [--seconds N] [--record]

The workload guest runs fio against a raw file on virtio-blk, in the host's page cache and past it, and iperf3 and
ping against the host, over a tap device and over user networking, in a network namespace made for it. memdisk is a loop
device over memory: of the requests past the page cache it shows what the VMMs cost, where a disk sets the bound. Both boot
in turn in each run and every figure is the median of the runs. Neither is pinned. In a folder of the host the busybox
guest unpacks the sources of this tree, lists them and removes them.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]
import run as bench  # noqa: E402
from guestlib import guests, vmm, workload  # noqa: E402
from guestlib.namespace import Namespace  # noqa: E402
from guestlib.steps import Failed  # noqa: E402

DISK_MIB = 1024
ANSWER_SECONDS = 300

# (title, fio options, goal as times QEMU); rates are operations for 4k, MiB for 1m
ACCESSES = [
    ("4 KiB random reads, depth 1", "--rw=randread --bs=4k --iodepth=1", 2),
    ("4 KiB random reads, depth 32", "--rw=randread --bs=4k --iodepth=32", 2),
    ("4 KiB random writes, depth 1", "--rw=randwrite --bs=4k --iodepth=1", 2),
    ("4 KiB random writes, depth 32", "--rw=randwrite --bs=4k --iodepth=32", 2),
    ("1 MiB sequential reads, depth 4", "--rw=read --bs=1m --iodepth=4", 1.5),
    ("1 MiB sequential writes, depth 4", "--rw=write --bs=1m --iodepth=4", 1.5),
]
IN_MEMORY = "O_DIRECT, disk in memory"
FIO_SUM = ('import json; j = json.load(open("/tmp/fio"))["jobs"][0]; '
           'print("@rate", j["read"]["iops"] + j["write"]["iops"], (j["read"]["bw_bytes"] + j["write"]["bw_bytes"]) / 2**20)')
IPERF_SUM = 'import json; print("@rate", json.load(open("/tmp/iperf"))["end"]["sum_received"]["bits_per_second"] / 1e6)'


class Guest:
    """The workload guest under `program`; its commands fail loudly."""

    def __init__(self, program, log, extra, namespace=None):
        self.runner = workload.boot(program, log, extra=extra, prefix=namespace.prefix if namespace else ())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.runner.__exit__(*exception)

    def run(self, command):
        status, output = self.runner.shell(command, ANSWER_SECONDS)
        if status:
            raise Failed(f"`{command}` ended with status {status}: {output}")
        return output

    def rates(self, command, summary):
        """The numbers of the line that the Python program `summary` prints."""
        self.run(command)
        output = self.run(f"python3 -c '{summary}'")
        return [float(word) for word in re.search(r"@rate (.*)", output)[1].split()]


def disk_image(scratch):
    """What is read comes from the page cache or the disk, the same for whoever is next."""
    image = scratch.path / "disk.raw"
    if not image.exists():
        with open(image, "wb") as file:
            for _ in range(DISK_MIB):
                file.write(os.urandom(1 << 20))
    # What the program before it wrote past the page cache is not in it any more, and what it wrote there not on the disk.
    os.sync()
    with open(image, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
    return image


def fio(options, filename, access, output):
    return (f"fio --name=io --filename={filename} --direct=1 --ioengine=libaio {access} --time_based "
            f"--runtime={options.seconds} --randrepeat=1 --output-format=json --output={output} >/dev/null")


def rates_of(options, guest, device, where):
    return dict(rate_of(title, access, goal, where,
                        guest.rates(fio(options, f"/dev/{device}", access, "/tmp/fio"), FIO_SUM))
                for title, access, goal in ACCESSES)


def rate_of(title, access, goal, where, rates):
    small = "4k" in access
    return (f"{title}, {where}", "IOPS" if small else "MiB/s", f"≥ {goal}"), rates[0 if small else 1]


def disk(options, program, scratch, log):
    image = disk_image(scratch)
    extra = []
    for cache in ("writeback", "none"):
        extra += ["-drive", f"file={image},format=raw,if=virtio,cache={cache},file.locking=off"]
    found = {}
    with Guest(program, log, extra) as guest:
        for device, where in (("vdb", "page cache"), ("vdc", "O_DIRECT")):
            os.sync()  # what the page cache still has to write would be in the way of requests past it
            found |= rates_of(options, guest, device, where)
    return found


class MemoryDisk:
    """A block device of the host in its memory."""

    def __enter__(self):
        self.file = Path(f"/dev/shm/ostler-bench-{os.getpid()}")
        with open(self.file, "wb") as file:
            for _ in range(DISK_MIB):
                file.write(os.urandom(1 << 20))
        try:
            self.device = subprocess.run(["losetup", "--find", "--show", "--direct-io=off", self.file], check=True, text=True,
                                         capture_output=True).stdout.strip()
        except subprocess.CalledProcessError as error:
            self.file.unlink()
            raise Failed(f"losetup: {error.stderr.strip()}")
        return self.device

    def __exit__(self, *exception):
        subprocess.run(["losetup", "--detach", self.device], check=False)
        self.file.unlink()


def memdisk(options, program, scratch, log):
    """Requests past the page cache of a disk that is faster than any VMM."""
    with MemoryDisk() as device, Guest(program, log, ["-drive", f"file={device},format=raw,if=virtio,cache=none"]) as guest:
        return rates_of(options, guest, "vdb", IN_MEMORY)


def memdisk_of_host(options, scratch):
    with MemoryDisk() as device:
        return host_rates(options, scratch, device, IN_MEMORY)


def disk_of_host(options, scratch):
    return host_rates(options, scratch, disk_image(scratch), "O_DIRECT")


def host_rates(options, scratch, image, where):
    """The same requests past the page cache by the host's own fio: how far the disk itself is the bound."""
    output = scratch.path / "fio.json"
    found = []
    for title, access, goal in ACCESSES:
        subprocess.run(fio(options, image, access, output), shell=True, check=True)
        summary = subprocess.run([sys.executable, "-c", FIO_SUM.replace("/tmp/fio", str(output))], check=True, text=True,
                                 capture_output=True).stdout
        found.append(rate_of(title, access, goal, where, [float(word) for word in summary.split()[1:]]))
    return dict(found)


def network(options, program, log, namespace, netdev, own, host, goals):
    extra = ["-netdev", f"{netdev},id=net0", "-device", "virtio-net-pci,netdev=net0"]
    kind = netdev.split(",")[0]
    stream_goal, ping_goal = goals
    found = {}
    with Guest(program, log, extra, namespace) as guest:
        guest.run(f"ip link set eth0 up && ip addr add {own}/24 dev eth0")
        guest.run(f"for i in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 1 {host} >/dev/null && break; done")
        for streams in (1, 4):
            for direction, flag in (("guest to host", ""), ("host to guest", "-R")):
                rate, = guest.rates(f"iperf3 -c {host} -t {options.seconds} -P {streams} {flag} -J >/tmp/iperf", IPERF_SUM)
                name = f"iperf3 over {kind}, {streams} stream{'s' if streams > 1 else ''}, {direction}"
                found[name, "Mbit/s", f"≥ {stream_goal:g}"] = rate
        text = guest.run(f"ping -q -c 300 -i 0.01 {host}")
        found[f"ping over {kind}, mean round trip", "µs", f"≤ {ping_goal:g}" if ping_goal else ""] = (
            1000 * float(re.search(r"= [\d.]+/([\d.]+)/", text)[1]))
    return found


def tap(options, program, scratch, log):
    with Namespace() as host:
        host.run("ip", "tuntap", "add", "tap0", "mode", "tap")
        host.run("ip", "addr", "add", "10.88.0.1/24", "dev", "tap0")
        host.run("ip", "link", "set", "tap0", "up")
        with host.start("iperf3", "-s", stdout=open(os.devnull, "w")) as server:
            try:
                return network(options, program, log, host, "tap,ifname=tap0,script=no,downscript=no", "10.88.0.2",
                               "10.88.0.1", (2, 0.5))
            finally:
                server.kill()


def user(options, program, scratch, log):
    with Namespace() as host:
        host.run("ip", "link", "set", "lo", "up")
        with host.start("iperf3", "-s", stdout=open(os.devnull, "w")) as server:
            try:
                return network(options, program, log, host, "user", "10.0.2.15", "10.0.2.2", (1.5, None))
            finally:
                server.kill()


def idle(options, program, scratch, log):
    """Processor time of a guest that waits at its runner, with a disk and a card."""
    def ticks(pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    extra = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0"]
    with Guest(program, log, extra) as guest:
        guest.run("ip link set eth0 up")
        time.sleep(10)
        pid = guest.runner.process.process.pid
        begin, start = ticks(pid), time.monotonic()
        time.sleep(20)
        share = 100 * (ticks(pid) - begin) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - start)
    return {("an idle guest", "% of a processor", "< 0.5 %"): share}


def storm(program, log, kernel, initrd, extra, folder, mount):
    """Files a second while a source tree is unpacked, listed and removed on a share, which is `folder` on the host."""
    folder.mkdir(exist_ok=True)
    shutil.rmtree(folder / "out", ignore_errors=True)  # virtiofsd holds the folder itself
    with tarfile.open(folder / "tree.tar", "w") as tar:
        for part in ("src", "tests"):
            tar.add(ROOT / part, part)
        files = len(tar.getmembers())
    machine = vmm.Machine(kernel=kernel, initrd=initrd, memory="512M", append="console=ttyS0", extra=extra)
    found = {}
    with vmm.Vmm(vmm.command(program, machine), log) as running:
        console = running.console
        console.wait_for(r"ostler-guest: ready", ANSWER_SECONDS, "the initrd to be ready")
        console.wait_for(r"/ # ", ANSWER_SECONDS, "the shell's prompt")
        console.quiet(ANSWER_SECONDS)
        mounted = f"mount -t {mount[1]} shared /mnt"
        console.run(f"modprobe -a {mount[0]} && {mounted} && cp /mnt/tree.tar /tmp", ANSWER_SECONDS)
        for verb, command, goal in (("unpacked", "mkdir /mnt/out && tar xf /tmp/tree.tar -C /mnt/out", "≥ 1.5"),
                                    ("listed", f"umount /mnt && {mounted} && ls -lR /mnt/out >/dev/null", ""),
                                    ("removed", "rm -r /mnt/out", "")):
            clock = "$(cut -d' ' -f1 /proc/uptime)"
            os.sync()  # the host's file system is not busy with what was done before
            begin, end = map(float, console.run(f"a={clock}; {command} && echo $a {clock}", ANSWER_SECONDS).split()[-2:])
            found[f"a source tree {verb}, {mount[2]}", "files/s", goal] = files / max(end - begin, 0.01)
    if (folder / "out").exists():
        raise Failed(f"the guest left {folder / 'out'}; its console is in {log}")
    return found


def virtiofs(options, program, scratch, log):
    daemon = next(place for place in ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd") if os.path.exists(place))
    folder, socket = scratch.path / "share", scratch.path / "share.socket"
    folder.mkdir(exist_ok=True)
    with open(scratch.path / "virtiofsd.log", "ab") as errors:
        served = subprocess.Popen([daemon, "-f", f"--socket-path={socket}", "-o", f"source={folder}"], stderr=errors)
    try:
        while not socket.exists():
            if served.poll() is not None:
                raise Failed("virtiofsd does not start")
            time.sleep(0.05)
        made = guests.prepare("kernel", "initrd")
        return storm(program, log, made["kernel"], made["initrd"],
                     ["-object", "memory-backend-memfd,id=mem,size=512M,share=on", "-machine", "memory-backend=mem",
                      "-chardev", f"socket,id=fs,path={socket}", "-device", "vhost-user-fs-pci,chardev=fs,tag=shared"],
                     folder, ("virtiofs", "virtiofs", "virtio-fs"))
    finally:
        served.kill()
        served.wait()
        socket.unlink(missing_ok=True)


def folder_by_9p(options, program, scratch, log):
    folder = scratch.path / "share"
    made = guests.prepare("generic")
    return storm(program, log, made["kernel_generic"], made["initrd_generic"],
                 ["-virtfs", f"local,path={folder},mount_tag=shared,security_model=none,multidevs=remap"],
                 folder, ("9pnet_virtio 9p", "9p -o trans=virtio,version=9p2000.L,msize=512000", "9p"))


HOST_MEASURES = {"disk": disk_of_host, "memdisk": memdisk_of_host}
MEASURES = {"disk": disk, "memdisk": memdisk, "tap": tap, "user": user, "idle": idle, "virtiofs": virtiofs, "9p": folder_by_9p}


def shown(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def line(name, unit, goal, ours, theirs, host):
    """Of the table. A goal says how many times QEMU's figure ours is; one in % bounds our own."""
    ratio = ours / theirs if theirs else float("nan")
    missed = False
    if match := re.match(r"([≥≤<]) ([\d.]+)( %)?", goal):
        value, bound = ours if match[3] else ratio, float(match[2])
        missed = not (value >= bound if match[1] == "≥" else value <= bound)
    alone = shown(host) if host else "–"
    return (f"| {name} | {unit} | {shown(ours)} | {shown(theirs)} | {ratio:.2f} | {goal}{' **missed**' if missed else ''} | "
            f"{alone} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     prog="./dev bench io")
    parser.add_argument("names", nargs="*", metavar="NAME", help="disk, memdisk, tap, user, idle, virtiofs, 9p (default: all)")
    parser.add_argument("--runs", type=int, default=3, help="boots of each program (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="of each fio and iperf3 run (default: %(default)s)")
    parser.add_argument("--record", action="store_true", help="append the table to bench/RESULTS.md")
    parser.add_argument("--program", default=vmm.default_program(), help="default: %(default)s")
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="default: %(default)s")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in MEASURES]:
        parser.error(f"there is no measurement '{unknown[0]}'; there are {', '.join(MEASURES)}")
    lines = ["| figure | unit | Ostler | QEMU TCG | Ostler / QEMU | goal | the host itself |",
             "| --- | --- | ---: | ---: | ---: | --- | ---: |"]
    print("\n".join(lines), flush=True)
    wrong = []
    with guests.Scratch() as scratch:
        for name in options.names or MEASURES:
            values = {}
            try:
                for _ in range(options.runs):
                    for program in (options.program, options.qemu):
                        found = MEASURES[name](options, program, scratch, scratch.path / f"{Path(program).name}.log")
                        for figure, value in found.items():
                            values.setdefault(figure, {}).setdefault(program, []).append(value)
                    if name in HOST_MEASURES:
                        for figure, value in HOST_MEASURES[name](options, scratch).items():
                            values[figure].setdefault("host", []).append(value)
            except Failed as failure:
                wrong.append(f"{name}: {failure}")
                print(wrong[-1], file=sys.stderr, flush=True)
                continue
            for figure, by_program in values.items():
                lines.append(line(*figure, *(statistics.median(by_program.get(p, [0]))
                                             for p in (options.program, options.qemu, "host"))))
                print(lines[-1], flush=True)
    if options.record:
        bench.record(f"`./dev bench io`, medians of {options.runs}, {options.seconds} s each\n\n" + "\n".join(lines)
                     + "".join(f"\n\nFailed: {one.splitlines()[0]}" for one in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
