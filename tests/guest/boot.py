"""Boots of the busybox initrd: processors, memory sizes, machines, and how a machine ends."""

import subprocess
from pathlib import Path

from guestlib import guests, vmm


def busybox_shell(t):
    with t.start(t.machine()) as running:
        console = t.shell(running)
        t.expect(t.run(console, "nproc") == "1", "one processor was asked for")
        t.expect("x86_64" in t.run(console, "uname -a"), "the guest is a 64-bit one")
        t.expect(t.run(console, "echo $((6 * 7))") == "42", "the shell computes")
        t.expect(t.run(console, "dmesg | grep -ciE 'bug:|call trace' || true") == "0", "the kernel reports faults")


def busybox_interpreted(t):
    """The accelerator that the translator is compared with, all by itself."""
    with t.start(t.machine(accel="interp")) as running:
        console = t.shell(running)
        t.expect(t.run(console, "echo $((6 * 7))") == "42", "the shell computes")


def busybox_checked(t):
    """Every 97th block also runs on the interpreter; the program aborts when the two do not agree."""
    with t.start(t.machine(accel="bt,check=97,cache=16M")) as running:
        console = t.shell(running)
        t.expect(t.run(console, "echo $((6 * 7))") == "42", "the shell computes")
        t.run(console, "head -c 64k /dev/urandom | sha256sum | grep -q .")


def _computes_in_32_bits(t, machine, kernel):
    with t.start(machine) as running:
        console = t.shell(running)
        t.expect(t.run(console, "uname -m") == kernel, f"the kernel is for {kernel}")
        t.expect(t.run(console, "od -An -tx1 -j4 -N1 /bin/busybox").strip() == "01", "its programs are 32-bit ones")
        t.expect(t.run(console, "echo $((6 * 7))") == "42", "the shell computes")
        t.expect(t.run(console, "head -c 1024k /dev/zero | sha256sum").startswith("30e14955ebf1352266dc2ff8067e6810"),
                 "programs compute")
        t.expect(t.run(console, "dmesg | grep -ciE 'bug:|call trace' || true") == "0", "the kernel reports faults")


def kernel_of_32_bits(t):
    guests_32 = guests.prepare("i386")
    _computes_in_32_bits(t, vmm.Machine(kernel=guests_32["kernel_i386"], initrd=guests_32["initrd_i386"],
                                        append="console=ttyS0", cpus=2), "i686")


def kernel_of_a_32_bit_processor(t):
    guests_32 = guests.prepare("i386")
    machine = vmm.Machine(kernel=guests_32["kernel_i386"], initrd=guests_32["initrd_i386"],
                          append="console=ttyS0", cpu="pentium3")
    with t.start(machine) as running:
        console = t.shell(running)
        flags = t.run(console, "grep -m1 ^flags /proc/cpuinfo").split()
        t.expect("sse" in flags and "cmov" in flags, "it is a Pentium III")
        t.expect("lm" not in flags and "sse2" not in flags, "it is no later processor")
        t.expect(t.run(console, "echo $((6 * 7))") == "42", "the shell computes")
        t.expect(t.run(console, "dmesg | grep -ciE 'bug:|call trace' || true") == "0", "the kernel reports faults")


def programs_of_32_bits(t):
    """All of user space runs in compatibility mode."""
    guests_32 = guests.prepare("i386")
    _computes_in_32_bits(t, vmm.Machine(kernel=t.guests["kernel"], initrd=guests_32["initrd_i386"],
                                        append="console=ttyS0"), "x86_64")


def busybox_four_processors(t):
    with t.start(t.machine(cpus=4)) as running:
        console = t.shell(running)
        t.expect(t.run(console, "nproc") == "4", "four processors were asked for")
        # Each processor takes timer interrupts and runs what is pinned to it.
        for cpu in range(4):
            t.run(console, f"taskset -c {cpu} sh -c 'sleep 0.1; grep -q . /proc/self/stat'")


def paravirtual_services(t):
    """Linux finds what KVM gives, and four processors that wait for each other use it."""
    with t.start(t.machine(cpus=4)) as running:
        console = t.shell(running)
        for message in ("PV spinlocks enabled", "setup PV IPIs", "pv remote TLB flush"):
            t.run(console, f"dmesg | grep -qi '{message}'")
        t.run(console, "for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4 5 6 7 8 9 10; do "
                       "head -c 64k /dev/urandom | gzip | gunzip | wc -c; done >/tmp/$i) & done; wait; "
                       "cat /tmp/? | sort -u | grep -qx 65536 && test $(cat /tmp/? | wc -l) = 80")
        t.expect(t.run(console, "dmesg | grep -ciE 'bug:|call trace|stall' || true") == "0", "the kernel reports faults")


def busybox_in_128_mebibytes(t):
    with t.start(t.machine(memory="128M")) as running:
        console = t.shell(running)
        total = int(t.run(console, "awk '/MemTotal/ { print $2 }' /proc/meminfo"))
        t.expect(total < 128 << 10, f"the guest sees {total} kB of its 128 MiB")


