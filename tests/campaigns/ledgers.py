"""Ledgers as a killed daemon leaves them, with a note of everything that it had acknowledged.

Rule: what counts as acknowledged is what the store returned after its commit, written down by the
child that then dies; the parent never guesses. The same kind and seed leave the same rows.

    python -m tests.campaigns.ledgers STATE_DIR KIND SEED
"""

import asyncio
import json
import random
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.backup import back_up
from daemon.rules.failure import Reason
from daemon.rules.lifecycle import Cause
from daemon.rules.task import Tidings
from daemon.store import Store, open_store

START: Final = 1_790_000_000_000
WEEK: Final = 7 * 86_400_000
BATCH: Final = 20
TWICE: Final = 0.2
"""The share of callbacks that come a second time."""
ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a ledger came to be."""

    tasks: int
    message_chars: int = 40
    folds: bool = False
    """Whether the log is folded into the file on the way, so that a second one begins."""
    half: float = 0.5
    """The share of tasks that comes before that, and before the older copy."""
    killed: bool = True


KINDS: Final[Mapping[str, Kind]] = {
    "few": Kind(5),
    "hundreds": Kind(300),
    "second log": Kind(300, folds=True, half=0.8),
    "large": Kind(2_400, 1_900, folds=True),
    "closed": Kind(300, killed=False),
}
Rows = Mapping[str, tuple[str, int]]
"""State and count of callbacks by task id."""


@dataclass(slots=True)
class Left:
    """What a daemon left: the state folder, the half-way copy of it, and a backup."""

    kind: str
    state: Path
    older: Path
    backup: Path
    acknowledged: dict[str, tuple[str, int]] = field(default_factory=dict)
    half_way: dict[str, tuple[str, int]] = field(default_factory=dict)
    """What had been acknowledged when `older` was copied."""


async def leave(folder: Path, kind: str, seed: int) -> Left:
    """Let a child fill a ledger, copy it on the way, back it up at the end, and kill the child."""
    await asyncio.to_thread(folder.mkdir)
    left = Left(kind, folder / "state", folder / "older", folder / "backup.sqlite3")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.campaigns.ledgers", left.state, kind, str(seed)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        await _hear(child, left.acknowledged)
        left.half_way = dict(left.acknowledged)
        shutil.copytree(left.state, left.older)
        _say(child, "go on")
        await _hear(child, left.acknowledged)
        await asyncio.to_thread(back_up, left.state, left.backup)
        if KINDS[kind].killed:
            child.kill()
        else:
            _say(child, "close")
        ended = await child.wait()
        assert ended == (-9 if KINDS[kind].killed else 0)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return left


def _say(child: asyncio.subprocess.Process, word: str) -> None:
    assert child.stdin
    child.stdin.write(f"{word}\n".encode())


async def _hear(
    child: asyncio.subprocess.Process, acknowledged: dict[str, tuple[str, int]]
) -> None:
    """Note what the child acknowledges, until it waits for a word."""
    assert child.stdout
    while True:
        line = await child.stdout.readline()
        assert line, "the child ended too early"
        said = json.loads(line)
        if said == "waiting":
            return
        acknowledged |= {task_id: (state, count) for task_id, state, count in said}


async def _fill(state: Path, kind: Kind, luck: random.Random) -> None:
    """Commit callbacks, a batch at a time, and say of each batch what is on the disk."""
    async with open_store(state) as store:
        half = int(kind.tasks * kind.half)
        await _receive(store, range(half), kind, luck)
        _wait()
        if kind.folds:
            await store.tidy()
        await _receive(store, range(half, kind.tasks), kind, luck)
        _wait()


def _wait() -> None:
    print(json.dumps("waiting"), flush=True)  # noqa: T201 - that is how it speaks
    sys.stdin.readline()


async def _receive(store: Store, numbers: range, kind: Kind, luck: random.Random) -> None:
    for first in range(numbers.start, numbers.stop, BATCH):
        batch = [
            _make(number, kind, luck) for number in range(first, min(first + BATCH, numbers.stop))
        ]
        rows = await store.receive(batch)
        rows += await store.receive([tidings for tidings in batch if luck.random() < TWICE])
        said = [(row.task_id, row.state, row.callbacks) for row in rows]
        print(json.dumps(said), flush=True)  # noqa: T201 - likewise


def _make(number: int, kind: Kind, luck: random.Random) -> Tidings:
    task_id = f"{luck.getrandbits(64):016x}-{number}"
    at = START + number
    match luck.choice((Cause.LINKED, Cause.DECLINED, Cause.HINTED)):
        case Cause.LINKED:
            link = f"https://files.example.com/{task_id}.mp4"
            return Tidings(
                task_id=task_id, cause=Cause.LINKED, now=at, deadline_at=at + WEEK, ask_at=None,
                link=link,
            )  # fmt: skip
        case Cause.DECLINED:
            message = "x" * kind.message_chars
            return Tidings(
                task_id=task_id, cause=Cause.DECLINED, now=at, deadline_at=at + WEEK, ask_at=None,
                reason=Reason.PROVIDER_ERROR, message=message, code=500,
            )  # fmt: skip
        case cause:
            hint = f"https://files.example.com/{'h' * kind.message_chars}.mp4"
            return Tidings(
                task_id=task_id, cause=cause, now=at, deadline_at=at + WEEK, ask_at=at, hint=hint
            )


if __name__ == "__main__":
    asyncio.run(_fill(Path(sys.argv[1]), KINDS[sys.argv[2]], random.Random(int(sys.argv[3]))))
