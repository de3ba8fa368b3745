"""Plants known defects in a copy of the daemon, one at a time, and runs what has to notice each.

Rule: a test that cannot fail proves nothing. Every defect of the list makes the test or campaign
fail that is named beside it, and the same test passes on the copy without the defect. What is
imported is the copy: it is asked where its `daemon` lies.

Some need root, to cut the power of a disk; they are counted as left out where that is not so.

    python -m tests.campaigns.mutants --size 35 --seed 1
"""

import asyncio
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.campaigns.campaign import PromiseBroken, command
from tests.campaigns.defects import DEFECTS, Change, Defect
from tests.campaigns.volumes import can_mount

ROOT: Final = Path(__file__).parents[2]
LEFT_BEHIND: Final = (".git", ".venv*", "__pycache__", ".*_cache", ".coverage*", ".hypothesis")
MOST_SECONDS: Final = 280.0
"""What hangs because of a defect has noticed it, too."""
TESTS_FAILED: Final = 1
"""Exit code of pytest; 2 to 5 say that it could not run them."""
PYTEST: Final = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout=40")
SHOWN: Final = 3_000
"""Characters at the end of what a program said that are kept."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one defect."""

    defect: Defect
    caught: bool
    seconds: float
    last_words: str
    """Of what had to notice it."""


@dataclass(slots=True)
class Tally:
    """What became of all."""

    trials: list[Trial] = field(default_factory=list)
    left_out: list[Defect] = field(default_factory=list)
    """Nobody here can play what has to notice them."""

    @property
    def survivors(self) -> list[str]:
        """The names of those that nothing noticed."""
        return [trial.defect.name for trial in self.trials if not trial.caught]


async def run_campaign(folder: Path, size: int, seed: int) -> Tally:
    """Try `size` defects and return what became of them; the quick ones come first.

    Raises:
        PromiseBroken: one was not noticed; with the seed and the table.
    """
    tally = await try_defects(folder, choose(size, random.Random(seed)))
    if tally.survivors:
        raise PromiseBroken(f"seed {seed}: not noticed: {tally.survivors}\n{_tell(tally)}")
    return tally


def choose(size: int, luck: random.Random) -> list[Defect]:
    """Draw defects; a power cut takes its time and is drawn when nothing else is left."""
    drawn = luck.sample(DEFECTS, len(DEFECTS))
    return sorted(drawn, key=lambda defect: not defect.is_quick)[:size]


async def try_defects(folder: Path, defects: Sequence[Defect]) -> Tally:
    """Plant each in a fresh text of the copy, and run what has to notice it.

    Raises:
        PromiseBroken: what has to notice it fails without any defect, or cannot be run.
    """
    tally, copy = Tally(), folder / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    await _check_import(copy)
    mounts = can_mount()
    tally.left_out = [defect for defect in defects if defect.campaign and not mounts]
    tried = [defect for defect in defects if mounts or not defect.campaign]
    await _check_soundness(copy, tried)
    for number, defect in enumerate(tried, 1):
        plant(copy, defect, number)
        try:
            code, said, seconds = await _run(copy, _command(defect))
        finally:
            _undo(copy, defect)
        broken = defect.campaign and code and PromiseBroken.__name__ not in said
        if broken or (code is not None and code not in {0, TESTS_FAILED}):
            raise PromiseBroken(f"{defect.name}: what has to notice it did not run: {said}")
        last = said.strip().rpartition("\n")[2]
        tally.trials.append(Trial(defect, code != 0, seconds, last))
    return tally


async def _check_soundness(copy: Path, defects: Sequence[Defect]) -> None:
    """Run all that has to notice something where there is nothing to notice."""
    tests = dict.fromkeys(test for defect in defects for test in defect.tests)
    lines = dict.fromkeys(_command(defect) for defect in defects if defect.campaign)
    for line in [*([(*PYTEST, *tests)] if tests else []), *lines]:
        code, said, _ = await _run(copy, line)
        if code:
            raise PromiseBroken(f"it fails without any defect: {line}\n{said}")


def find(root: Path, change: Change) -> int:
    """Return how often the text stands in its file."""
    return (root / change.file).read_text(encoding="utf-8").count(change.old)


def plant(root: Path, defect: Defect, number: int = 1) -> None:
    """Put a defect into the copy `root`.

    `number` is its own: bytecode is told from that of another text of the same length by the time
    of the file, in seconds.

    Raises:
        PromiseBroken: the tree has moved on and the entry has not.
    """
    for change in defect.changes:
        if (count := find(root, change)) != 1:
            raise PromiseBroken(f"{defect.name}: its text is in {change.file} {count} times")
        path = root / change.file
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(change.old, change.new), encoding="utf-8")
        os.utime(path, (number, number))


def _undo(copy: Path, defect: Defect) -> None:
    for change in defect.changes:
        shutil.copy2(ROOT / change.file, copy / change.file)


def _command(defect: Defect) -> tuple[str, ...]:
    if defect.campaign:
        name, *options = defect.campaign
        return ("-m", f"tests.campaigns.{name}", *options)
    return (*PYTEST, *defect.tests)


async def _check_import(copy: Path) -> None:
    code, said, _ = await _run(copy, ("-c", "import daemon; print(daemon.__file__)"))
    if code or Path(said.strip()) != copy / "daemon" / "__init__.py":
        raise PromiseBroken(f"it would try the tests on {said.strip()}, which is not the copy")


async def _run(copy: Path, line: tuple[str, ...]) -> tuple[int | None, str, float]:
    """Run Python in the copy; return its exit code (None: it hung), what it said, and seconds."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *line),
        cwd=copy,
        env={**_environment(), "PYTHONPATH": str(copy)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    code: int | None = None
    listening = asyncio.ensure_future(process.communicate())
    try:
        await asyncio.wait({listening}, timeout=MOST_SECONDS)
        code = process.returncode
    finally:
        if process.returncode is None:
            await _end(process)
        said, _ = await listening
    return code, said.decode(errors="replace")[-SHOWN:], time.monotonic() - began


def _environment() -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: value for name in kept if (value := os.environ.get(name))}  # noqa: TID251 - passed on


async def _end(process: asyncio.subprocess.Process) -> None:
    """Interrupt it, so that it cleans up; then it, and what it had started, is killed."""
    process.send_signal(signal.SIGINT)
    try:
        await asyncio.wait_for(process.wait(), timeout=20)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)


def _tell(tally: Tally) -> str:
    rows = [
        f"  {'caught' if one.caught else 'SURVIVED':9} {one.seconds:6.1f} s  {one.defect.name}"
        for one in tally.trials
    ]
    rows += [f"  left out            {defect.name} (needs root)" for defect in tally.left_out]
    caught = len(tally.trials) - len(tally.survivors)
    return "\n".join([*rows, f"{caught} of {len(tally.trials)} defects were noticed"])


if __name__ == "__main__":
    command(run_campaign, _tell, size=len(DEFECTS), unit="defects")()
