#!/usr/bin/env python3
"""clang-tidy over the C++ sources (those of the tests with --all), shellcheck over the scripts, a syntax check of the Python files.

clang-tidy takes seconds per file, so a file that passed is remembered by a hash of it, of the headers of ours
that its last compilation read and of the settings (in build/lint/), and without --all the rest is checked newest
change first until the time budget is used up. What was left out is said at the end.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REMEMBERED = ROOT / "build/lint"


def tracked(*patterns):
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
                            cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")
    return sorted({name for name in listed if name and (ROOT / name).exists()})


def scripts():
    """Shell scripts by their first line, whatever their name."""
    for name in tracked("dev", "tools", ".ci", "tests/guest", "tests/soak", "bench"):
        with open(ROOT / name, "rb") as file:
            first = file.readline()
        if first.startswith(b"#!") and first.split()[0].endswith((b"bash", b"/sh", b"busybox")):
            yield name
        elif name.startswith("tools/lib/"):
            yield name


def check_scripts():
    failed = 0
    names = list(scripts())
    failed += subprocess.run(["shellcheck", "-x", "--severity=warning", *names], cwd=ROOT, check=False).returncode != 0
    python = tracked("*.py")
    for name in python:
        try:
            compile((ROOT / name).read_text(), name, "exec")
        except SyntaxError as error:
            print(f"{name}:{error.lineno}: {error.msg}")
            failed += 1
    print(f"{len(names)} shell scripts, {len(python)} Python files checked", flush=True)
    return failed


def by_change(names):
    """Uncommitted files first, then in the order of their last commit."""
    order = {}
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for line in changed.stdout.splitlines():
        order.setdefault(line[3:], len(order))
    history = subprocess.run(["git", "log", "--format=", "--name-only", "-n", "500"], cwd=ROOT,
                             stdout=subprocess.PIPE, text=True, check=True)
    for line in history.stdout.splitlines():
        order.setdefault(line, len(order))
    return sorted(names, key=lambda name: order.get(name, len(order)))


class Inputs:
    """What a file's verdict depends on."""

    def __init__(self):
        self.digests = {}
        self.headers = {}  # of ours, by source
        listed = subprocess.run(["ninja", "-C", str(ROOT / "build"), "-t", "deps"], stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True, check=False).stdout
        for one in listed.split("\n\n"):
            if "(VALID)" not in one:
                continue
            paths = [os.path.normpath("build/" + line.strip()) for line in one.splitlines()[1:] if line[4] != "/"]
            if paths:
                self.headers[paths[0]] = sorted(paths[1:])
        self.every_header = tracked("*.h", "*.inc", "*.def")

    def digest_of(self, name):
        if name not in self.digests:
            self.digests[name] = hashlib.sha256((ROOT / name).read_bytes()).digest() if (ROOT / name).exists() else b""
        return self.digests[name]

    def mark(self, name):
        """The file that says that `name` passed. Without a compilation that is up to date it may read any header."""
        digest = hashlib.sha256()
        for part in [name, ".clang-tidy", *self.headers.get(name, self.every_header)]:
            digest.update(part.encode() + b"\0" + self.digest_of(part))
        return REMEMBERED / digest.hexdigest()[:32]


def compile_database():
    """The files of the build, after writing their commands to build/lint without what only GCC understands."""
    entries = json.loads((ROOT / "build/compile_commands.json").read_text())
    for entry in entries:
        entry["command"] = re.sub(r" -fconstexpr-ops-limit=\S+", "", entry["command"]).replace("-std=c++23", "-std=c++2b")
    REMEMBERED.mkdir(parents=True, exist_ok=True)
    (REMEMBERED / "compile_commands.json").write_text(json.dumps(entries))
    return {os.path.relpath(entry["file"], ROOT) for entry in entries}


def check_sources(names, budget):
    database = compile_database()
    inputs = Inputs()
    waiting, passed = [], 0
    for name in by_change([name for name in names if name in database]):
        mark = inputs.mark(name)
        if mark.exists():
            passed += 1
        else:
            waiting.append((name, mark))
    total, failed, left, end = passed + len(waiting), 0, 0, time.monotonic() + budget

    def one(name, mark):
        if time.monotonic() > end:
            return name, mark, None
        done = subprocess.run(["clang-tidy", "-p", str(REMEMBERED), "--quiet", "--extra-arg=-Wno-unknown-warning-option",
                               name], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        return name, mark, done

    done_count = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for future in as_completed([pool.submit(one, *item) for item in waiting]):
            name, mark, done = future.result()
            if done is None:
                left += 1
                continue
            done_count += 1
            if done.returncode:
                failed += 1
                print(done.stdout, end="", flush=True)
                if "error:" not in done.stdout:
                    print(f"{name}: clang-tidy failed:\n{done.stderr}", flush=True)
            else:
                passed += 1
                mark.touch()
            if sys.stderr.isatty():
                print(f"\r\033[K[{done_count}/{len(waiting)}] {name}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(f"clang-tidy: {passed} of {total} files are clean, {failed} have findings", flush=True)
    if left:
        print(f"{left} files with older changes were not checked within {budget:.0f}s; `./dev lint --all` checks them.")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="the tests too, and no time budget")
    parser.add_argument("--budget", type=float, default=150, help="seconds for clang-tidy (default: %(default)s)")
    parser.add_argument("files", nargs="*", help="only these C++ files")
    options = parser.parse_args()
    failed = 0
    if not options.files:
        failed += check_scripts()
    names = [os.path.relpath(name, ROOT) for name in options.files] or tracked(*(["src/*.cpp", "tests/*.cpp"] if options.all else ["src/*.cpp"]))
    failed += check_sources(names, float("inf") if options.all or options.files else options.budget)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
