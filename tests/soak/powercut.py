"""`./dev soak powercut`: the process is killed while a guest writes, again and again on one qcow2 image.

The guest writes batches of blocks at random places of a disk, each sector full of its batch's number, calls
fsync after each batch and tells its number on the console. After a kill, `qemu-img check` may find leaks and
nothing else. A batch begins when the one before it is synced, though the console may not have told it yet: each
sector must hold what the batches before the last one told, or before the latest one in the image, left there, or
what the one after them wrote.

With --job, the machine copies the disk meanwhile. The disk is then the image, or an overlay on it, whatever the job
has come to; what a copy that was cut holds does not count, but that it is no damaged image.
"""

import json
import random
import struct
import subprocess
import time

from control import Control
from guestlib.steps import Failed

DISK_BYTES = 256 << 20
BLOCK, SECTOR = 4096, 512
BATCHES = 100_000       # more than a guest comes to
READY_SECONDS = 300
LOCK_SECONDS = 30       # the kernel ends requests of a killed process's io_uring, and frees its files, in its own time

JOBS = ("backup", "mirror", "commit", "stream")
ON_OVERLAY = ("commit", "stream")
JOB_SPEED = 64 << 20    # bytes per second: so that kills come in the middle

# Runs in the guest and, for its plan, here.
PLAN = """
def batch_of(seed, number):
    import random
    dice = random.Random(seed * 1000003 + number)
    blocks = []
    for _ in range(dice.randrange(1, 12)):
        first = dice.randrange({blocks})
        blocks += range(first, min(first + dice.randrange(1, 24), {blocks}))
    return blocks
""".format(blocks=DISK_BYTES // BLOCK)
WRITER = PLAN + """
import os, struct, sys
disk = os.open("/dev/vdb", os.O_RDWR)
for number in range({first}, {first} + {count}):
    for block in batch_of({seed}, number):
        os.pwrite(disk, struct.pack("<Q", number) * 512, block * 4096)
    os.fsync(disk)
    print("synced", number, flush=True)
"""
exec(PLAN)  # pylint: disable=exec-used


class Image:
    """The image and what its sectors may hold."""

    def __init__(self, folder, seed):
        self.path, self.raw, self.seed = folder / "disk.qcow2", folder / "content.raw", seed
        self.overlay, self.copy = folder / "overlay.qcow2", folder / "copy.qcow2"
        self.synced = 0
        self.expected = [0] * (DISK_BYTES // BLOCK)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.path, str(DISK_BYTES)], check=True)

    def reported(self, number):
        """Everything up to this batch is in the image."""
        while self.synced < number:
            self.synced += 1
            for block in batch_of(self.seed, self.synced):  # noqa: F821
                self.expected[block] = self.synced

    def latest(self):
        """The highest number of a batch in the content."""
        content = self.raw.read_bytes()
        heads = b"".join(content[at:at + 8] for at in range(0, len(content), SECTOR))
        numbers = struct.unpack(f"<{len(heads) // 8}Q", heads)
        return max(each for each in numbers if each <= self.synced + BATCHES)

    def check(self):
        """Failed when an image is damaged or has lost something; the number of leaked clusters."""
        disk = self.overlay if self.overlay.exists() else self.path
        leaks = sum(_leaks(each) for each in (self.path, self.overlay, self.copy) if each.exists())
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, self.raw], check=True)
        self.reported(self.latest() - 1)
        unfinished = self.synced + 1
        maybe = set(batch_of(self.seed, unfinished))  # noqa: F821
        with open(self.raw, "rb") as raw:
            for block, number in enumerate(self.expected):
                content = raw.read(BLOCK)
                if content == struct.pack("<Q", number) * (BLOCK // 8):
                    continue
                allowed = {number, unfinished} if block in maybe else {number}
                for at in range(0, BLOCK, SECTOR):
                    seen = content[at:at + SECTOR]
                    if not any(seen == struct.pack("<Q", each) * (SECTOR // 8) for each in allowed):
                        raise Failed(f"sector {(block * BLOCK + at) // SECTOR} holds {seen[:16].hex()}…, not batch "
                                     f"{' or '.join(map(str, allowed))}; batch {self.synced} was told to be synced")
        return leaks

    def fold(self):
        """One image again; what it holds stays the same."""
        self.copy.unlink(missing_ok=True)
        if not self.overlay.exists():
            return
        about = subprocess.run(["qemu-img", "info", "--output=json", self.overlay], check=True, capture_output=True)
        if "backing-filename" in json.loads(about.stdout):
            subprocess.run(["qemu-img", "commit", "-q", "-f", "qcow2", self.overlay], check=True)
            self.overlay.unlink()
        else:
            self.overlay.replace(self.path)

    def begin(self, job, machine):
        """Has the running machine copy the disk."""
        if job in ON_OVERLAY:
            machine.do("snapshot", disk="d", file=str(self.overlay))
            machine.do(job, disk="d", job="job", speed=JOB_SPEED)
        else:
            machine.do(job, disk="d", job="job", file=str(self.copy), speed=JOB_SPEED)


def _leaks(image):
    """Failed when the image is damaged; the number of its leaked clusters."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        done = subprocess.run(["qemu-img", "check", "-f", "qcow2", "--output=json", image],
                              capture_output=True, text=True, check=False)
        if '"write" lock' not in done.stderr or time.monotonic() > end:
            break
        time.sleep(0.05)
    if done.returncode not in (0, 3):
        raise Failed(f"qemu-img check of {image} ends with status {done.returncode}:\n{done.stdout}{done.stderr}")
    report = json.loads(done.stdout)
    if report.get("corruptions") or report.get("check-errors"):
        raise Failed(f"{image} is damaged:\n{done.stdout}")
    return report.get("leaks", 0)


def powercut(context):
    """kill -9 at random moments; nothing that was synced may be lost."""
    seed = context.options.seed or random.randrange(1 << 30)
    dice = random.Random(seed)
    print(f"seed {seed}", flush=True)
    image = Image(context.scratch.path, seed)
    script = context.scratch.path / "writer.py"
    for kill in range(1, context.options.kills + 1):
        text = WRITER.format(first=image.synced + 1, count=BATCHES, seed=image.seed).encode()
        script.write_bytes(text + b"\n" * (-len(text) % SECTOR))
        cache = dice.choice(["writeback", "none"])
        job = dice.choice(JOBS) if context.options.job == "any" else context.options.job
        control = context.scratch.path / f"control-{kill}" if job != "none" else None
        extra = ["-drive", f"file={image.path},format=qcow2,if=virtio,id=d,cache={cache}",
                 "-drive", f"file={script},format=raw,if=virtio,readonly=on"]
        with context.boot(extra=extra, control=control) as runner:
            with context.steps.step(f"kill {kill} of {context.options.kills}, cache={cache}, job {job}") as note:
                runner.console.send("shell python3 - </dev/vdc\n")
                runner.console.wait_for(r"^synced \d+\n", READY_SECONDS, "the first batch")
                if control:
                    image.begin(job, Control(control))
                time.sleep(dice.uniform(0, 3))
                runner.process.process.kill()
                runner.process.process.wait()
                told = [int(line.split()[1]) for line in runner.console.text().split("\n")[:-1]
                        if line.startswith("synced ")]
                image.reported(told[-1])
                leaks = image.check()
                image.fold()
                note += [f"{len(told)} batches", f"{leaks} leaks"]
