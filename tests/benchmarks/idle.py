"""Row `idle`: what a daemon without any work costs, beside servers known for costing little.

Rule: all idle at the same time, and nobody asks them anything before the window is over. Then: how
long a start takes with compiled bytecode and an empty ledger.
"""

import compileall
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import daemon as package
from tests.benchmarks.filehost import MIB
from tests.benchmarks.ours import our_daemon, time_start
from tests.benchmarks.programs import Missing, find, free_port, running
from tests.benchmarks.table import Goal, Row, compare, judge, skip
from tests.benchmarks.usage import cpu_seconds, memory_bytes, proportional_bytes, switches

SETTLE_SECONDS: Final = 30.0
WINDOW_SECONDS: Final = 30.0
STARTS: Final = 7
OURS: Final = "suno-videod"
Figure = tuple[str, Callable[[int], float], str, Goal | None]
_AT_END: Final[tuple[Figure, ...]] = (
    (
        "idle: resident memory",
        lambda pid: memory_bytes(pid, "VmRSS") / MIB,
        "MiB",
        Goal("<=", 60.0, "MiB"),
    ),
    (
        "idle: memory with shared pages in part (PSS)",
        lambda pid: proportional_bytes(pid) / MIB,
        "MiB",
        None,
    ),
)
_OVER_TIME: Final[tuple[Figure, ...]] = (
    ("idle: processor", lambda pid: cpu_seconds(pid) * 100, "% of a core", Goal("<=", 0.2, "%")),
    ("idle: wake-ups a second", switches, "/s", None),
)


def run(folder: Path) -> Iterator[Row]:
    """Let everybody idle, then start often."""
    with ExitStack() as stack:
        pids = {OURS: stack.enter_context(our_daemon(folder / "ours")).process.pid}
        for name, command in (("redis-server", _redis), ("aria2c", _aria2)):
            port = free_port()
            try:
                words = command(folder, port)
            except Missing as missing:
                yield skip(f"idle, against {name}", str(missing))
                continue
            pids[name] = stack.enter_context(running(words, folder, port))
        time.sleep(SETTLE_SECONDS)
        began = time.perf_counter()
        before = {
            (what, name): read(pid) for what, read, *_ in _OVER_TIME for name, pid in pids.items()
        }
        time.sleep(WINDOW_SECONDS)
        seconds = time.perf_counter() - began
        for what, read, unit, goal in (*_AT_END, *_OVER_TIME):
            found = {
                name: (read(pid) - before[what, name]) / seconds
                if (what, name) in before
                else read(pid)
                for name, pid in pids.items()
            }
            ours = found.pop(OURS)
            yield judge(what, [ours], unit, goal)
            for name, value in found.items():
                # A peer that did nothing at all has no ratio.
                if value:
                    yield compare(what, [ours], [value], unit, name)
    compileall.compile_dir(Path(package.__file__).parent, quiet=1)
    starts = [time_start(folder / f"start-{number}") for number in range(STARTS)]
    yield judge(
        f"exec to ready, empty ledger, median of {STARTS}", starts, "s", Goal("<=", 0.6, "s")
    )


def _redis(folder: Path, port: int) -> list[str]:
    options = ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    return [find("redis-server"), "--bind", "127.0.0.1", "--port", str(port), *options]


def _aria2(folder: Path, port: int) -> list[str]:
    options = ["--quiet=true", "--no-conf=true", "--dir", str(folder)]
    return [find("aria2c"), "--enable-rpc", f"--rpc-listen-port={port}", *options]
