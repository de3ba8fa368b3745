"""The programs that the daemon is measured against: where they are, and how they start and end.

Rule: a program that is missing costs its own rows and nothing else. Every child is ended by its own
id, and listens on loopback alone.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from daemon.config import environment
from tests.benchmarks.table import Row, skip

PACKAGES: Final[dict[str, str]] = {
    "aria2c": "needs the package aria2",
    "curl": "needs the package curl",
    "wget": "needs the package wget",
    "webhook": "needs the package webhook",
    "gunicorn": "needs the package gunicorn",
    "flask": "needs the package python3-flask",
    "node": "needs the package nodejs",
    "express": "needs the package node-express",
    "redis-server": "needs the package redis-server",
    "nginx": "needs the package nginx",
    "strace": "needs the package strace",
}
"""Program, or folder of a library -> what to tell who lacks it."""
_LIBRARIES: Final[Mapping[str, Path]] = {
    "flask": Path("/usr/lib/python3/dist-packages/flask"),
    "express": Path("/usr/share/nodejs/express"),
}
SECONDS: Final = 20.0
"""How long a program may take to start."""
LONGEST_SECONDS: Final = 80.0
"""How long a command may run."""


class Missing(Exception):
    """A program is not on this machine; the text says what to install."""


def find(name: str) -> str:
    """Return the path of a program or library.

    Raises:
        Missing: it is not here.
    """
    library = _LIBRARIES.get(name)
    if library is not None and library.is_dir():
        return str(library)
    # Servers stand where an ordinary user does not look.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(PACKAGES[name])
    return found


def lacks(*names: str, what: str) -> Row | None:
    """Return the row that says what is missing, or None."""
    try:
        for name in names:
            find(name)
    except Missing as missing:
        return skip(what, str(missing))
    return None


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def running(
    command: Sequence[str], folder: Path, port: int | None, **environ: str
) -> Iterator[int]:
    """Run a program until it listens on `port` of loopback; yield its process id."""
    name = Path(command[0]).name
    said = folder / f"{name}.said.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - programs of the distribution, and our own
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**environment(), **environ},
        )
    try:
        until = time.monotonic() + SECONDS
        while port is not None:
            assert process.poll() is None, f"{name} ended: {said.read_text(errors='replace')}"
            assert time.monotonic() < until, f"{name} does not listen"
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def took(*command: str, **environ: str) -> float:
    """Run a command to its end and return the seconds.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    began = time.perf_counter()
    subprocess.run(  # noqa: S603 - programs of the distribution
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=LONGEST_SECONDS,
        env={**environment(), **environ},
    )
    return time.perf_counter() - began
