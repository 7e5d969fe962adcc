"""vhost-net, which few machines that run tests have: a guest that has it runs this same program, whose own guest's
frames the first guest's kernel then carries. What the first guest sees of the host is its whole file system, by 9P."""

import os
import shlex

from guestlib import guests, vmm

PLACE = "/run"  # a file system in memory in the first guest, at the same place for the program and for the shell


def _outer(t):
    made = guests.prepare("generic")
    return vmm.Machine(kernel=made["kernel_generic"], initrd=made["initrd_generic"], memory="1G", cpus=2,
                       append="console=ttyS0",
                       extra=["-virtfs", "local,path=/,security_model=none,readonly=on,mount_tag=host"])


def _prepare(t, console):
    t.run(console, "modprobe -a 9pnet_virtio 9p tun vhost_net")
    t.run(console, "mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose host /mnt")
    t.run(console, f"mount -t tmpfs none {PLACE}; for i in /dev /proc /sys {PLACE}; do mount -o bind $i /mnt$i; done")
    # What the program runs when the interface is there.
    t.run(console, f"printf '#!/bin/sh\\nip addr add 10.88.0.1/24 dev $1; ip link set $1 up\\n' >{PLACE}/up; chmod 755 {PLACE}/up")
    # A server of files in each direction.
    t.run(console, f"dd if=/dev/urandom of={PLACE}/file bs=1M count=8 2>/dev/null; mkfifo {PLACE}/hold")
    t.run(console, f"(while :; do nc -l -p 900 <{PLACE}/file >/dev/null; done) >/dev/null 2>&1 &")
    t.run(console, f"(while :; do nc -l -p 901 0<>{PLACE}/hold >{PLACE}/new; mv {PLACE}/new {PLACE}/got; done) >/dev/null 2>&1 &")
    return t.run(console, f"sha256sum <{PLACE}/file").split()[0]


def _inner(t, console, tap, card, cpus):
    """Starts the guest in the guest on the console; at its shell's prompt."""
    machine = t.machine(memory="256M", cpus=cpus)
    machine.extra = ["-netdev", f"tap,id=n,script={PLACE}/up,downscript=no,{tap}", "-device", f"virtio-net-pci,netdev=n,{card}"]
    words = " ".join(shlex.quote(word) for word in vmm.command(os.path.abspath(t.program), machine))
    console.send(f"chroot /mnt {words}; echo it has en''ded\n")
    with t.steps.step("boot the guest in the guest"):
        seen = console.wait_for(r"ostler-guest: ready|it has ended", 600, "the initrd to be ready")
        t.expect(seen[0] == "ostler-guest: ready", f"the program ended:\n{console.tail()}")
        console.wait_for(r"/ # ", 120, "the shell's prompt")
        console.quiet(120)


def _use(t, console, digest):
    """The network in the inner guest: files both ways, also after its driver came again."""
    for life in range(2):
        if life == 1:
            t.run(console, "cd /sys/bus/virtio/drivers/virtio_net; d=$(ls -d virtio*); echo $d >unbind; echo $d >bind; cd /")
        t.run(console, "ip link set eth0 up; ip addr add 10.88.0.2/24 dev eth0; ping -c 3 -W 20 10.88.0.1")
        t.run(console, "[ -p /tmp/hold ] || mkfifo /tmp/hold")
        t.run(console, "until nc 10.88.0.1 900 0<>/tmp/hold >/tmp/got 2>/dev/null && [ -s /tmp/got ]; do sleep 0.2; done")
        t.expect(t.run(console, "sha256sum </tmp/got").startswith(digest), "the guest received other bytes than were sent")
    t.run(console, "until nc 10.88.0.1 901 </tmp/got 2>/dev/null; do sleep 0.2; done")


def _leave(t, console, digest):
    console.send("poweroff -f\n")
    with t.steps.step("the guest in the guest ends"):
        console.wait_for("it has ended", 120, "the program's end")
    t.run(console, f"until [ -e {PLACE}/got ]; do sleep 0.2; done")
    t.expect(t.run(console, f"sha256sum <{PLACE}/got").startswith(digest), "other bytes arrived than the guest sent")


def frames_carried_by_the_kernel(t):
    with t.start(_outer(t)) as running:
        console = t.shell(running)
        digest = _prepare(t, console)
        # The thread that the kernel has for it shows who carries the frames.
        t.run(console, f"(while :; do if ps | grep -q '[[]vhost-'; then touch {PLACE}/thread; fi; sleep 0.5; done) >/dev/null 2>&1 &")
        for tap, card, cpus in (("vhost=on", "mq=off", 1), ("vhost=on,queues=2,poll-us=50", "mq=on", 2),
                                ("vhostforce=on,vnet_hdr=off", "mrg_rxbuf=off", 1), ("vhost=on", "disable-modern=on", 1)):
            _inner(t, console, tap, card, cpus)
            _use(t, console, digest)
            _leave(t, console, digest)
            t.run(console, f"rm {PLACE}/thread {PLACE}/got")
