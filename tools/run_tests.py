#!/usr/bin/env python3
"""Runs the unit tests (ctest) and the guest tests (tests/guest/); `./dev test` calls it after building.

The last line counts both: `N passed, N failed`. Exit status 1 when a test failed, or when none ran.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from guestlib import guests  # noqa: E402


def unit_tests(folder, name_filter):
    """(passed, failed) of ctest below a folder of the build, whose output goes through."""
    command = ["ctest", "--test-dir", str(folder), "--output-on-failure", "--progress", "-j", str(os.cpu_count())]
    if name_filter:
        command += ["-R", name_filter]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")
    passed = failed = 0
    for line in process.stdout:
        print(line, end="", flush=True)
        if match := re.match(r"\d+% tests passed, (\d+) tests failed out of (\d+)", line):
            failed, passed = int(match[1]), int(match[2]) - int(match[1])
    if process.wait() and not failed:
        failed = 1  # ctest itself went wrong
    return passed, failed


def guest_tests(build, name_filter):
    """(passed, failed) of tests/guest/suite.txt, each test in a process of its own."""
    program = build / "bin/ostler-system-x86_64"
    if not program.exists():
        print(f"\nGuest tests: there is no {program.relative_to(ROOT)}; ./dev build makes it.")
        return 0, 1
    names = [line.split()[0] for line in (ROOT / "tests/guest/suite.txt").read_text().splitlines()
             if line.strip() and not line.startswith("#")]
    names = [name for name in names if not name_filter or re.search(name_filter, name)]
    if not names:
        return 0, 0
    print("\nGuest tests", flush=True)
    guests.prepare()  # once, before they run side by side

    def one(name):
        begin = time.monotonic()
        done = subprocess.run([ROOT / "tests/guest/run.py", name, "--program", str(program)], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", check=False)
        return name, done, time.monotonic() - begin

    passed = failed = 0
    with ThreadPoolExecutor(max(1, os.cpu_count() // 2)) as pool:
        for future in as_completed([pool.submit(one, name) for name in names]):
            name, done, seconds = future.result()
            print(f"{'FAILED' if done.returncode else 'passed'}  {seconds:7.1f}s  {name}", flush=True)
            if done.returncode:
                failed += 1
                print("".join(f"    {line}\n" for line in done.stdout.splitlines()), end="", flush=True)
            else:
                passed += 1
    return passed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="build folder (default: %(default)s)")
    parser.add_argument("--unit", action="store_true", help="run the unit tests")
    parser.add_argument("--guest", action="store_true", help="run the guest tests")
    parser.add_argument("--filter", help="only tests whose name matches this regular expression")
    parser.add_argument("folders", nargs="*", help="only unit tests of these folders, such as tests/unit/block")
    options = parser.parse_args()
    build = (ROOT / options.build).resolve()
    passed = failed = 0
    suites = [(unit_tests, build / folder) for folder in options.folders or ["."]] if options.unit else []
    if options.guest:
        suites.append((guest_tests, build))
    for suite, folder in suites:
        more_passed, more_failed = suite(folder, options.filter)
        passed, failed = passed + more_passed, failed + more_failed
    print(f"\n{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
