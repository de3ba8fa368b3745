"""What the tests of the child launcher share: hostile programs, and a look at what is left of them.

Rule: every program lies in a folder of its test, so whoever is left is found by that name, wherever
it hid; and every one ends by itself after a while, should the launcher fail.
"""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon import child
from daemon.child import Ended, run_child
from daemon.launcher import _scan_children

ROOT = Path(__file__).parent.parent.parent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run as another user")

HELD = """
import os, signal, sys, time
signal.alarm(60)

def mark(name):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), "a") as file:
        file.write(f"{os.getpid()}\\n")
"""
"""How every program begins."""

LINGER = """
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
mark("lingers")
while True:
    time.sleep(60)
"""
"""How a program goes on that will not leave; it holds its output open."""

ESCAPED = f"""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        {LINGER.strip().replace(chr(10), chr(10) + "        ")}
    os._exit(0)
os.wait()
while not os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lingers")):
    time.sleep(0.001)
"""
"""A program that leaves a daemon behind: orphaned, in a session of its own, deaf to SIGTERM."""


def program(folder: Path, text: str, name: str = "program.py") -> list[str]:
    """Write a program; return how to call it."""
    file = folder / name
    file.write_text(HELD + text, encoding="utf-8")
    return [sys.executable, "-I", "-S", str(file)]


async def run(argv: list[str], folder: Path, **wanted: object) -> Ended:
    """Run a program as most tests want it: 20 s at most, and little grace."""
    options = {"environment": {}, "directory": folder, "seconds": 20.0, "grace_seconds": 0.3}
    return await run_child(argv, **(options | wanted))  # type: ignore[arg-type]


def survivors(folder: Path) -> list[int]:
    """Return the processes that were started with something of a folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if bytes(folder) in command:
                found.append(int(process.name))
    return found


def launchers() -> list[int]:
    """Return the launchers that are children of this process, dead ones too."""
    found = []
    for pid in _scan_children(os.getpid()):
        try:
            status = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if not status or bytes(child.LAUNCHER) in status:
            found.append(pid)
    return found


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def until(condition: Callable[[], object], seconds: float = 20.0) -> float:
    """Wait until something is the case; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it never came"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


@dataclass(frozen=True)
class Outsider:
    """A user who owns nothing, and a folder with a Python and a launcher that everybody can run."""

    uid: int
    folder: Path
    python: Path

    def run(self, text: str, seconds: float = 60.0) -> str:
        """Run a piece of Python as this user, with all of `daemon.child` at hand."""
        with self.start(text) as process:
            try:
                said, _ = process.communicate(timeout=seconds)
            finally:
                process.kill()
        assert process.returncode == 0, said
        return said

    def start(self, text: str) -> "subprocess.Popen[str]":
        """Start it, with both streams in one pipe."""
        script = self.folder / "script.py"
        # The copy cannot start without its wrapper, and that is what the launcher is started by.
        start = f"""
            import asyncio, ctypes, json, os, sys
            sys.executable = {str(self.python)!r}
            sys.path.insert(0, {str(self.folder)!r})
            from pathlib import Path
            from daemon.child import *
            from daemon.process import protect_memory
        """
        script.write_text("\n".join(map(str.strip, start.splitlines())) + "\n" + text)
        return subprocess.Popen(  # noqa: S603 - our own program
            [self.python, "-I", "-S", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=self.uid,
            group=self.uid,
            extra_groups=[],
            cwd=self.folder,
            env={},
        )

    def tasks(self) -> int:
        """Return how many tasks this user has, dead ones included."""
        count = 0
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                try:
                    lines = (process / "status").read_text().splitlines()
                except OSError:
                    continue
                told = dict(line.split(":", 1) for line in lines if ":" in line)
                if told["Uid"].split()[0] == str(self.uid):
                    count += int(told["Threads"])
        return count


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


@contextmanager
def outsider() -> Iterator[Outsider]:
    """Make such a user, whose id nobody else has, and such a folder; end both."""
    uid = 30_000 + os.getpid() % 20_000
    folder = Path(tempfile.mkdtemp(prefix="outsider-"))
    try:
        folder.chmod(0o755)
        library = Path(sysconfig.get_path("stdlib"))
        big = ("test", "tests", "site-packages", "idlelib", "ensurepip", "tkinter", "dist-packages")
        copied = folder / "python" / "lib" / library.name
        shutil.copytree(library, copied, copy_function=_link, ignore=shutil.ignore_patterns(*big))
        binary = folder / "python" / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        binary.parent.mkdir()
        shutil.copy2(Path(sys.executable).resolve(), binary)
        for shared in library.parent.glob("libpython*.so*"):
            _link(str(shared), str(copied.parent / shared.name))
        (folder / "daemon").mkdir()
        for name in ("__init__", "child", "launcher", "process"):
            shutil.copy2(ROOT / "daemon" / f"{name}.py", folder / "daemon")
        python = folder / "python.sh"
        python.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={copied.parent} exec {binary} "$@"\n')
        python.chmod(0o755)
        for path in (folder / "daemon", *(folder / "daemon").iterdir()):
            path.chmod(path.stat().st_mode | stat.S_IROTH | (stat.S_IXOTH * path.is_dir()))
        own = folder / "own"
        own.mkdir()
        os.chown(own, uid, uid)
        yield Outsider(uid, folder, python)
    finally:
        shutil.rmtree(folder)