def busybox_memory_above_4_gibibytes(t):
    """The part above the hole for devices must be there and hold what is written to it."""
    with t.start(t.machine(memory="5G")) as running:
        console = t.shell(running)
        total = int(t.run(console, "awk '/MemTotal/ { print $2 }' /proc/meminfo"))
        t.expect(total > 4700 << 10, f"the guest sees {total} kB of its 5 GiB")
        t.run(console, "mkdir -p /high; mount -t tmpfs none /high")
        t.run(console, "head -c 32m /dev/urandom >/high/a && cp /high/a /high/b && cmp /high/a /high/b")


def busybox_without_acpi(t):
    """Without ACPI the kernel finds the interrupt controllers and timers by older means."""
    with t.start(t.machine(append="acpi=off")) as running:
        console = t.shell(running)
        t.expect(t.run(console, "nproc") == "1", "one processor was asked for")


def machine_with_the_switches_of_libvirt(t):
    """A versioned machine, and what is written for every guest of QEMU; ACPI and the HPET are really gone."""
    switches = "pc-i440fx-7.2,usb=off,vmport=off,smm=off,graphics=off,dump-guest-core=off,kernel_irqchip=off"
    with t.start(t.machine(machine=f"{switches},hpet=off,acpi=off")) as running:
        console = t.shell(running)
        t.run(console, "test ! -e /sys/firmware/acpi/tables/DSDT")
        sources = t.run(console, "cat /sys/devices/system/clocksource/clocksource0/available_clocksource")
        t.expect("hpet" not in sources and "kvm-clock" in sources, f"the clocks are {sources}")


def interrupt_pins_without_acpi(t):
    """A device without messages, where nothing tells of its pin but what firmware would have written."""
    with t.start(t.machine(append="acpi=off", extra=["-device", "virtio-rng-pci,vectors=0"])) as running:
        console = t.shell(running)
        t.run(console, "head -c 1024 /dev/hwrng | wc -c | grep -qx 1024")
        irq = t.run(console, "cat /sys/bus/pci/drivers/virtio-pci/*/irq")
        t.expect(irq in ("10", "11"), f"the pin is interrupt {irq}")
        t.run(console, "grep -E ' *1[01]: +[1-9].*virtio' /proc/interrupts")


def busybox_by_the_64_bit_entry(t):
    """The kernel unpacks itself in the guest, instead of being unpacked by the loader."""
    with t.start(t.machine(machine="pc,kernel-entry=linux64")) as running:
        console = t.shell(running)
        t.expect(t.run(console, "nproc") == "1", "one processor was asked for")


def busybox_sixty_four_processors(t):
    with t.start(t.machine(cpus=64, memory="1G")) as running:
        console = t.shell(running)
        t.expect(t.run(console, "nproc") == "64", "64 processors were asked for")


def processors_that_never_come(t):
    """Linux neither waits for them nor keeps room for them."""
    for machine in ("pc", "microvm"):
        with t.start(t.machine(machine=machine, extra=["-smp", "2,sockets=2,cores=2,threads=1,maxcpus=4"])) as running:
            console = t.shell(running)
            for which in ("present", "possible"):
                seen = t.run(console, f"cat /sys/devices/system/cpu/{which}")
                t.expect(seen == "0-1", f"two processors were asked for, and {seen} are {which}")


def busybox_microvm_with_pci(t):
    with t.start(t.machine(machine="microvm,pcie=on", rng=True)) as running:
        console = t.shell(running)
        t.expect(t.run(console, "ls /sys/bus/pci/devices | wc -l") != "0", "there is a PCI bus with devices")


def busybox_microvm(t):
    with t.start(t.machine(machine="microvm")) as running:
        console = t.shell(running)
        t.expect(t.run(console, "nproc") == "1", "one processor was asked for")
        t.run(console, "grep -q '^cryptomgr.notests .*console=' /proc/cmdline")
        t.run(console, "dmesg | grep -q 'alg: self-tests disabled'")


def busybox_microvm_with_the_command_line_as_given(t):
    with t.start(t.machine(machine="microvm,auto-kernel-cmdline=off")) as running:
        console = t.shell(running)
        t.run(console, "! grep -q cryptomgr /proc/cmdline")


def busybox_microvm_where_the_users_word_wins(t):
    with t.start(t.machine(machine="microvm", append="cryptomgr.notests=0")) as running:
        console = t.shell(running)
        t.run(console, "! dmesg | grep -q 'alg: self-tests disabled'")


def poweroff_ends_the_process(t):
    with t.start(t.machine(append="ostler.test=poweroff")) as running:
        t.ends(running)


def reboot_ends_the_process_with_no_reboot(t):
    with t.start(t.machine(append="ostler.test=reboot")) as running:
        t.ends(running)


def reboot_boots_again(t):
    with t.start(t.machine(reboot=True)) as running:
        console = t.shell(running)
        console.send("reboot -f\n")
        console = t.shell(running)
        t.run(console, "uname")


def state_saved_in_mid_boot(t):
    """Saved, reset and restored in one process, the guest boots on as if nothing had happened."""
    driver = Path(t.program).resolve().parent / "ostler-midboot"
    console = t.scratch.path / "console"
    with t.steps.step("save, reset and restore in the middle of the boot"):
        done = subprocess.run([driver, t.guests["kernel"], t.guests["initrd"], console], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=900)
        t.expect(done.returncode == 0, f"{done.stderr.strip()}; the console ends with {console.read_bytes()[-300:]!r}")
