"""Damages one thing in a state folder again and again, and starts on what is left.

Rule: a damaged ledger is refused with the way out, twice and unchanged; or the check beside the
work finds the damage and the next start refuses it; or it opens with every acknowledged callback in
it, with the right id, state and count. It never opens with something acknowledged missing. A backup
takes the place of every ledger that was refused, as the README says, and everything in it is asked
about again.

What nobody can find: the main file has no checksums, so a byte in a column that no index holds
(`callbacks`, `message`) is believed; the older copy of a ledger that was closed is a ledger that
was closed; a log and its index put back together are a log and its index; without both `lock` and
log nothing says that there was one. The first two happen here and are counted, the others are no
single damage.

    python -m tests.campaigns.damage --size 500 --seed 1
"""

import asyncio
import random
import re
import shutil
import sqlite3  # noqa: TID251 - a ledger is looked at from outside
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.disk import Disk
from daemon.inspection import is_large, read_only
from daemon.lock import StoreRefused
from daemon.restore import take_over
from daemon.rules.lifecycle import State
from daemon.rules.schedule import Pace
from daemon.rules.verdict import Terms
from daemon.soundness import check_soundness
from daemon.store import Store, StoreFailed, open_store
from tests.campaigns.campaign import PromiseBroken, command
from tests.campaigns.harms import HARMS, INDEX, LEDGER, Harm
from tests.campaigns.ledgers import KINDS, ROOT, START, WEEK, Left, Rows, leave

CHECK_SECONDS: Final = 30.0
WAYS_OUT: Final = re.compile(r"Backup and restore|install the newer version|remove \S+lock")
NOW: Final = START + WEEK // 2
TERMS: Final = Terms(
    pace=Pace(first_after_ms=180_000, interval_ms=30_000, limit_ms=21_600_000),
    retry_first_ms=1,
    retry_limit_ms=2,
    has_key=True,
)


class _FoundLater(Exception):
    """The check beside the work found the damage; the text says which."""


