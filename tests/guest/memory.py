"""Guest memory from objects, files and nodes, as the guest and the host see it."""

import re
import time
from pathlib import Path

from guestlib import guests

MERGE_SECONDS = 300


def numa_nodes_and_dies(t):
    """Two nodes of two back ends; sysfs is what lscpu and `numactl -H` read."""
    machine = t.machine(memory="768M", cpus=1, extra=[
        "-smp", "8,sockets=2,dies=2,cores=2,threads=1",
        "-object", "memory-backend-ram,id=near,size=512M",
        "-object", "memory-backend-memfd,id=far,size=256M,prealloc=on",
        "-numa", "node,cpus=0-3,memdev=near", "-numa", "node,cpus=4-7,memdev=far",
        "-numa", "dist,src=0,dst=1,val=22"])
    with t.start(machine) as running:
        console = t.shell(running)
        node = "/sys/devices/system/node"
        t.expect(t.run(console, f"cat {node}/online") == "0-1", "two nodes were asked for")
        for index, cpus in enumerate(("0-3", "4-7")):
            t.expect(t.run(console, f"cat {node}/node{index}/cpulist") == cpus, f"node {index} has processors {cpus}")
        sizes = [int(t.run(console, f"awk '/MemTotal/ {{ print $4 }}' {node}/node{index}/meminfo")) >> 10
                 for index in range(2)]
        t.expect(400 < sizes[0] <= 512 and 200 < sizes[1] <= 256, f"the nodes have {sizes} MiB of 512 and 256")
        t.expect(t.run(console, f"cat {node}/node1/distance") == "22 10", "node 0 is at distance 22 from node 1")
        topology = "/sys/devices/system/cpu/cpu{}/topology/{}"
        # AMD's processors number the dies of all sockets through (APM 3, Fn8000_001E_ECX).
        through = t.run(console, "grep -c AuthenticAMD /proc/cpuinfo || true") != "0"
        for cpu, place in ((0, "0 0 0"), (2, "0 1 0"), (7, "1 1 1")):
            files = " ".join(topology.format(cpu, name) for name in ("physical_package_id", "die_id", "core_id"))
            seen = t.run(console, f"echo $(cat {files})")
            package, die, _ = map(int, place.split())
            die += 2 * package if through else 0
            t.expect(seen.split()[:2] == [str(package), str(die)], f"processor {cpu} is at {seen}, not at {place}")


def numa_as_debian_shows_it(t):
    """What lscpu and `numactl -H` say of sockets, threads and nodes."""
    image = guests.prepare("kernel", "initrd", "debian")["debian"]
    machine = t.machine("root=LABEL=ostler ro init=/bin/bash", memory="768M", cpus=1, extra=[
        "-smp", "8,sockets=2,dies=1,cores=2,threads=2", "-drive", f"file={image},format=raw,if=virtio,snapshot=on",
        "-object", "memory-backend-memfd,id=near,size=512M", "-object", "memory-backend-memfd,id=far,size=256M",
        "-numa", "node,cpus=0-3,memdev=near", "-numa", "node,cpus=4-7,memdev=far", "-numa", "dist,src=0,dst=1,val=31"])
    with t.start(machine) as running:
        console = running.console
        with t.steps.step("boot to Debian's shell"):
            console.wait_for(r"# ", 600, "the shell's prompt")
            console.quiet(120)
        shown = re.sub(" +", " ", t.run(console, "lscpu"))
        for line in ("CPU(s): 8", "Thread(s) per core: 2", "Core(s) per socket: 2", "Socket(s): 2", "NUMA node(s): 2",
                     "NUMA node0 CPU(s): 0-3", "NUMA node1 CPU(s): 4-7"):
            t.expect(re.search(f"^ ?{re.escape(line)}\r?$", shown, re.MULTILINE), f"lscpu does not say `{line}`:\n{shown}")
        shown = re.sub(" +", " ", t.run(console, "numactl -H"))
        for line in ("available: 2 nodes (0-1)", "node 0 cpus: 0 1 2 3", "node 1 cpus: 4 5 6 7", "0: 10 31", "1: 31 10"):
            t.expect(re.search(f"^ ?{re.escape(line)} ?\r?$", shown, re.MULTILINE), f"numactl does not say `{line}`:\n{shown}")
        sizes = [int(size) for size in re.findall(r"node \d size: (\d+) MB", shown)]
        t.expect(400 < sizes[0] <= 512 and 200 < sizes[1] <= 256, f"the nodes have {sizes} MiB of 512 and 256")


def memory_in_a_file(t):
    """What the guest writes is in the file that others map."""
    path = t.scratch.path / "guest-memory"
    machine = t.machine(memory="256M", extra=[
        "-object", f"memory-backend-file,id=ram,size=256M,mem-path={path},share=on",
        "-machine", "memory-backend=ram"])
    with t.start(machine) as running:
        console = t.shell(running)
        t.run(console, "mkdir -p /m; mount -t tmpfs none /m; (echo ostler-$((6 * 7))-mark; head -c 8000 /dev/zero) >/m/mark")
        t.expect(b"ostler-42-mark\n" in path.read_bytes(), "the guest's memory is in the file")


def equal_pages_are_merged(t):
    """KSM merges copies of a file. Not in suite.txt: it turns on KSM for the whole host, which root may do."""
    ksm = Path("/sys/kernel/mm/ksm")
    settings = {"pages_to_scan": "20000", "sleep_millisecs": "20", "run": "1"}
    before = {name: (ksm / name).read_text() for name in settings}
    try:
        for name, value in settings.items():
            (ksm / name).write_text(value)
        with t.start(t.machine(memory="256M")) as running:
            console = t.shell(running)
            t.run(console, "mkdir -p /m; mount -t tmpfs none /m; head -c 4m /dev/urandom >/m/0 && test $(wc -c </m/0) = 4194304")
            t.run(console, "for i in 1 2 3 4 5 6 7 8; do cp /m/0 /m/$i; done")
            count = Path(f"/proc/{running.process.pid}/ksm_merging_pages")
            with t.steps.step("8192 pages are merged"):
                end = time.monotonic() + MERGE_SECONDS
                while int(count.read_text()) < 8 * 1024:
                    t.expect(time.monotonic() < end, f"only {count.read_text().strip()} pages were merged")
                    time.sleep(1)
            t.run(console, "for i in 1 2 3 4 5 6 7 8; do cmp /m/0 /m/$i; done")
            t.run(console, "for i in 1 2 3 4; do echo $i >>/m/$i; done; cmp /m/5 /m/0")
    finally:
        for name, value in before.items():
            (ksm / name).write_text(value)
