"""A real gdb on a booting and on a running guest."""

import re
import socket
import subprocess
from pathlib import Path

GDB_SECONDS = 300


def _port(t):
    return t.scratch.path / "gdb.sock"


def _machine(t, paused=False, **settings):
    own_words = Path(t.program).name == "ostler"
    options = ["--gdb" if own_words else "-gdb", f"unix:{_port(t)}"]
    if paused:
        options.append("--paused" if own_words else "-S")
    return t.machine(append="nokaslr", extra=options, **settings)


def _gdb(t, name, *commands):
    """Runs gdb to its end; returns what it printed. `commands` come after the connection."""
    script = ["set pagination off", "set confirm off", "set architecture i386:x86-64", f"target remote {_port(t)}",
              *commands]
    with t.steps.step(f"gdb: {name}"):
        done = subprocess.run(["gdb", "-nx", "-batch", *(word for line in script for word in ("-ex", line))],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=GDB_SECONDS)
        t.expect(done.returncode == 0, f"gdb failed:\n{done.stdout}")
    return done.stdout


def _value(t, text, name):
    found = re.search(rf"^{name}=(\S+)$", text, re.MULTILINE)
    t.expect(found, f"gdb printed no {name}:\n{text}")
    return int(found[1], 0)


def _symbols(t, console, *names):
    """The addresses of kernel symbols, in the order of their names."""
    found = t.run(console, f"grep -E ' ({'|'.join(names)})$' /proc/kallsyms")
    table = {line.split()[2]: int(line.split()[0], 16) for line in found.splitlines()}
    return [table[name] for name in names]


def debugger_from_the_first_instruction(t):
    with t.start(_machine(t, paused=True)) as running:
        said = _gdb(t, "first instructions",
                    'printf "start=%#lx\\n", $pc', 'printf "cr0=%#lx\\n", $cr0', "x/4i $pc",
                    "stepi", 'printf "after=%#lx\\n", $pc',
                    # An instruction ahead, found by looking at the code.
                    "stepi", "stepi", "set $ahead = $pc", "monitor reset", "maintenance flush register-cache",
                    'printf "again=%#lx\\n", $pc',
                    "break *$ahead", "continue", 'printf "there=%d\\n", $pc == $ahead',
                    "delete", "detach")
        start = _value(t, said, "start")
        t.expect(_value(t, said, "cr0") & 0x80000001 == 1, "a PVH kernel begins in protected mode without paging")
        t.expect(start < _value(t, said, "after") < start + 16, "a step is one instruction")
        t.expect(_value(t, said, "again") == start, "a reset does not lead back to the first instruction")
        t.expect(_value(t, said, "there") == 1, "the breakpoint was not met")
        t.shell(running)


def debugger_on_a_running_kernel(t):
    _look_and_change(t, "interp")


def debugger_of_translated_code(t):
    """The translator steps aside while a debugger wants something of a vCPU."""
    _look_and_change(t, "bt")


def _look_and_change(t, accel):
    with t.start(_machine(t, cpus=2, accel=accel)) as running:
        console = t.shell(running)
        t.run(console, "echo 0 >/proc/sys/kernel/kptr_restrict")
        uname, tick, jiffies, banner = _symbols(t, console, "__do_sys_newuname", "update_process_times", "jiffies_64",
                                                "linux_banner")

        said = _gdb(t, "look around", "info threads", f"x/s {banner:#x}", 'printf "cr0=%#lx\\n", $cr0',
                    'printf "efer=%#lx\\n", $efer', "x/gx 0x800000000000", "detach")
        t.expect(said.count("Thread 1.") >= 2, f"two processors are two threads:\n{said}")
        t.expect("Linux version" in said, f"memory is not what the kernel has there:\n{said}")
        t.expect(_value(t, said, "cr0") & 0x80000001 == 0x80000001, "a running kernel has paging on")
        t.expect("Cannot access memory" in said, f"an address that is none was read:\n{said}")
        t.run(console, "true")

        for kind in ("break", "hbreak"):
            # While gdb waits at the breakpoint, so does this command.
            console.send("sleep 0.3; uname -r >/tmp/release\n")
            said = _gdb(t, f"{kind} in the kernel", f"{kind} *{uname:#x}", "continue",
                        f'printf "there=%d\\n", $pc == {uname:#x}', 'printf "cpl=%d\\n", $cs & 3', "info threads",
                        "stepi", f'printf "stepped=%d\\n", $pc != {uname:#x}', "delete", "detach")
            t.expect(_value(t, said, "there") == 1, f"gdb stopped elsewhere:\n{said}")
            t.expect(_value(t, said, "cpl") == 0, "the kernel runs at privilege level 0")
            t.expect(_value(t, said, "stepped") == 1, "the step did not move")
            t.run(console, "test -s /tmp/release; rm /tmp/release")

        # gdb goes on from a breakpoint by a step without it; both processors come by.
        said = _gdb(t, "many times at a breakpoint", f"break *{tick:#x}", "ignore 1 30", "continue", "info breakpoints",
                    "set scheduler-locking on", "stepi", f'printf "stepped=%d\\n", $pc != {tick:#x}',
                    "set scheduler-locking off", "delete", "detach")
        t.expect("already hit 31 times" in said, f"the breakpoint was not met 31 times:\n{said}")
        t.expect(_value(t, said, "stepped") == 1, "the step did not move")

        said = _gdb(t, "a watchpoint", f"watch *(long *){jiffies:#x}", "continue", "continue",
                    f'printf "jiffies=%#lx\\n", *(long *){jiffies:#x}', "delete", "detach")
        old_new = re.findall(r"^(?:Old|New) value = (\d+)$", said, re.MULTILINE)
        t.expect(len(old_new) == 4, f"two changes were expected:\n{said}")
        t.expect(old_new[1] == old_new[2] and int(old_new[0]) < int(old_new[1]) < int(old_new[3]),
                 f"a tick was missed, or none:\n{said}")

        said = _gdb(t, "write", f"set var *(char *){banner:#x} = 'l'", f"x/s {banner:#x}",
                    f"set var *(char *){banner:#x} = 'L'", "set $rax = $rax", "detach")
        t.expect("linux version" in said, f"what was written is not there:\n{said}")
        t.expect(t.run(console, "nproc") == "2", "both processors go on")


def debugger_that_goes_away(t):
    with t.start(_machine(t, cpus=2)) as running:
        console = t.shell(running)
        for sent in (b"", b"$m0", b"$Z0,ffffffff81000000,1#", b"$vCont;c#a8", b"\x03\x03$", b"+" * 100):
            with t.steps.step(f"a client that leaves after {sent[:20]!r}"), \
                    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(str(_port(t)))
                client.sendall(sent)
            t.expect(t.run(console, "echo $((6 * 7))") == "42", "the guest goes on")