@dataclass(slots=True)
class Tally:
    """What was damaged, and what came of it."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """`refused`, `found later`, `harmless` and `undetectable`."""
    harms: Counter[str] = field(default_factory=Counter)
    by_harm: Counter[tuple[str, str]] = field(default_factory=Counter)
    large: int = 0
    restored: int = 0
    asked_again: int = 0


async def run_campaign(folder: Path, size: int, seed: int) -> Tally:
    """Damage a ledger `size` times and return the count of what came of it.

    Raises:
        PromiseBroken: with the seed that shows it.
    """
    luck, tally = random.Random(seed), Tally()
    lefts = [
        await leave(folder / f"ledger-{number}", kind, luck.getrandbits(32))
        for number, kind in enumerate(KINDS)
    ]
    for number in range(size):
        left = lefts[number % len(lefts)]
        case = folder / "case"
        shutil.copytree(left.state, case)
        harm = luck.choice(HARMS)
        told = harm.do(case, left, luck)
        try:
            outcome = await _try(case, left, harm)
            if outcome in {"refused", "found later"}:
                await _restore(case, left, tally)
        except AssertionError as broken:
            raise PromiseBroken(
                f"seed {seed}, case {number}: {left.kind} ledger, {told}: {broken}"
            ) from broken
        tally.outcomes[outcome] += 1
        tally.harms[harm.name] += 1
        tally.by_harm[f"{harm.name} {harm.file}", outcome] += 1
        tally.large += left.kind == "large"
        shutil.rmtree(case)
    return tally


async def _try(state: Path, left: Left, harm: Harm) -> str:
    """Start twice on a damaged ledger; return what came of it."""
    outcomes, before = [], _contents(state)
    for _ in range(2):
        try:
            rows = await _start(state)
        except StoreRefused as refusal:
            if not WAYS_OUT.search(str(refusal)):
                raise PromiseBroken(f"refused without the way out: {refusal}") from refusal
            outcomes.append("refused")
        except _FoundLater:
            outcomes.append("found later")
        except (StoreFailed, sqlite3.Error, OSError, ValueError) as failure:
            raise PromiseBroken(f"ended at the start without the way out: {failure}") from failure
        else:
            outcomes.append(_compare(rows, left, harm))
    match outcomes:
        case ["refused", "refused"]:
            if changed := _changed(before, _contents(state)):
                raise PromiseBroken(f"refused, and changed all the same: {changed}")
            return "refused"
        case ["found later", "refused"]:
            return "found later"
        case [first, second] if first == second:
            return first
    raise PromiseBroken(f"the second start thinks otherwise: {outcomes}")


async def _start(state: Path) -> Rows:
    """Open the ledger as a daemon does and return all of it.

    Raises:
        StoreRefused: it was not opened.
        _FoundLater: it was, and is damaged.
    """
    async with open_store(state) as store:
        try:
            await _check_beside(state)
            return await _read(store)
        except StoreFailed as failure:
            if not failure.fatal:
                raise PromiseBroken(f"neither damaged nor whole: {failure}") from failure
            raise _FoundLater(str(failure)) from failure


async def _read(store: Store) -> Rows:
    tasks = await store.tasks(limit=1_000_000)
    return {task.task_id: (task.state, task.callbacks) for task in tasks}


async def _check_beside(state: Path) -> None:
    """Check a large ledger as it is checked beside the work.

    Raises:
        StoreFailed: it is damaged.
    """
    if not is_large(state / LEDGER):
        return
    sound = _is_sound(state / LEDGER)
    checking = asyncio.create_task(check_soundness(state))
    done, _ = await asyncio.wait({checking}, timeout=0.02 if sound else CHECK_SECONDS)
    checking.cancel()
    if not done:
        with suppress(asyncio.CancelledError):
            await checking
        if not sound:
            raise PromiseBroken("the check beside the work has not found what SQLite finds")
        return
    await checking


def _is_sound(path: Path) -> bool:
    """Ask SQLite itself."""
    try:
        with closing(read_only(path)) as connection:
            found: list[tuple[str]] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    except sqlite3.DatabaseError:
        return False
    return found == [("ok",)]


def _compare(rows: Rows, left: Left, harm: Harm) -> str:
    """Compare a ledger that was opened with what was acknowledged."""
    if rows == left.acknowledged:
        return "harmless"
    older = harm.puts_back and harm.file == LEDGER
    if left.kind == "closed" and older and rows.items() <= left.half_way.items():
        return "undetectable"
    states = {task_id: state for task_id, (state, _) in rows.items()}
    if harm.file == LEDGER and states == {
        task_id: state for task_id, (state, _) in left.acknowledged.items()
    }:
        return "undetectable"
    missing = left.acknowledged.keys() - rows.keys()
    odd = rows.keys() - left.acknowledged.keys()
    other = [name for name in rows.keys() & left.acknowledged.keys()
             if rows[name] != left.acknowledged[name]]  # fmt: skip
    raise PromiseBroken(
        f"opened with {len(missing)} of {len(left.acknowledged)} acknowledged callbacks missing, "
        f"{len(other)} changed, {len(odd)} that nobody sent"
    )


def _names(state: Path) -> list[str]:
    return [path.name for path in state.glob(f"{LEDGER}*")]


def _contents(state: Path) -> dict[str, bytes]:
    """Return what a refusal may not change: the index, and a log without a byte, hold nothing."""
    found = {name: (state / name).read_bytes() for name in _names(state) if name != INDEX}
    return {name: data for name, data in found.items() if data or name == LEDGER}


def _changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )


async def _restore(state: Path, left: Left, tally: Tally) -> None:
    """Put the backup in the ledger's place as the README says, and look for everything in it."""
    text = (ROOT / "README.md").read_text()
    named = re.search(r"sudo mkdir /var/lib/suno-videod/(\S+)", text)
    assert named, "the README tells no more how a ledger is restored"
    aside = state / named[1]
    try:
        aside.mkdir()
    except FileExistsError as error:
        raise PromiseBroken(f"the README's mkdir fails: {error}") from error
    for name in _names(state):
        (state / name).rename(aside / name)
    shutil.copyfile(left.backup, state / LEDGER)
    disk = Disk(state / "videos", workers=1, file_mode=0o600, directory_mode=0o700)
    try:
        async with open_store(state) as store:
            await take_over(store, disk, NOW, TERMS)
            tasks = await store.tasks(limit=1_000_000)
        rows = await _start(state)
    except StoreRefused as refusal:
        raise PromiseBroken(f"the backup was refused: {refusal}") from refusal
    finally:
        disk.close()
    if rows != left.acknowledged:
        raise PromiseBroken("the backup does not hold everything that it held")
    asked = [task for task in tasks if task.ask_at == NOW]
    if late := [task.task_id for task in tasks if task.state != State.DONE and task.ask_at != NOW]:
        raise PromiseBroken(f"after the restoration nobody asks about {late[:3]}")
    tally.restored += 1
    tally.asked_again += len(asked)


def _tell(tally: Tally) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in tally.outcomes.most_common())
    table = "\n".join(
        f"  {name:32} {outcome:12} {count:4}"
        for (name, outcome), count in sorted(tally.by_harm.items())
    )
    return (
        f"{table}\n{tally.outcomes.total()} damages: {counts}; {tally.restored} backups restored, "
        f"{tally.asked_again} tasks asked about again, nothing acknowledged missing"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=500, unit="damages")()
