"""Removable media: the host opens trays and changes what is in them while the guest uses them."""

import hashlib
import subprocess

import control

DRIVERS = "modprobe -a ata_piix sr_mod isofs; until [ -b /dev/sr0 ]; do sleep 0.1; done"


def cd_image(t, name, content):
    """An ISO image with one file."""
    folder, iso = t.scratch.path / name, t.scratch.path / f"{name}.iso"
    folder.mkdir()
    (folder / "file").write_bytes(content)
    subprocess.run(["genisoimage", "-quiet", "-R", "-V", name, "-o", iso, folder], check=True)
    return iso


def mounted_digest(t, console):
    """The SHA-256 of the file on the CD, which stays mounted."""
    t.run(console, "until mount -t iso9660 -o ro /dev/sr0 /mnt 2>/dev/null; do sleep 0.2; done")
    return t.run(console, "sha256sum </mnt/file").split()[0]


def cd_is_changed_while_the_guest_runs(t):
    contents = {name: name.encode() * 700_000 for name in ("one", "second")}
    isos = {name: cd_image(t, name, content) for name, content in contents.items()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    drive = ["-drive", f"if=none,id=cd,media=cdrom,file={isos['one']}", "-device", "ide-cd,id=tray,drive=cd"]
    vmm, machine = control.start(t, t.machine(extra=drive))
    with vmm as running:
        console = t.shell(running)
        t.run(console, DRIVERS)
        t.expect(mounted_digest(t, console) == digests["one"], "the guest reads other bytes than the CD has")
        with t.steps.step("a mounted CD is locked"):
            t.expect(machine.do("media")[0]["locked"], "the guest has not locked the tray")
            t.expect("the guest has locked the tray" in machine.refused("open_tray", id="tray"), "another error")
            t.expect(not machine.do("media")[0]["open"], "the tray is open")
        t.expect(t.run(console, "sha256sum </mnt/file").startswith(digests["one"]), "the refusal disturbed the guest")
        t.run(console, "umount /mnt")
        with t.steps.step("eject, insert, close"):
            machine.do("open_tray", id="tray")
            machine.do("remove", id="tray")
        t.run(console, "echo 0 >/proc/sys/dev/cdrom/autoclose; ! mount -t iso9660 -o ro /dev/sr0 /mnt 2>/dev/null")
        machine.do("add_node", options={"driver": "raw", "node-name": "n", "read-only": True,
                                        "file": {"driver": "file", "filename": str(isos["second"])}})
        machine.do("insert", id="tray", node="n")
        machine.do("close_tray", id="tray")
        t.expect(mounted_digest(t, console) == digests["second"], "the guest does not read the CD that was put in")
        with t.steps.step("change it by force"):
            machine.do("change", id="cd", file=str(isos["one"]), force=True)
        t.run(console, "umount /mnt")
        t.expect(mounted_digest(t, console) == digests["one"], "the guest does not read the CD that came last")
        t.expect(machine.do("media") == [{"device": "tray", "open": False, "locked": True, "inserted": True,
                                          "file": str(isos["one"])}], "the drive is in another state")
        t.run(console, "umount /mnt")
        console.send("poweroff -f\n")
        t.ends(running)


def cd_of_the_short_command_line(t):
    """`ostler run --cdrom` beside a disk."""
    content = b"for people" * 1000
    disk = t.scratch.path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    command = t.command(t.machine(extra=["--cdrom", cd_image(t, "cd", content), "--disk", disk]),
                        program=t.people())
    with t.start_command(command) as running:
        console = t.shell(running)
        t.run(console, DRIVERS)
        t.expect(mounted_digest(t, console) == hashlib.sha256(content).hexdigest(), "the guest reads other bytes than the CD has")
        t.expect(t.run(console, "cat /sys/class/block/vda/size") == "2048", "the disk is not there")
