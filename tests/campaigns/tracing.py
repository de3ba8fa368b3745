"""System calls that fail: which, where and how, in the words of strace(1).

Rule: strace sees all threads of the daemon and only the calls on one path; it counts them for each
thread. The daemon has one thread for its database and, while one film is fetched, one for files, so
the n-th call is the same one every time.
"""

import asyncio
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from daemon.rules.filename import name_partial
from tests.stories.harness import PATIENCE_SECONDS

ERRORS: Final = ("ENOSPC", "EIO", "EDQUOT")
CALLS: Final = (
    *("openat", "write", "pwrite64", "fsync", "fdatasync", "ftruncate"),
    *("fallocate", "link", "linkat", "rename", "mkdir"),
)
SYNCS: Final = ("fsync", "fdatasync")
PLACES: Final[Mapping[str, Callable[[Path, str], Path]]] = {
    "partial file": lambda home, task: home / "videos" / ".partial" / name_partial(task),
    "final file": lambda home, task: home / "videos" / f"video_{task}.mp4",
    "videos": lambda home, _: home / "videos",
    "partial folder": lambda home, _: home / "videos" / ".partial",
    "database": lambda home, _: home / "state" / "ledger.sqlite3",
    "log": lambda home, _: home / "state" / "ledger.sqlite3-wal",
    "index": lambda home, _: home / "state" / "ledger.sqlite3-shm",
    "state folder": lambda home, _: home / "state",
    "lock": lambda home, _: home / "state" / "lock",
    "new ballast": lambda home, _: home / "state" / "ballast.new",
}
LEDGER: Final = frozenset({"database", "log"})

Moment = Literal["first start", "next start", "running", "stop"]
"""The next start comes after a kill, with acknowledged callbacks in the log."""
STARTS: Final[tuple[Moment, ...]] = ("first start", "next start")


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """Which call fails, and how."""

    moment: Moment
    place: str
    call: str
    nth: int = 1
    fault: str = "EIO"
    """An error, or "KILL"."""
    lasting: bool = False

    def rule(self) -> str:
        """Return it in the words of strace."""
        how = "signal=KILL" if self.fault == "KILL" else f"error={self.fault}"
        return f"inject={self.call}:{how}:when={self.nth}{'+' if self.lasting else ''}"

    @property
    def ends(self) -> bool:
        """Whether the daemon ends because of it: what a failed sync left cannot be trusted."""
        return self.fault == "KILL" or (self.place in LEDGER and self.call in SYNCS)

    def may_end(self, code: int) -> bool:
        """Say whether the daemon may end with this code."""
        if self.fault == "KILL":
            return code == -signal.SIGKILL
        return code == 1 and (self.moment in STARTS or self.ends)


class Trace:
    """What strace is told, and what it wrote."""

    def __init__(self, home: Path, task_id: str, case: Case | None) -> None:
        self.output = home / f"trace-{task_id}.txt"
        self.errors = home / f"strace-{task_id}.txt"
        self._paths = {name: place(home, task_id) for name, place in PLACES.items()}
        self._case = case

    def command(self) -> list[str]:
        """Return the command line, without what it is to trace."""
        watched = list(self._paths) if self._case is None else [self._case.place]
        calls = ",".join(f"?{call}" for call in CALLS) if self._case is None else self._case.call
        return [
            *("strace", "-f", "-y", "-s", "0", "-o", str(self.output), "-e", f"trace={calls}"),
            *(() if self._case is None else ("-e", self._case.rule())),
            *(part for name in watched for part in ("-P", str(self._paths[name]))),
        ]

    def injected(self) -> int:
        """Return how often the call failed."""
        if not self.output.exists():
            return 0
        return self.output.read_text(errors="replace").count("(INJECTED)")

    def count(self) -> Counter[tuple[str, str]]:
        """Return how often each call was made at each place."""
        found: Counter[tuple[str, str]] = Counter()
        for line in self.output.read_text(errors="replace").splitlines():
            made = re.match(r"\d+ +(\w+)\(", line)
            for name, path in self._paths.items():
                if made and (f'"{path}"' in line or f"<{path}>" in line):
                    found[name, made[1]] += 1
        return found


@asynccontextmanager
async def attached(trace: Trace, pid: int) -> AsyncIterator[None]:
    """Trace a process while the block runs."""
    with trace.errors.open("wb") as errors:
        tracer = subprocess.Popen([*trace.command(), "-p", str(pid)], stderr=errors)  # noqa: ASYNC220, S603 - fixed words
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while "attached" not in (said := trace.errors.read_text()):
            assert tracer.poll() is None and time.monotonic() < until, said  # noqa: PT018
            await asyncio.sleep(0.005)
        yield
    finally:
        # It lets go of the process and ends.
        tracer.terminate()
        await asyncio.to_thread(tracer.wait, PATIENCE_SECONDS)


def can_trace() -> bool:
    """Say whether this process may trace one that runs: Yama may leave that to root."""
    sleeper = subprocess.Popen(["sleep", "60"])  # noqa: S607 - fixed words
    try:
        command = ["strace", "-o", "/dev/null", "-p", str(sleeper.pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - fixed words
        with tracer:
            said = tracer.stderr.readline() if tracer.stderr else ""
            tracer.terminate()
        return "attached" in said
    finally:
        sleeper.kill()
        sleeper.wait()
