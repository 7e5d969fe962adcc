#!/usr/bin/env python3
"""What the program says: cli_test.py --bin BUILD/bin [TestCase[.test_name]…]

A user's mistake ends with status 1, nothing on standard output, and one line on standard error:
`program: sentence`, which names the option, the file or value, and the cure. Help ends with status 0 on
standard output. Nothing dumps core.
"""

import argparse
import glob
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

QEMU, PEOPLE = "ostler-system-x86_64", "ostler"
NOBODY = 65534
MIB = 1 << 20
BIN, SHOW = None, False


def no_core_as(user, threads=None):
    """In the child: no core file even where the host would write one, another user and few threads if asked."""
    def enter():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if threads is not None:
            resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))
        if user is not None and os.geteuid() == 0:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
    return enter


def run(name, *arguments, user=None, threads=None):
    return subprocess.run([BIN / name, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, preexec_fn=no_core_as(user, threads), check=False)


def cached_kernel():
    cache = Path(os.environ.get("OSTLER_CACHE", Path.home() / ".cache/ostler"))
    found = sorted(glob.glob(str(cache / "guests/kernel-*/vmlinuz")))
    return Path(found[0]) if found else None


def synthetic_bzimage():
    """The header fields that a loader reads (Documentation/arch/x86/boot.rst), before 1 MiB that is no code."""
    head = bytearray(0x4000)
    head[0x1f1] = 3                                     # setup sectors
    struct.pack_into("<I", head, 0x1f4, MIB // 16)      # size of the rest, in 16-byte units
    struct.pack_into("<H", head, 0x1fe, 0xaa55)
    head[0x200:0x202] = b"\xeb\x6c"                     # the header ends at 0x26e
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x20f)
    head[0x211] = 1                                     # loaded high
    struct.pack_into("<I", head, 0x214, 0x100000)
    struct.pack_into("<I", head, 0x22c, 0x7fffffff)     # highest address of an initrd
    struct.pack_into("<I", head, 0x230, 0x200000)
    head[0x234] = 1                                     # relocatable
    struct.pack_into("<H", head, 0x236, 3)              # 64-bit entry
    struct.pack_into("<I", head, 0x238, 2047)
    struct.pack_into("<Q", head, 0x258, 0x1000000)
    struct.pack_into("<I", head, 0x260, 2 * MIB)
    return bytes(head) + bytes(MIB)


def multiboot_kernel(code=b""):
    """After `code` hlt; jmp: starts, and uses nothing."""
    at = 0x100000
    header = struct.pack("<8I", 0x1badb002, 0x10000, -(0x1badb002 + 0x10000) & 0xffffffff, at, at, 0, 0, at + 32)
    return header + code + b"\xfa\xf4\xeb\xfd" + bytes(64)


# xor eax, eax; mov edx, 0x501; out dx, al: ends the program by isa-debug-exit, with status 1.
LEAVE = b"\x31\xc0\xba\x01\x05\x00\x00\xee"


class Files:
    """What the tests name on command lines; readable by everyone."""

    def __init__(self, folder):
        self.home = folder
        folder.chmod(0o777)

        def make(name, content):
            path = folder / name
            path.write_bytes(content)
            path.chmod(0o644)
            return path
        self.folder = make_folder = folder / "a-folder"
        make_folder.mkdir()
        self.missing = folder / "missing.img"
        self.kernel = make("kernel.elf", multiboot_kernel())
        self.leaving_kernel = make("leaving.elf", multiboot_kernel(LEAVE))
        whole = cached_kernel().read_bytes() if cached_kernel() else synthetic_bzimage()
        self.truncated = make("truncated.bzimage", whole[: len(whole) * 2 // 3])
        self.header_only = make("header.bzimage", whole[:700])
        self.bzimage = make("whole.bzimage", synthetic_bzimage())
        self.garbage = make("garbage.kernel", bytes(range(256)) * 300)
        self.empty = make("empty", b"")
        self.disk = make("disk.img", bytes(MIB))
        self.disk.chmod(0o444)
        self.unreadable = make("unreadable.img", bytes(MIB))
        self.unreadable.chmod(0o000)
        self.initrd = folder / "large.initrd"
        with open(self.initrd, "wb") as sparse:
            sparse.truncate(256 * MIB)
        self.initrd.chmod(0o644)


F = None


class Mistake(unittest.TestCase):
    """One line, as the head of this file says, that holds every word of `words`."""

    def expect(self, name, arguments, words, user=None, threads=None):
        """As root, `user` is whom the program runs as: permission bits and limits do not hold for root."""
        done = run(name, *arguments, user=user, threads=threads)
        shown = f"{name} {' '.join(map(str, arguments))}\nstatus {done.returncode}\n{done.stderr}"
        self.assertEqual(done.returncode, 1, shown)
        self.assertEqual(done.stdout, "", shown)
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, shown)
        self.assertTrue(lines[0].startswith(f"{name}: "), shown)
        sentence = lines[0][len(name) + 2:]
        self.assertFalse(sentence.startswith(f"{name}:"), shown)
        self.assertNotRegex(sentence, r"(?i)terminate|assert|exception|std::|errno", shown)
        # No option is told twice in a row: "-device: -device x".
        self.assertNotRegex(sentence, r"^(--?\w[\w-]*)[ :].*: \1[ :]", shown)
        for word in words:
            self.assertIn(str(word), sentence, shown)
        if SHOW:
            print(lines[0].replace(str(F.home), "/tmp"))


class Mistakes(Mistake):
    def qemu(self, *arguments, words, kernel=True, user=None, threads=None):
        head = ["-kernel", F.kernel] if kernel else []
        self.expect(QEMU, [*head, "-display", "none", *arguments], words, user, threads)

    # --- what is booted ---------------------------------------------------------------------------

    def test_nothing_to_boot(self):
        self.qemu(kernel=False, words=["-kernel"])

    def test_kernel_missing(self):
        self.qemu("-kernel", F.missing, kernel=False, words=["-kernel", F.missing, "No such file", "check the path"])

    def test_kernel_is_a_folder(self):
        self.qemu("-kernel", F.folder, kernel=False, words=["-kernel", F.folder, "directory"])

    def test_kernel_truncated(self):
        self.qemu("-kernel", F.truncated, kernel=False, words=["-kernel", F.truncated, "truncated"])

    def test_kernel_ends_in_its_header(self):
        self.qemu("-kernel", F.header_only, kernel=False, words=["-kernel", F.header_only])

    def test_kernel_is_garbage(self):
        self.qemu("-kernel", F.garbage, kernel=False, words=["-kernel", F.garbage, "bzImage"])

    def test_kernel_is_empty(self):
        self.qemu("-kernel", F.empty, kernel=False, words=["-kernel", F.empty, "empty"])

    def test_kernel_of_another_user(self):
        self.qemu("-kernel", F.unreadable, kernel=False, user=NOBODY, words=["-kernel", F.unreadable, "ermission"])

    def test_initrd_missing(self):
        self.qemu("-kernel", F.bzimage, "-initrd", F.missing, kernel=False, words=["-initrd", F.missing])

    def test_initrd_is_a_folder(self):
        self.qemu("-kernel", F.bzimage, "-initrd", F.folder, kernel=False, words=["-initrd", F.folder])

    def test_initrd_larger_than_memory(self):
        self.qemu("-kernel", F.bzimage, "-m", "128", "-initrd", F.initrd, kernel=False,
                  words=["-initrd", F.initrd, "-m"])

    def test_initrd_of_multiboot_larger_than_memory(self):
        self.qemu("-m", "128", "-initrd", F.initrd, words=["-initrd", F.initrd, "-m"])

    def test_initrd_without_kernel(self):
        self.qemu("-initrd", F.initrd, kernel=False, words=["-initrd", "-kernel"])

    def test_append_without_kernel(self):
        self.qemu("-append", "quiet", kernel=False, words=["-append", "-kernel"])

    def test_command_line_too_long(self):
        self.qemu("-kernel", F.bzimage, "-append", "x" * 70_000, kernel=False, words=["-append"])

    # --- memory and processors --------------------------------------------------------------------

    def test_hardly_any_memory(self):
        self.qemu("-m", "64K", words=["-m 64K", "1M"])

    def test_memory_that_is_no_number(self):
        self.qemu("-m", "lots", words=["-m lots"])

    def test_memory_negative(self):
        self.qemu("-m", "-5", words=["-m -5"])

    def test_more_memory_than_the_host_has(self):
        self.qemu("-m", "512T", words=["-m", "memory", "reserve=off"])

    def test_more_memory_than_a_number_holds(self):
        self.qemu("-m", "99999999999999999999G", words=["-m 99999999999999999999G"])

    def test_memory_too_small_for_the_kernel(self):
        self.qemu("-m", "1M", words=["-m"])

    def test_memory_with_unknown_setting(self):
        self.qemu("-m", "128,slot=1", words=["-m 128,slot=1", "'slots'"])

    def test_memory_hotplug(self):
        self.qemu("-m", "128,slots=2,maxmem=1G", words=["-m", "maxmem"])

    def test_too_many_processors(self):
        self.qemu("-smp", "65", words=["-smp 65", "64"])

    def test_no_processors(self):
        self.qemu("-smp", "0", words=["-smp 0", "1 to 64"])

    def test_processors_without_threads(self):
        """Another user's, because root has no such limit; one that no other process shares where we are root."""
        self.qemu("-accel", "bt", "-smp", "4", user=NOBODY, threads=1,
                  words=["-smp 4", "threads", "ulimit -u", "pids.max", "fewer vCPUs"])

    def test_memory_taken_without_threads(self):
        """-mem-prealloc does it with the thread that there is; what comes after it is told."""
        self.qemu("-accel", "bt", "-smp", "4", "-m", "128", "-mem-prealloc", user=NOBODY, threads=1,
                  words=["-smp 4", "ulimit -u"])

    def test_topology_that_does_not_multiply(self):
        self.qemu("-smp", "4,sockets=3,cores=1,threads=1", words=["-smp", "3"])

    def test_topology_of_more_than_there_are(self):
        self.qemu("-smp", "4,sockets=2,cores=2,threads=2", words=["-smp", "give 8 vCPUs, not 4", "maxcpus=8"])

    def test_heterogeneous_memory(self):
        for value in ("hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=5",
                      "hmat-cache,node-id=0,size=10K,level=1", "node,initiator=0"):
            self.qemu("-numa", value, words=["-numa", "HMAT", "leave it out", "-numa dist"])

    def test_properties_of_machines_that_are_not_here(self):
        for value, words in (("max-ram-below-4g=2G", ["3 GiB"]), ("memory-encryption=sev0", ["not encrypted"]),
                             ("smp.cpus=4", ["-smp says this"]), ("memory.size=1G", ["-m says this"]),
                             ("firmware=bios.bin", ["-kernel"])):
            for machine in ("pc", "microvm"):
                self.qemu("-machine", f"{machine},{value}", words=[f"-machine {machine}", value.split("=")[0], *words])

    def test_memory_taken_but_not_reserved(self):
        self.qemu("-object", "memory-backend-ram,id=m,size=64M,prealloc=on,reserve=off", "-machine",
                  "memory-backend=m", words=["-object memory-backend-ram", "reserve", "prealloc=on", "leave"])

    def test_more_processors_than_most(self):
        self.qemu("-smp", "4,maxcpus=2", words=["-smp", "maxcpus"])

    # --- names ------------------------------------------------------------------------------------

    def test_option_misspelt(self):
        self.qemu("-kernal", "x", words=["-kernal", "'-kernel'"])

    def test_option_unknown(self):
        self.qemu("-qqqqqqqqqqqq", words=["-qqqqqqqqqqqq", "-help"])

    def test_option_without_value(self):
        self.qemu("-smp", words=["-smp", "value"])

    def test_bare_word(self):
        self.qemu(F.missing, words=[F.missing, "check the path"])

    def test_machine_misspelt(self):
        self.qemu("-machine", "microvn", words=["-machine microvn", "'microvm'"])

    def test_machine_unknown(self):
        self.qemu("-M", "q35zz", words=["q35zz", "pc", "microvm"])

    def test_machine_property_misspelt(self):
        self.qemu("-machine", "microvm,pci=on", words=["pci", "'pcie'"])

    def test_machine_property_unknown(self):
        self.qemu("-machine", "pc,qqqqqqqqqq=on", words=["-machine pc", "qqqqqqqqqq", "-machine pc,help"])

    def test_machine_switch_for_what_is_not_there(self):
        self.qemu("-machine", "pc,usb=on", words=["-machine pc", "usb", "'on'", "there is no USB controller", "usb=off"])
        self.qemu("-machine", "microvm,pit=on", words=["-machine microvm", "pit", "8254", "say pit=auto"])
        self.qemu("-machine", "microvm,acpi=off", words=["acpi", "the guest finds its devices by ACPI"])

    def test_accelerators_of_other_hosts(self):
        self.qemu("-accel", "whpx", words=["-accel whpx", "not available", "-accel bt"])
        self.qemu("-M", "accel=hvf:xen", words=["-accel xen", "not available"])

    def test_memory_backend_context(self):
        self.qemu("-object", "memory-backend-ram,id=m,size=64M,prealloc-context=c", "-machine", "memory-backend=m",
                  words=["prealloc-context", "not available", "prealloc-threads"])

    def test_clusters(self):
        self.qemu("-smp", "4,clusters=2", words=["-smp", "clusters", "dies"])

    def test_machine_property_value(self):
        self.qemu("-machine", "pc,kernel-entry=phv", words=["kernel-entry", "phv", "pvh"])

    def test_processor_model_misspelt(self):
        self.qemu("-cpu", "Haswel", words=["-cpu", "Haswel", "'Haswell'"])

    def test_processor_feature_misspelt(self):
        self.qemu("-cpu", "max,-avx3", words=["-cpu", "avx3", "'avx'"])

    def test_accelerator_misspelt(self):
        self.qemu("-accel", "intrep", words=["-accel intrep", "'interp'"])

    def test_doctor_option_unknown(self):
        self.expect("ostler", ["doctor", "--jsn"], words=["doctor", "'--jsn'", "ostler doctor --help"])

    def test_report_that_does_not_fit(self):
        for command in ("doctor", "ps"):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([BIN / "ostler", command], stdin=subprocess.DEVNULL, stdout=full,
                                      stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(f"ostler: {command}: the report cannot be written: No space left", done.stderr)

    def test_accelerator_without_properties(self):
        self.qemu("-accel", "kvm,cache=8M", words=["-accel kvm", "'cache'", "leave it out"])

    def test_accelerator_dirty_ring_of_odd_size(self):
        self.qemu("-accel", "kvm,dirty-ring-size=3000",
                  words=["-accel kvm", "dirty-ring-size", "3000", "power of two", "4096"])
        self.qemu("-accel", "kvm,dirty-ring-size=512", words=["dirty-ring-size", "512", "1024"])
        self.qemu("-accel", "kvm,dirty-ring-sise=0", words=["-accel kvm", "'dirty-ring-size'"])

    def test_accelerator_irqchip_unknown(self):
        self.qemu("-accel", "kvm,kernel-irqchip=maybe", words=["-accel kvm", "kernel-irqchip", "maybe", "off|split|on"])
        self.qemu("-accel", "kvm,kernel_irqchip=on", words=["-accel kvm", "'kernel-irqchip'"])

    def test_accelerator_property_misspelt(self):
        self.qemu("-accel", "bt,cahce=8M", words=["-accel bt", "cahce", "'cache'"])

    def test_accelerator_property_by_another_name(self):
        self.qemu("-accel", "tcg,tb_size=64", words=["-accel bt", "tb_size", "'tb-size'"])

    def test_accelerator_cache_no_size(self):
        self.qemu("-accel", "bt,cache=lots", words=["-accel bt", "cache", "lots"])

    def test_accelerator_cache_too_small(self):
        self.qemu("-accel", "bt,cache=2M", words=["-accel bt", "cache", "2M", "4M to 1G"])

    def test_accelerator_cache_too_large(self):
        self.qemu("-accel", "tcg,cache=2G", words=["-accel bt", "cache", "2G", "4M to 1G"])

    def test_accelerator_cache_in_mebibytes(self):
        self.qemu("-accel", "tcg,tb-size=2000", words=["-accel bt", "tb-size", "2000", "1024"])

    def test_accelerator_threads(self):
        self.qemu("-accel", "tcg,thread=single", words=["-accel bt", "thread", "single", "thread=multi"])

    def test_accelerator_check_no_number(self):
        self.qemu("-accel", "bt,check=often", words=["-accel bt", "check", "often"])

    def test_accelerator_check_out_of_range(self):
        self.qemu("-accel", "bt,check=99999999999999999999", words=["-accel bt", "check"])

    def test_accelerator_check_with_two_processors(self):
        self.qemu("-smp", "2", "-accel", "bt,check=97", words=["-accel bt", "check", "one vCPU", "-smp 1"])

    def test_accelerator_perfmap_value(self):
        self.qemu("-accel", "bt,perfmap=maybe", words=["-accel bt", "perfmap", "maybe"])

    def test_interpreter_has_no_cache(self):
        self.qemu("-accel", "interp,cache=8M", words=["-accel interp", "'cache'", "-accel bt"])

    def test_interpreter_property_unknown(self):
        self.qemu("-accel", "interp,speed=full", words=["-accel interp", "'speed'", "leave it out"])

    def test_log_subject_misspelt(self):
        self.qemu("-d", "guest_error", words=["-d", "guest_error", "'guest_errors'"])

    def test_log_file_in_a_missing_folder(self):
        self.qemu("-D", F.missing / "log", words=["-D", F.missing / "log"])

    def test_clock_that_is_no_date(self):
        self.qemu("-rtc", "base=yesterday", words=["-rtc", "yesterday", "utc"])

    def test_identity_that_is_none(self):
        self.qemu("-uuid", "12", words=["-uuid", "12"])

    # --- devices ----------------------------------------------------------------------------------

    def test_device_misspelt(self):
        self.qemu("-device", "virtio-blk-pcj", words=["-device virtio-blk-pcj", "'virtio-blk-pci'"])

    def test_device_that_is_not_here(self):
        # The names nearest to these are of other kinds.
        self.qemu("-device", "vhost-vsock-pci,guest-cid=3", words=["vhost-vsock-pci", "virtio-vsock-pci", "uds-path"])
        self.qemu("-device", "nvme,drive=d,serial=1", words=["'nvme'", "virtio-blk-pci"])
        done = run(QEMU, "-kernel", F.kernel, "-nodefaults", "-device", "virtio-gpu-pci")
        self.assertIn("there is no device 'virtio-gpu-pci'", done.stderr)
        self.assertNotIn("virtio-9p-pci", done.stderr)

    def test_device_without_its_back_end(self):
        for device, property, cure in (("virtio-blk-pci", "drive", "-drive if=none,id=NAME"), ("ide-hd", "drive", "-blockdev"),
                                       ("isa-debugcon", "chardev", "-chardev KIND,id=NAME"),
                                       ("virtio-9p-pci,mount_tag=t", "fsdev", "-fsdev local,id=NAME"),
                                       ("vhost-user-blk-pci", "chardev", "-chardev socket,id=NAME,path=SOCKET"),
                                       ("virtio-vsock-pci", "guest-cid", "guest-cid=3"),
                                       ("virtio-vsock-pci,guest-cid=3", "uds-path", "SOCKET_N")):
            self.qemu("-device", device, words=[f"-device {device}: ", f"'{property}' is missing; ", cure])
        self.qemu("-device", "virtio-scsi-pci", "-device", "scsi-hd", words=["'drive' is missing; ", "-drive if=none,id=NAME"])

    def test_back_end_of_another_process_and_private_memory(self):
        chardev = ["-chardev", f"socket,id=c,path={F.missing}"]
        self.qemu(*chardev, "-device", "vhost-user-blk-pci,chardev=c",
                  words=["-device vhost-user-blk-pci,chardev=c", "-machine memory-backend=mem"])
        self.qemu(*chardev, "-object", "memory-backend-memfd,id=own,size=64M,share=off", "-numa", "node,memdev=own",
                  "-m", "64M", "-device", "vhost-user-blk-pci,chardev=c", words=["'own' is private", "id=own,share=on"])

    def test_balloon_without_its_iothread(self):
        self.qemu("-device", "virtio-balloon-pci,iothread=t", words=["no iothread 't'", "-object iothread,id=t"])

    def test_device_property_misspelt(self):
        self.qemu("-device", "virtio-rng-pci,adr=1", words=["-device virtio-rng-pci", "adr", "'addr'"])

    def test_device_property_value(self):
        self.qemu("-device", "isa-debug-exit,iobase=never", words=["-device isa-debug-exit", "iobase", "never"])

    def test_device_property_out_of_range(self):
        self.qemu("-device", "isa-debug-exit,iosize=5", words=["iosize", "5", "4"])

    def test_device_without_driver(self):
        self.qemu("-device", "id=x,addr=3", words=["-device", "driver"])

    def test_device_ids_twice(self):
        self.qemu("-device", "virtio-rng-pci,id=a", "-device", "virtio-rng-pci,id=a", words=["'a'", "virtio-rng-pci"])

    def test_device_address_twice(self):
        self.qemu("-device", "virtio-rng-pci,addr=5", "-device", "virtio-rng-pci,addr=5", words=["-device", "5"])

    def test_device_for_the_other_machine(self):
        self.qemu("-machine", "microvm", "-device", "virtio-rng-pci", words=["-device virtio-rng-pci", "virtio-rng-device"])

    def test_mmio_device_on_pc(self):
        self.qemu("-device", "virtio-rng-device", words=["-device virtio-rng-device", "virtio-rng-pci"])

    def test_more_devices_than_slots(self):
        many = [word for _ in range(40) for word in ("-device", "virtio-rng-pci")]
        self.qemu(*many, words=["-device virtio-rng-pci"])

    def test_console_without_controller(self):
        self.qemu("-device", "virtconsole", words=["-device virtconsole", "virtio-serial"])

    def test_device_without_an_interface(self):
        self.qemu("-device", "virtio-rng-pci,disable-legacy=on,disable-modern=on",
                  words=["-device virtio-rng-pci", "no interface is left", "disable-legacy or disable-modern off"])

    def test_platform_addresses_for_legacy_drivers(self):
        self.qemu("-device", "virtio-rng-pci,iommu_platform=on,disable-modern=on",
                  words=["-device virtio-rng-pci", "iommu_platform=on", "leave disable-modern=on"])

    def test_global_property_of_a_device(self):
        device = ["-device", "virtio-rng-pci"]
        self.qemu("-global", "virtio-rng-pci.perod=1", *device, words=["-global virtio-rng-pci.perod=1", "perod", "'period'"])
        self.qemu("-global", "virtio-rng-device.period=often", *device, words=["-global virtio-rng-device.period=often", "often"])
        self.qemu("-global", "virtio-pci.disable-modern=on", "-global", "virtio-rng-pci.disable-legacy=on", *device,
                  words=["no interface is left"])
        self.qemu("-global", "virtio-rng-pci", words=["-global virtio-rng-pci", "DRIVER.PROPERTY=VALUE"])
        self.qemu("-device", "virtio-rng-pci,id=r", "-set", "device.r.perod=1", words=["-device virtio-rng-pci", "perod", "'period'"])
        self.qemu("-set", "device.r.period=1", words=["-set device.r.period=1", "id=r"])

    def test_interfaces_against_the_name(self):
        for name in ("transitional", "non-transitional"):
            self.qemu("-device", f"virtio-rng-pci-{name},disable-modern=on",
                      words=[f"-device virtio-rng-pci-{name}", "leave disable-legacy and disable-modern out"])

    def test_legacy_interface_of_a_later_device(self):
        self.qemu("-device", f"virtio-vsock-pci,guest-cid=3,uds-path={F.missing},disable-legacy=off",
                  words=["-device virtio-vsock-pci", "no legacy interface"])

    def test_card_on_an_unknown_bus(self):
        self.qemu("-device", "virtio-rng-pci,bus=pci.1", words=["-device virtio-rng-pci,bus=pci.1", "'pci.1'", "pci.0"])

    def test_queue_whose_size_is_no_power_of_two(self):
        for device in ("virtio-net-pci,rx_queue_size=100", "virtio-blk-pci,queue-size=100", "virtio-scsi-pci,virtqueue_size=100"):
            self.qemu("-device", device, words=[f"-device {device}", "power of two"])

    def test_option_rom(self):
        self.qemu("-device", "virtio-rng-pci,romfile=efi-virtio.rom", words=["romfile", "'efi-virtio.rom'", "romfile= "])

    def test_what_only_qemu_can(self):
        for device in ("virtio-blk-pci,scsi=on", "virtio-net-pci,tx=timer", "virtio-rng-pci,ats=on", "virtio-rng-pci,acpi-index=3"):
            self.qemu("-device", device, words=[f"-device {device}", "not available; "])

    def test_random_source_that_is_not_there(self):
        self.qemu("-device", "virtio-rng-pci,rng=r", words=["-device virtio-rng-pci,rng=r", "-object rng-builtin,id=r"])

    def test_random_source_that_is_another_file(self):
        self.qemu("-object", f"rng-random,id=r,filename={F.disk}", words=["-object rng-random", "filename", F.disk, "/dev/urandom"])
        self.qemu("-object", "rng-builtin,id=r,filename=/dev/urandom", words=["-object rng-builtin", "filename"])

    def test_mistake_beside_random_sources(self):
        self.qemu("-object", "rng-random,id=r,filename=/dev/urandom", "-object", "rng-builtin,id=s", "-device", "virtio-rng-pci,rng=r",
                  "-device", "virtio-rng-pci,rng=s", "-device", "virtio-rng-pci,rng=t", words=["virtio-rng-pci,rng=t"])

    # --- ports of a virtio console ----------------------------------------------------------------

    CONSOLES = ["-device", "virtio-serial-pci,id=a", "-device", "virtio-serial-pci,id=b"]

    def test_port_of_the_console_that_its_bus_names(self):
        ports = [word for bus in ("a.0", "b.0", "a.0") for word in ("-device", f"virtconsole,bus={bus},nr=0")]
        self.qemu(*self.CONSOLES, *ports, words=["bus=a.0,nr=0: port 0 of a is taken"])

    def test_port_without_a_bus(self):
        self.qemu(*self.CONSOLES, "-device", "virtconsole", "-device", "virtconsole,bus=a.0,nr=0", words=["port 0 of a is taken"])

    def test_port_of_an_unknown_bus(self):
        self.qemu(*self.CONSOLES, "-device", "virtconsole,bus=c.0", words=["-device virtconsole,bus=c.0", "'c.0'", "id="])

    def test_port_names_twice(self):
        self.qemu(*self.CONSOLES, "-device", "virtserialport,bus=a.0,name=n", "-device", "virtserialport,bus=b.0,name=n",
                  words=["-device virtserialport,bus=b.0", "'n'", "another name"])

    def test_port_past_the_last(self):
        self.qemu("-device", "virtio-serial-pci,max_ports=4", "-device", "virtserialport,nr=4", words=["nr=4", "max_ports=4"])
        self.qemu("-device", "virtio-serial-pci", "-device", "virtserialport,nr=30", "-device", "virtserialport,nr=30",
                  words=["port 30", "is taken"])

    def test_device_help_misspelt(self):
        self.qemu("-device", "virtio-blk-pcj,help", words=["virtio-blk-pcj", "'virtio-blk-pci'"])

    # --- devices of other processes ---------------------------------------------------------------

    SHARED = ["-object", "memory-backend-memfd,id=m,size=128M", "-machine", "memory-backend=m"]

    def test_vhost_user_without_chardev(self):
        for device in ("vhost-user-fs-pci,tag=t", "vhost-user-blk-pci"):
            self.qemu("-device", device, words=[f"-device {device}", "chardev"])

    def test_vhost_user_with_an_unknown_chardev(self):
        self.qemu(*self.SHARED, "-device", "vhost-user-fs-pci,chardev=c,tag=t", words=["-device vhost-user-fs-pci", "'c'"])

    def test_vhost_user_with_private_memory(self):
        self.qemu("-chardev", f"socket,id=c,path={F.missing}", "-device", "vhost-user-fs-pci,chardev=c,tag=t",
                  words=["-device vhost-user-fs-pci", "-object memory-backend-memfd,id=mem,size=128M -machine memory-backend=mem"])

    def test_vhost_user_where_nobody_listens(self):
        self.qemu(*self.SHARED, "-chardev", f"socket,id=c,path={F.missing}", "-device", "vhost-user-blk-pci,chardev=c",
                  words=["-device vhost-user-blk-pci", F.missing, "start the back end first"])

    def test_vhost_user_on_what_is_no_socket(self):
        self.qemu("-chardev", "null,id=c", "-device", "vhost-user-fs-pci,chardev=c,tag=t", words=["-chardev null", "UNIX socket"])

    def test_vhost_net_that_is_not_wanted(self):
        self.qemu("-netdev", "tap,id=n,vhost=off,vhostfd=7", "-device", "virtio-net-pci,netdev=n",
                  words=["-netdev tap", "vhostfd", "vhost=off"])

    def test_vhost_user_as_a_server(self):
        for options, word in (("server=on,reconnect=1", "reconnect"), ("server=on,wait=off", "wait"), ("wait=on", "wait")):
            self.qemu("-chardev", f"socket,id=c,path={F.missing},{options}", "-device", "vhost-user-fs-pci,chardev=c,tag=t",
                      words=["-chardev socket", word])

    def test_vhost_user_network(self):
        card = ["-device", "virtio-net-pci,netdev=n"]
        chardev = ["-chardev", f"socket,id=c,path={F.missing}"]
        self.qemu("-netdev", "vhost-user,id=n", *card, words=["-netdev vhost-user", "chardev"])
        self.qemu("-netdev", "vhost-user,id=n,chardev=c,queues=0", *chardev, *card, words=["-netdev vhost-user", "queues"])
        for memory in (self.SHARED, []):
            self.qemu("-netdev", "vhost-user,id=n,chardev=d,vhostforce", *memory, *card, words=["-device virtio-net-pci", "'d'"])
        self.qemu("-netdev", "vhost-user,id=n,chardev=c", *chardev, *card, words=["-device virtio-net-pci", "memory-backend-memfd"])
        self.qemu("-netdev", "vhost-user,id=n,chardev=c", *chardev, *self.SHARED, *card,
                  words=["-device virtio-net-pci", F.missing, "start the back end first"])
        self.qemu("-netdev", "vhost-user,id=n,chardev=c", *chardev, "-object", f"filter-dump,id=f,netdev=n,file={F.missing}",
                  words=["-object filter-dump", "'n'", "vhost-user"])
        self.expect(PEOPLE, ["run", "--kernel", F.kernel, "--net", f"vhost-user={F.missing}"],
                    words=["--net vhost-user", F.missing, "start the back end first"])

    def test_shared_folder_without_a_tag(self):
        self.qemu(*self.SHARED, "-chardev", f"socket,id=c,path={F.missing}", "-device", "vhost-user-fs-pci,chardev=c",
                  words=["-device vhost-user-fs-pci", "tag"])

    def test_shared_folder_missing(self):
        self.expect(PEOPLE, ["run", "--kernel", F.kernel, "--share", F.missing], words=[f"--share {F.missing}", "No such file"])

    def test_shared_folder_is_a_file(self):
        self.expect(PEOPLE, ["run", "--kernel", F.kernel, "--share", F.kernel], words=["--share", F.kernel, "not a folder"])

    def test_shared_folders_of_one_tag(self):
        self.expect(PEOPLE, ["run", "--kernel", F.kernel, "--share", F.folder, "--share", f"{F.home}:a-folder"],
                    words=["--share", "'a-folder'", "DIR:TAG"])

    def test_shared_folder_with_a_long_tag(self):
        self.expect(PEOPLE, ["run", "--kernel", F.kernel, "--share", f"{F.folder}:{'x' * 37}"], words=["--share", "36 bytes"])

    def test_shared_folder_as_something_else(self):
        self.expect(PEOPLE, ["run", "--kernel", F.kernel, "--share", F.folder, "--share-as", "nfs"], words=["--share-as nfs", "9p"])

    def test_shared_folder_by_9p_missing(self):
        self.expect(PEOPLE, ["run", "--kernel", F.kernel, "--share", F.missing, "--share-as", "9p"],
                    words=[f"--share {F.missing}", "No such file"])

    # --- shared folders by 9P ---------------------------------------------------------------------

    def fsdev(self, options, words):
        self.qemu("-fsdev", options, words=["-fsdev", *words])

    def test_fsdev_with_parts_missing(self):
        self.fsdev(f"local,path={F.folder},security_model=none", words=["id"])
        self.fsdev("local,id=f,security_model=none", words=["path"])
        self.fsdev(f"local,id=f,path={F.folder}", words=["security_model", "none, mapped-xattr or passthrough"])
        self.qemu("-virtfs", f"local,path={F.folder},security_model=none", words=["-virtfs", "mount_tag"])

    def test_fsdev_with_odd_values(self):
        good = f"local,id=f,path={F.folder}"
        self.fsdev(f"proxy,id=f,path={F.folder}", words=["'proxy'", "local,path="])
        self.fsdev(f"{good},security_model=mapped-file", words=["security_model", "mapped-xattr"])
        self.fsdev(f"{good},security_model=none,readonly=perhaps", words=["readonly", "'perhaps'"])
        self.fsdev(f"{good},security_model=none,fmode=0640", words=["fmode", "security_model=mapped-xattr"])
        self.fsdev(f"{good},security_model=mapped-xattr,dmode=789", words=["dmode", "'789'", "octal"])
        self.fsdev(f"{good},security_model=none,writeout=immediate", words=["writeout", "not available", "-o sync"])
        self.fsdev(f"{good},security_model=none,multidevs=warn", words=["multidevs", "remapped"])
        self.fsdev(f"{good},security_model=none,redonly=on", words=["'redonly'", "'readonly'"])

    def test_fsdev_of_no_folder(self):
        self.fsdev(f"local,id=f,path={F.missing},security_model=none", words=[F.missing, "No such file"])
        self.fsdev(f"local,id=f,path={F.kernel},security_model=none", words=[F.kernel, "not a folder"])

    def test_fsdev_twice(self):
        one = ["-fsdev", f"local,id=f,path={F.folder},security_model=none"]
        self.qemu(*one, *one, words=["-fsdev", "'f'", "id=NAME"])

    def test_9p_device_without_its_folder(self):
        fsdev = ["-fsdev", f"local,id=one,path={F.folder},security_model=none"]
        self.qemu(*fsdev, "-device", "virtio-9p-pci,mount_tag=t", words=["-device virtio-9p-pci", "'fsdev'"])
        self.qemu(*fsdev, "-device", "virtio-9p-pci,fsdev=ome,mount_tag=t", words=["-device virtio-9p-pci", "'ome'", "'one'"])

    def test_9p_device_with_an_odd_tag(self):
        fsdev = ["-fsdev", f"local,id=f,path={F.folder},security_model=none"]
        self.qemu(*fsdev, "-device", "virtio-9p-pci,fsdev=f", words=["-device virtio-9p-pci", "mount_tag"])
        self.qemu(*fsdev, "-device", f"virtio-9p-pci,fsdev=f,mount_tag={'x' * 37}", words=["mount_tag", "36 bytes"])

    # --- disks ------------------------------------------------------------------------------------

    def test_disk_missing(self):
        self.qemu("-drive", f"file={F.missing},if=virtio", words=["-drive", F.missing, "check the path"])

    def test_disk_is_a_folder(self):
        self.qemu("-drive", f"file={F.folder},if=virtio", words=["-drive", F.folder, "directory"])

    def test_disk_that_may_not_be_written(self):
        self.qemu("-drive", f"file={F.disk},if=virtio", user=NOBODY,
                  words=["-drive", F.disk, "readonly=on"])

    def test_disk_that_may_not_be_read(self):
        self.qemu("-drive", f"file={F.unreadable},if=virtio,readonly=on", user=NOBODY,
                  words=["-drive", F.unreadable, "ermission"])

    def test_disk_is_a_character_device(self):
        self.qemu("-drive", "file=/dev/null,if=virtio", words=["-drive", "/dev/null"])

    def test_disk_without_file(self):
        self.qemu("-drive", "if=virtio", words=["-drive", "file"])

    def test_disk_format_unknown(self):
        self.qemu("-drive", f"file={F.disk},if=virtio,format=qcow9", words=["-drive", "qcow9", "raw"])

    def test_disk_interface_unknown(self):
        self.qemu("-drive", f"file={F.disk},if=floppy", words=["-drive", "floppy", "if=virtio"])

    def test_scsi_disk_without_a_controller(self):
        self.qemu("-drive", f"file={F.disk},if=none,id=d", "-device", "scsi-hd,drive=d",
                  words=["scsi-hd", "-device virtio-scsi-pci"])

    def test_scsi_bus_that_is_not_there(self):
        self.qemu("-drive", f"file={F.disk},if=none,id=d", "-device", "virtio-scsi-pci,id=s", "-device",
                  "scsi-hd,drive=d,bus=t.0", words=["scsi-hd", "'t.0'", "s.0"])

    def test_scsi_place_that_is_taken(self):
        self.qemu("-device", "virtio-scsi-pci", "-device", "scsi-cd,scsi-id=1", "-device", "scsi-cd,scsi-id=1",
                  words=["scsi-cd", "scsi-id", "lun"])

    def test_scsi_disk_without_a_drive(self):
        self.qemu("-device", "virtio-scsi-pci", "-device", "scsi-hd", words=["scsi-hd", "'drive'"])

    def test_scsi_serial_too_long(self):
        self.qemu("-device", "virtio-scsi-pci", "-device", "scsi-cd,ver=12345", words=["scsi-cd", "ver", "4 characters"])

    def test_drive_setting_misspelt(self):
        self.qemu("-drive", f"file={F.disk},if=virtio,snapshoot=on", words=["snapshoot", "'snapshot'"])

    def test_drive_switch_neither_on_nor_off(self):
        self.qemu("-drive", f"file={F.disk},if=virtio,snapshot=maybe", words=["snapshot", "maybe", "on"])

    def test_drive_ids_twice(self):
        self.qemu("-drive", f"file={F.disk},if=none,id=d,readonly=on", "-drive", f"file={F.disk},if=none,id=d,readonly=on",
                  words=["-drive", "'d'"])

    def test_a_drive_that_is_written_and_shared(self):
        self.qemu("-drive", f"file={F.disk},if=virtio,force-share=on", words=[F.disk, "force-share=on", "read-only=on"])

    def test_two_devices_on_one_drive(self):
        self.qemu("-drive", f"file={F.disk},if=none,id=d", "-device", "virtio-blk-pci,drive=d",
                  "-device", "virtio-blk-pci,drive=d", words=["-device virtio-blk-pci,drive=d", "'d'", "used"])

    def test_drive_that_is_not_there(self):
        self.qemu("-drive", f"file={F.disk},if=none,id=disk0", "-device", "virtio-blk-pci,drive=disk1",
                  words=["-device virtio-blk-pci", "'disk1'", "'disk0'"])

    def test_error_action_unknown(self):
        self.qemu("-drive", f"file={F.disk},if=virtio,werror=halt", words=["-drive", "werror", "'halt'", "stop"])
        self.qemu("-device", "virtio-blk-pci,drive=d,rerror=enospc", words=["-device", "rerror", "'enospc'", "stop"])

    def test_how_long_an_io_thread_polls(self):
        self.qemu("-object", "iothread,id=a,poll-max-ns=-1", words=["-object", "'a'", "poll-max-ns", "'-1'"])
        self.qemu("-object", "iothread,id=a,poll-max-ns=1000000001", words=["poll-max-ns", "1000000001", "1000000000"])

    def _mapping(self, mapping, *words, threads=("a", "b")):
        objects = [word for name in threads for word in ("-object", f"iothread,id={name}")]
        device = f'{{"driver":"virtio-blk-pci","drive":"d","num-queues":2,"iothread-vq-mapping":{mapping}}}'
        self.qemu(*objects, "-drive", "driver=null-co,if=none,id=d", "-device", device, words=["-device", *words])

    def test_queues_on_threads_that_do_not_fit(self):
        self._mapping('[{"iothread":"c"}]', "'c'", "-object iothread,id=c")
        self._mapping('[{"iothread":"a","vqs":[0,0]},{"iothread":"b","vqs":[1]}]', "queue 0", "twice")
        self._mapping('[{"iothread":"a","vqs":[0]}]', "queue 1", "no iothread")
        self._mapping('[{"iothread":"a","vqs":[0,2]}]', "queue 2", "among 2")
        self._mapping('[{"iothread":"a","vqs":[0]},{"iothread":"b"}]', "either all")
        self._mapping('[{"vqs":[0]}]', "needs an iothread")
        self._mapping('"a"', "must be a list")

    def test_object_misspelt(self):
        self.qemu("-object", "throttle-group,id=g,x-iops-totl=5", words=["-object", "x-iops-totl", "iops-total"])
        self.qemu("-object", "secret,id=s,file=/nonexistent/key", words=["-object", "/nonexistent/key"])

    def test_types_of_objects(self):
        listed = re.findall(r"^  (\S+)", run(QEMU, "-object", "help").stdout, re.MULTILINE)
        self.assertIn("iothread", listed)
        for each in listed:
            told = run(QEMU, "-object", f"{each},help")
            self.assertEqual((told.returncode, told.stdout[:len(each)]), (0, each))
        self.qemu("-object", "nosuch,id=a", words=["-object", "'nosuch'", *listed])

    def test_tls_objects(self):
        tls = f"tls-creds-psk,id=t,dir={F.folder},endpoint=server"
        self.qemu("-object", tls, words=["-object", "'t'", "keys.psk", "is missing", "psktool"])
        self.qemu("-object", "tls-creds-anon,id=t", words=["-object", "tls-creds-anon", "tls-creds-psk"])
        self.qemu("-nbd-server", "/nonexistent/s,tls-creds=t", words=["-nbd-server", "there is no object 't'", "endpoint=server"])
        self.qemu("-nbd-server", "/nonexistent/s,tls-creds=t,tls-authz=a", words=["-nbd-server", "tls-authz", "leave it out"])
        self.qemu("-blockdev", "nbd,node-name=n,server.type=unix,server.path=/nonexistent/s,tls-creds=t",
                  words=["-blockdev", "there is no object 't'", "endpoint=client"])

    def test_names_in_block_options_that_nothing_has(self):
        for option, setting in (("password-secret", "username=u"), ("cookie-secret", "timeout=5")):
            self.qemu("-blockdev", f"http,node-name=n,url=http://127.0.0.1:1/,{setting},{option}=s",
                      words=["-blockdev", f"{option}: there is no secret 's'", "--object secret,id=s,"])
        self.qemu("-object", "secret,id=s,data=x", "-object", "secret,id=t,data=x,keyid=ss,iv=x",
                  words=["-object", "'t': keyid: there is no secret 'ss'", "did you mean 's'?"])
        self.qemu("-blockdev", f"raw,node-name=n,file={F.disk}",
                  words=["-blockdev", f"'file': there is no block node '{F.disk}'", f"file.filename={F.disk}"])
        self.qemu("-blockdev", "blklogwrites,node-name=n,file.driver=null-co,log=l", words=["-blockdev", "'log'", "'l'"])
        for controller in ("virtio-scsi-pci", "virtio-blk-pci,drive=d"):
            self.qemu("-blockdev", "null-co,node-name=d", "-device", f"{controller},iothread=t",
                      words=[f"-device {controller}", "there is no iothread 't'", "-object iothread,id=t"])

    def test_block_device_without_drive(self):
        self.qemu("-device", "virtio-blk-pci", words=["-device virtio-blk-pci", "drive"])

    def test_ide_place_twice(self):
        self.qemu("-hda", F.disk, F.disk, words=[F.disk, "place 0", "-hda"])

    def test_ide_drives_too_many(self):
        self.qemu(*[word for _ in range(5) for word in ("-drive", f"file={F.disk}")], words=["-drive", "4 places", "if=virtio"])

    def test_ide_disk_read_only(self):
        self.qemu("-drive", f"file={F.disk},readonly=on", words=["-drive", "read-only", "virtio"])

    def test_ide_disk_without_drive(self):
        self.qemu("-device", "ide-hd", words=["-device ide-hd", "drive"])

    def test_ide_bus_unknown(self):
        self.qemu("-device", "ide-cd,bus=ide.7", words=["-device ide-cd", "'ide.7'", "ide.0"])

    def test_ide_unit_taken(self):
        self.qemu("-device", "ide-cd,bus=ide.1,unit=0", "-device", "ide-cd,bus=ide.1,unit=0", words=["-device ide-cd", "unit 0", "taken"])

    def test_ide_block_size(self):
        self.qemu("-drive", f"file={F.disk},if=none,id=d", "-device", "ide-hd,drive=d,physical_block_size=1000",
                  words=["-device ide-hd", "physical_block_size", "1000", "power of two"])

    def test_ide_on_the_other_machine(self):
        self.qemu("-machine", "microvm", "-cdrom", F.disk, words=["-cdrom", "microvm"])

    def test_node_that_is_no_json(self):
        self.qemu("-blockdev", '{"driver":', words=["-blockdev", "JSON"])

    def test_node_driver_unknown(self):
        self.qemu("-blockdev", "driver=qcow9,node-name=n", words=["-blockdev", "qcow9", "raw"])

    def test_node_size_no_number(self):
        self.qemu("-blockdev", "driver=null-co,node-name=n,size=big", words=["-blockdev", "size", "big"])

    def test_compressed_raw_disk(self):
        self.qemu("-blockdev", f"raw,node-name=plain,file.driver=file,file.filename={F.disk}", "-blockdev",
                  "compress,node-name=c,file=plain", words=["-blockdev", "compress", "'plain'", "qcow2"])

    def test_preallocation_that_is_not_aligned(self):
        self.qemu("-blockdev", f"preallocate,node-name=p,prealloc-align=1000,file.driver=file,file.filename={F.disk}",
                  words=["-blockdev", "prealloc-align", "512"])

    # --- network ----------------------------------------------------------------------------------

    def test_card_without_network(self):
        self.qemu("-device", "virtio-net-pci", words=["-device virtio-net-pci", "netdev"])

    def test_network_that_is_not_there(self):
        self.qemu("-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net1",
                  words=["-device virtio-net-pci", "'net1'", "'net0'"])

    def test_network_without_id(self):
        self.qemu("-netdev", "user", words=["-netdev user", "id"])

    def test_network_type_unknown(self):
        self.qemu("-netdev", "usr,id=n", words=["-netdev", "usr", "user"])

    def test_network_ids_twice(self):
        self.qemu("-netdev", "user,id=n", "-netdev", "user,id=n", words=["-netdev", "'n'"])

    def test_network_setting_misspelt(self):
        self.qemu("-netdev", "user,id=n,hostfw=tcp::1-:1", words=["hostfw", "'hostfwd'"])

    def test_port_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.qemu("-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22",
                      words=["-netdev", f"{port}", "hostfwd"])

    def test_forward_rule_unreadable(self):
        self.qemu("-netdev", "user,id=n,hostfwd=22", words=["-netdev", "hostfwd", "22"])

    def test_guest_forward_that_leads_nowhere(self):
        def forward(target, *words):
            self.qemu("-netdev", f"user,id=n,guestfwd=tcp:10.0.2.100:80-{target}", words=["-netdev user,id=n", "guestfwd", *words])
        forward("unix:" + str(F.missing), F.missing)
        forward("pipe", "tcp:HOST:PORT", "pipe")
        forward("none", "leave it out")
        forward("chardev:c", "'c'")
        self.qemu("-nic", "user,guestfwd=tcp:10.0.2.2:80-null", words=["-nic user", "guestfwd", "port 80"])

    def test_mac_unreadable(self):
        self.qemu("-nic", "user,mac=52:54", words=["mac", "52:54"])

    def test_card_model_unknown(self):
        self.qemu("-nic", "user,model=e1000x", words=["-nic", "e1000x", "virtio-net-pci", "model=virtio"])
        self.qemu("-net", "nic,model=rtl8139", "-net", "user", words=["-net nic,model=rtl8139: ", "model=virtio"])

    # --- character devices ------------------------------------------------------------------------

    def test_serial_file_in_a_missing_folder(self):
        self.qemu("-serial", f"file:{F.missing}/log", words=["-serial", f"{F.missing}/log"])

    def test_chardev_file_that_may_not_be_written(self):
        self.qemu("-chardev", f"file,id=c,path={F.disk}", "-serial", "chardev:c", user=NOBODY,
                  words=["-chardev", F.disk, "ermission"])

    def test_chardev_file_is_a_folder(self):
        self.qemu("-chardev", f"file,id=c,path={F.folder}", words=["-chardev", F.folder])

    def test_chardev_without_path(self):
        self.qemu("-chardev", "file,id=c", words=["-chardev", "path"])

    def test_chardev_without_id(self):
        self.qemu("-chardev", "null", words=["-chardev null", "id"])

    def test_chardev_kind_misspelt(self):
        self.qemu("-chardev", "sdtio,id=c", words=["-chardev", "sdtio", "'stdio'"])

    def test_chardev_ids_twice(self):
        self.qemu("-chardev", "null,id=c", "-chardev", "null,id=c", words=["-chardev", "'c'"])

    def test_switches_of_sockets_that_are_not_there(self):
        at = f"socket,id=c,path={F.missing}"
        for switch, cure in (("telnet", "socat"), ("websocket", "socat"), ("tn3270", "leave it out"), ("abstract", "path")):
            self.qemu("-chardev", f"{at},{switch}=on", words=["-chardev socket", f"{switch}: is not available", cure])
            self.qemu("-chardev", f"{at},{switch}=perhaps", words=["-chardev socket", switch, "'perhaps'"])
        self.qemu("-chardev", f"{at},nodelay=on,telnet=off,reconnect=0", words=[F.missing, "No such file", "reconnect=1"])

    def test_reconnecting_chardev(self):
        at = f"socket,id=c,path={F.missing}"
        self.qemu("-chardev", f"{at},server=on,reconnect=1", words=["-chardev socket", "reconnect", "server=on"])
        self.qemu("-chardev", f"{at},reconnect=3601", words=["-chardev socket", "reconnect", "3600"])
        self.qemu("-chardev", f"{at},reconnect=soon", words=["-chardev socket", "reconnect", "soon"])
        self.qemu("-chardev", "null,id=c,reconnect=1", words=["-chardev null", "reconnect"])

    def test_log_of_a_chardev(self):
        self.qemu("-chardev", f"null,id=c,logfile={F.folder}", words=["-chardev null", "logfile", F.folder, "directory"])
        self.qemu("-chardev", "null,id=c,logappend=on", words=["-chardev null", "logappend", "logfile="])

    def test_datagrams_to_nowhere(self):
        self.qemu("-chardev", "udp,id=c", words=["-chardev udp", "port: is missing"])
        self.qemu("-chardev", "udp,id=c,port=9,localprt=8", words=["-chardev udp", "'localport'"])

    def test_pipe_that_is_not_there(self):
        self.qemu("-serial", f"pipe:{F.missing}", words=["-serial pipe:", F.missing, ".in", "No such file"])

    def test_peer_of_a_network_that_is_not_there(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.qemu("-netdev", f"socket,id=n,connect=127.0.0.1:{port}", words=["-netdev socket", port, "refused", "start the other side first", "reconnect=1"])

    def test_chardev_setting_misspelt(self):
        self.qemu("-chardev", "ringbuf,id=c,sise=4096", words=["-chardev", "sise", "'size'"])

    def test_debugger_port_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.qemu("-gdb", f"tcp::{port}", words=["-gdb", f"{port}", "in use"])

    def test_debugger_port_twice(self):
        self.qemu("-s", "-gdb", "stdio", words=["-gdb stdio", "once"])

    def test_debugger_port_of_a_chardev_in_use(self):
        self.qemu("-chardev", "null,id=c", "-serial", "chardev:c", "-gdb", "chardev:c", words=["'c'", "used", "-gdb"])

    def test_debugger_port_of_no_kind(self):
        self.qemu("-gdb", "1234", words=["-gdb 1234", "tcp:"])

    def test_chardev_used_twice(self):
        self.qemu("-chardev", "null,id=c", "-serial", "chardev:c", "-serial", "chardev:c", words=["-serial", "'c'", "used"])

    def test_chardev_that_is_not_there(self):
        self.qemu("-chardev", "null,id=con0", "-serial", "chardev:con1", words=["-serial", "'con1'", "'con0'"])

    def test_serial_unknown(self):
        self.qemu("-serial", "sdtio", words=["-serial sdtio", "stdio"])

    def test_five_serial_ports(self):
        self.qemu(*["-serial", "null"] * 5, words=["-serial", "5", "4"])

    def test_socket_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.qemu("-serial", f"tcp:127.0.0.1:{port},server=on,wait=off", words=["-serial", f"{port}"])

    def test_socket_where_nobody_listens(self):
        self.qemu("-serial", f"unix:{F.missing}", words=["-serial", F.missing])

    def test_screen_not_available(self):
        self.qemu("-display", "gtk", words=["-display gtk", "none"])


class PeopleMistakes(Mistake):
    def people(self, *arguments, words, user=None):
        self.expect(PEOPLE, arguments, words, user)

    def test_command_unknown(self):
        self.people("rum", words=["rum", "'run'"])

    def test_option_misspelt(self):
        self.people("run", "--kernal", F.kernel, words=["--kernal", "'--kernel'"])

    def test_option_without_value(self):
        self.people("run", "--kernel", words=["--kernel"])

    def test_nothing_to_boot(self):
        self.people("run", words=["--kernel"])

    def test_kernel_missing(self):
        self.people("run", "--kernel", F.missing, words=["--kernel", F.missing, "No such file"])

    def test_kernel_is_garbage(self):
        self.people("run", "--kernel", F.garbage, words=["--kernel", F.garbage])

    def test_initrd_larger_than_memory(self):
        self.people("run", "--kernel", F.bzimage, "--memory", "128M", "--initrd", F.initrd,
                    words=["--initrd", F.initrd, "--memory"])

    def test_initrd_without_kernel(self):
        self.people("run", "--initrd", F.initrd, words=["--initrd", "--kernel"])

    def test_cd_on_the_other_machine(self):
        self.people("run", "--machine", "microvm", "--cdrom", F.disk, "--kernel", F.kernel, words=["--cdrom", "microvm"])

    def test_cd_missing(self):
        self.people("run", "--cdrom", F.missing, "--kernel", F.kernel, words=["--cdrom", F.missing])

    def test_disk_missing(self):
        self.people("run", F.missing, "--kernel", F.kernel, words=["--disk", F.missing])

    def test_disk_is_a_folder(self):
        self.people("run", F.folder, "--kernel", F.kernel, words=["--disk", F.folder, "directory"])

    def test_disk_that_may_not_be_written(self):
        self.people("run", F.disk, "--kernel", F.kernel, user=NOBODY,
                    words=["--disk", F.disk, "readonly"])

    def test_disk_setting_misspelt(self):
        self.people("run", f"{F.disk},readonyl", "--kernel", F.kernel, words=["readonyl", "readonly"])

    def test_no_memory_at_all(self):
        self.people("run", "--kernel", F.kernel, "--memory", "0", words=["--memory 0"])

    def test_more_memory_than_the_host_has(self):
        self.people("run", "--kernel", F.kernel, "--memory", "512T", words=["--memory", "memory"])

    def test_memory_that_is_no_number(self):
        self.people("run", "--kernel", F.kernel, "--memory", "lots", words=["--memory lots"])

    def test_too_many_processors(self):
        self.people("run", "--kernel", F.kernel, "--cpus", "65", words=["--cpus 65", "64"])

    def test_processors_no_number(self):
        self.people("run", "--kernel", F.kernel, "--cpus", "many", words=["--cpus", "many"])

    def test_machine_misspelt(self):
        self.people("run", "--kernel", F.kernel, "--machine", "microvn", words=["--machine", "microvn", "'microvm'"])

    def test_accelerator_misspelt(self):
        self.people("run", "--kernel", F.kernel, "--accel", "intrep", words=["--accel", "intrep", "'interp'"])

    def test_accelerator_check_with_two_processors(self):
        self.people("run", "--kernel", F.kernel, "--cpus", "2", "--accel", "bt,check=97",
                    words=["--accel bt", "check", "--cpus 1"])

    def test_processor_model_misspelt(self):
        self.people("run", "--kernel", F.kernel, "--cpu", "Haswel", words=["--cpu", "Haswel", "'Haswell'"])

    def test_device_misspelt(self):
        self.people("run", "--kernel", F.kernel, "--device", "virtio-rgn-pci",
                    words=["--device virtio-rgn-pci", "'virtio-rng-pci'"])

    def test_network_unknown(self):
        self.people("run", "--kernel", F.kernel, "--net", "bridge", words=["--net", "bridge", "user"])

    def test_forward_unreadable(self):
        self.people("run", "--kernel", F.kernel, "--forward", "22", words=["--forward", "22", "2222:22"])

    def test_port_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.people("run", "--kernel", F.kernel, "--forward", f"{port}:22", words=["--forward", f"{port}"])

    def test_log_subject_misspelt(self):
        self.people("run", "--kernel", F.kernel, "--log", "guest_error", words=["--log", "guest_error", "'guest_errors'"])


class Warnings(unittest.TestCase):
    """What starts all the same, and what is told of it."""

    def expect(self, *arguments, words):
        done = run(QEMU, "-kernel", F.leaving_kernel, "-nodefaults", "-display", "none", "-m", "32", "-accel", "bt",
                   "-device", "isa-debug-exit", *arguments)
        shown = f"{' '.join(map(str, arguments))}\nstatus {done.returncode}\n{done.stderr}"
        lines = [line for line in done.stderr.splitlines() if line]
        self.assertEqual((done.returncode, done.stdout, len(lines)), (1, "", 1 if words else 0), shown)
        if words:
            self.assertTrue(lines[0].startswith("ostler: warning: "), shown)
        for word in words:
            self.assertIn(word, lines[0], shown)

    def test_balloon_with_an_iothread(self):
        self.expect("-object", "iothread,id=t", "-device", "virtio-balloon-pci,free-page-hint=on,iothread=t", words=[])

    def test_network_without_card(self):
        self.expect("-netdev", "user,id=n", words=["-netdev user,id=n", "no card", "virtio-net-pci,netdev=n"])
        self.expect("-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n", words=[])
        self.expect("-nic", "user", words=[])
        self.expect("-net", "user", words=["-net user", "-net nic"])

    def test_processors_that_never_come(self):
        self.expect("-smp", "2,maxcpus=4", words=["-smp maxcpus=4", "has 2 vCPUs", "no more", "cpus=4"])
        self.expect("-smp", "1,maxcpus=2", words=["has 1 vCPU and"])
        self.expect("-smp", "1,maxcpus=2", "-accel", "bt,check=97", words=["has 1 vCPU and"])
        self.expect("-smp", "2,maxcpus=2", words=[])

    def test_global_property_of_nothing(self):
        self.expect("-global", "virtio-rng-pci.period=1000", "-global", "virtio-rng-device.max-bytes=1", words=[])
        self.expect("-global", "kvm-pit.lost_tick_policy=delay", words=["-global kvm-pit.lost_tick_policy=delay", "no device 'kvm-pit'"])
        self.expect("-global", "virtio-rng-pci.perod=1", words=["-global virtio-rng-pci.perod=1", "no property 'perod'"])
        self.expect("-global", "virtio-rng-pci.disable-modern=on", "-device", "virtio-rng-pci,disable-modern=off,iommu_platform=on", words=[])


class Helps(unittest.TestCase):
    def expect(self, name, *arguments, words):
        done = run(name, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        for word in words:
            self.assertIn(word, done.stdout)

    def test_help(self):
        for spelling in ("-help", "-h", "--help"):
            self.expect(QEMU, spelling, words=["-kernel", "-drive", "-smp", "-netdev"])

    def test_version(self):
        for spelling in ("-version", "--version"):
            self.expect(QEMU, spelling, words=["Ostler"])

    def test_doctor(self):
        self.expect("ostler", "doctor", words=["Engines", "kvm", "io_uring", "max-map-count"])
        self.expect("ostler", "doctor", "--json", words=['"id":"translator"', '"version":1'])

    def test_models(self):
        self.expect(QEMU, "-cpu", "help", words=["qemu64", "Haswell", "EPYC", "max", "host", "avx2"])

    def test_machines(self):
        for option in ("-machine", "-M"):
            self.expect(QEMU, option, "help", words=["pc", "microvm", "kernel-entry", "pcie"])
            self.expect(QEMU, option, "pc,help", words=["-machine pc options", "hpet=", "usb=<off>", "acpi="])
            self.expect(QEMU, option, "microvm,help", words=["-machine microvm options", "pcie=", "pit=<auto|off>"])

    def test_devices(self):
        self.expect(QEMU, "-device", "help", words=["virtio-blk-pci", "virtio-net-pci-transitional", "virtio-net-device", "isa-debug-exit"])

    def test_properties_of_every_device(self):
        listing = run(QEMU, "-device", "help").stdout
        types = re.findall(r'^name "([^"]+)"', listing, re.MULTILINE)
        self.assertGreater(len(types), 8)
        for one in types:
            for ask in ("help", "?"):
                self.expect(QEMU, "-device", f"{one},{ask}", words=["="])

    def test_objects(self):
        for ask in ("help", "?"):
            self.expect(QEMU, "-object", ask, words=["secret", "iothread", "memory-backend-memfd", "filter-dump"])
            for kind, word in (("ram", "host-nodes="), ("memfd", "hugetlbsize="), ("file", "mem-path=")):
                self.expect(QEMU, "-object", f"memory-backend-{kind},{ask}", words=["size=", "prealloc-threads=", word])
            self.expect(QEMU, "-object", f"iothread,{ask}", words=["docs/disks.md"])

    def test_kinds_of_back_ends(self):
        for ask in ("help", "?"):
            for option in ("-netdev", "-nic", "-net"):
                self.expect(QEMU, option, ask, words=["user ", "tap ", "stream ", "vhost-user "])
            self.expect(QEMU, "-chardev", ask, words=["stdio ", "pty ", "socket ", "ringbuf "])
            for option in ("-nic", "-net"):
                self.expect(QEMU, option, f"{'nic' if option == '-net' else 'user'},model={ask}",
                            words=["virtio-net-pci\n", "virtio-net-device\n"])

    def test_accelerators(self):
        self.expect(QEMU, "-accel", "help", words=["interp", "bt", "auto", "tcg", "cache=", "check=", "perfmap="])

        self.expect(QEMU, "-accel", "kvm,help", words=["-accel kvm options", "dirty-ring-size="])
        self.expect(QEMU, "-accel", "tcg,help", words=["-accel bt options", "tb-size="])

    def test_log_subjects(self):
        self.expect(QEMU, "-d", "help", words=["guest_errors"])

    def test_people_help(self):
        self.expect(PEOPLE, "--help", words=["run", "version"])
        self.expect(PEOPLE, words=["run", "version"])

    def test_people_run_help(self):
        for spelling in ("--help", "-h"):
            self.expect(PEOPLE, "run", spelling, words=["--kernel", "--memory", "--cpus", "--snapshot", "--forward"])

    def test_people_version(self):
        for spelling in ("version", "--version"):
            self.expect(PEOPLE, spelling, words=["Ostler"])


def main():
    global BIN, F, SHOW
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, required=True, help="the folder of the programs")
    parser.add_argument("--show", action="store_true", help="print each sentence, to be read by people")
    parser.add_argument("tests", nargs="*", help="TestCase or TestCase.test_name; all without")
    options = parser.parse_args()
    BIN, SHOW = options.bin.resolve(), options.show
    with tempfile.TemporaryDirectory(prefix="ostler-cli-") as folder:
        F = Files(Path(folder))
        loader = unittest.defaultTestLoader
        here = sys.modules[__name__]
        suite = (loader.loadTestsFromNames(options.tests, here) if options.tests
                 else loader.loadTestsFromModule(here))
        result = unittest.TextTestRunner(verbosity=1).run(suite)
    sys.exit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
