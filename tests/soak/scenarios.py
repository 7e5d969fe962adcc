"""The scenarios of `./dev soak`. Each takes a Context (run.py) and raises Failed."""

import re
import subprocess
from pathlib import Path

from guestlib.steps import Failed
from powercut import JOBS, powercut

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND_SECONDS = 300
COMPILE_SECONDS = 4 * 3600      # an interpreter
SPREAD = 20                     # how much longer than asked a stressor may take to end

# stress-ng's options per step; {n} workers each.
STRESSORS = {
    "cpu": "--cpu {n} --cpu-method all",
    "vm": "--vm {n} --vm-bytes 200M --vm-method all",
    "matrix": "--matrix {n} --matrix-size 64",
    "string": "--str {n} --wcs {n}",
    "atomic": "--atomic {n}",
    "fork": "--fork {n} --vfork {n}",
    "switch": "--switch {n}",
    "futex": "--futex {n}",
    "signal": "--signal {n} --sigfpe {n} --sigsegv {n} --sigq {n} --signest {n}",
    "memory": "--mmap {n} --mmap-bytes 64M --mremap {n} --mremap-bytes 16M",
    "several": "--cpu 2 --vm 1 --vm-bytes 64M --atomic 2 --fork 1 --switch 2 --futex 2 --signal 1",
}


def stress(context):
    """Each class of stressors in turn for its share of the time; stress-ng verifies its own results."""
    seconds = max(5, int(context.options.minutes * 60 / len(STRESSORS)))
    with context.boot() as runner:
        for name, words in STRESSORS.items():
            words = words.format(n=context.options.cpus)
            with context.steps.step(f"stress {name} for {seconds}s") as note:
                status, output = runner.shell(
                    f"cd /tmp && stress-ng --temp-path /tmp --verify --metrics-brief --timeout {seconds} {words} 2>&1",
                    seconds * SPREAD + COMMAND_SECONDS)
                if status or re.search(r"\bfail(ed|ure)?:|unsuccessful run", output):
                    raise Failed(f"stress-ng {words} ended with status {status}:\n{output}")
                note += [f"{m[1]} {m[2]}" for m in re.finditer(r"metrc: \[\d+\] (\w+)\s+(\d+) ", output)]
                context.no_kernel_messages(runner)


SOURCES = ("base", "state", "x86")
COMPILE = ("mkdir -p /tmp/c && cd /tmp/c && tar xf {tar} && make -s -f tests/soak/program.mk -j{jobs} >make.log 2>&1 || "
           "{{ tail -20 /tmp/c/make.log; exit 1; }}; cd /tmp/c/out && sha256sum *.o && ./program 300000")


def compile_program(context):
    """Our own decoder is compiled in the guest and run there; objects and output must be those of a native run."""
    archive = context.scratch.path / "sources.tar"
    names = [f"src/{name}" for name in SOURCES] + ["tests/soak"]
    subprocess.run(["tar", "--format=ustar", "-cf", archive, *names], cwd=ROOT, check=True)
    with context.steps.step("compile and run natively") as note, context.native(share=context.scratch.path) as runner:
        status, expected = runner.shell(COMPILE.format(tar="/mnt/sources.tar", jobs=2), COMPILE_SECONDS)
        note.append(f"{len(expected.splitlines())} lines to compare")
        if status:
            raise Failed(f"status {status} natively:\n{expected}")
    drive = ["-drive", f"file={archive},format=raw,if=virtio,readonly=on"]
    with context.boot(memory="3G", extra=drive) as runner:
        with context.steps.step("compile and run in the guest"):
            status, seen = runner.shell(COMPILE.format(tar="/dev/vdb", jobs=context.options.cpus), COMPILE_SECONDS)
            if status:
                raise Failed(f"status {status}:\n{seen}")
            different = set(seen.splitlines()) ^ set(expected.splitlines())
            if different:
                raise Failed("these lines are not in both results:\n" + "\n".join(sorted(different)))
        context.no_kernel_messages(runner)


PYTHON_TESTS = ("array bigmem binascii bz2 cmath complex csv decimal deque dict enum float fractions generators "
                "hash hashlib heapq int json list long lzma marshal math memoryview pickle queue random re set sort "
                "statistics string struct subprocess threading tuple unicode zlib").split()


def python_suite(context):
    """Tests of Python's own suite; those that fail must be those that fail natively."""
    # One test deletes files of Python's own, which the guest has on a file system that cannot be written.
    command = (f"cd /tmp && python3 -m test -j{{jobs}} --timeout 7200 -i test_unpickle_module_race {' '.join('test_' + t for t in PYTHON_TESTS)} "
               ">python.log 2>&1; sed -n '/tests\\? OK\\.$/p; / failed:$/,/^$/p; / skipped:$/,/^$/p; /altered/,/^$/p' "
               "python.log; grep -E '^(FAIL|ERROR):' python.log | sort")
    with context.steps.step("natively") as note, context.native() as runner:
        _, expected = runner.shell(command.format(jobs=2), COMPILE_SECONDS)
        note.append(expected.split("\n")[0])
    with context.boot() as runner:
        with context.steps.step("in the guest") as note:
            _, seen = runner.shell(command.format(jobs=context.options.cpus), COMPILE_SECONDS)
            note.append(seen.split("\n")[0])
            if seen != expected:
                _, log = runner.shell("tail -c 3000 /tmp/python.log", COMMAND_SECONDS)
                raise Failed(f"expected:\n{expected}\nseen:\n{seen}\nend of the log:\n{log}")
        context.no_kernel_messages(runner)


ALL = {"stress": stress, "compile": compile_program, "python": python_suite, "powercut": powercut}
