"""Rows `limits`: what this machine can do at all, so that the other rows can be held against it.

Rule: each is the plainest loop that does one thing: the kernel's and the library's own speed, and
nobody can be faster with the same means.
"""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.benchmarks.table import Row, judge

MIB: Final = 1 << 20
BLOCK: Final = os.urandom(MIB)
HASHED_MIB: Final = 1_024
WRITTEN_MIB: Final = 512
COPIED_MIB: Final = 2_048
SYNCS: Final = 100
ROUNDS: Final = 3


def run(folder: Path) -> Iterator[Row]:
    """Measure each of them some times."""
    yield judge("limit: SHA-256", _rounds(_hash, HASHED_MIB), "MiB/s")
    path = folder / "written"
    yield judge("limit: write to the page cache", _rounds(_write, WRITTEN_MIB, path), "MiB/s")
    yield judge(
        "limit: write and sync", _rounds(lambda: _write(path, sync=True), WRITTEN_MIB), "MiB/s"
    )
    yield judge("limit: loopback copy, one connection", _rounds(_copy, COPIED_MIB), "MiB/s")
    yield judge("limit: 4 KiB appended and synced", _sync(path), "ms")


def _rounds(act: Callable[..., float], amount_mib: int, *arguments: object) -> list[float]:
    """Return the MiB a second of each round."""
    return [amount_mib / act(*arguments) for _ in range(ROUNDS)]


def _hash() -> float:
    digest, began = hashlib.sha256(), time.perf_counter()
    for _ in range(HASHED_MIB):
        digest.update(BLOCK)
    digest.hexdigest()
    return time.perf_counter() - began


def _write(path: Path, *, sync: bool = False) -> float:
    os.sync()
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(WRITTEN_MIB):
            file.write(BLOCK)
        if sync:
            os.fsync(file.fileno())
    took = time.perf_counter() - began
    path.unlink()
    return took


def _copy() -> float:
    """Send from one thread to another; both leave the interpreter while the kernel copies."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def send() -> None:
            with socket.create_connection(listener.getsockname()) as sender:
                for _ in range(COPIED_MIB):
                    sender.sendall(BLOCK)

        sending = threading.Thread(target=send)
        began = time.perf_counter()
        sending.start()
        receiver, _ = listener.accept()
        with receiver:
            room = bytearray(MIB)
            while receiver.recv_into(room):
                pass
        took = time.perf_counter() - began
        sending.join()
    return took


def _sync(path: Path) -> list[float]:
    """Return the milliseconds of each small append with its sync: a commit is at least one."""
    found = []
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(BLOCK[:4096])
            os.fdatasync(file.fileno())
            found.append((time.perf_counter() - began) * 1000)
    path.unlink()
    return found
