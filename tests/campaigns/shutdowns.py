"""Stops the serving daemon with SIGTERM at any moment under load, and looks whether it was polite.

Rule: it ends by itself, with 0, in time; every callback in flight is answered or its connection is
refused or closed; what was answered with 200 is in the ledger, bytes of unfinished films are kept,
and nothing is left behind but them. A second SIGTERM ends it at once. A process that is frozen for
seconds goes on as if nothing had been.

    python -m tests.campaigns.shutdowns --size 200 --seed 1
"""

import asyncio
import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import aiohttp

from daemon.rules.filename import name_partial
from daemon.rules.lifecycle import State
from daemon.rules.spans import Spans
from daemon.rules.task import Task
from daemon.simulator.faults import Faults
from daemon.simulator.films import BLOCK_BYTES, Film
from daemon.simulator.simulator import Simulator
from daemon.store import open_store
from tests.campaigns.campaign import PromiseBroken, command
from tests.stories.harness import Daemon, Section, ask, configure
from tests.stories.stage import failure, simulated_provider, success

CALLERS: Final = 6
PENDING: Final = 5
"""Tasks without a film so far, so that questions are always on their way."""
FAILURES: Final = 100
"""Tasks that fail, over and over: every new process asks about them, and thousands would starve
the questions that count."""
FILMS: Final = 6
"""Films that are on their way at any time: more than there are workers."""
FILM_BYTES: Final = 16 << 20
BYTES_PER_SECOND: Final = 8 << 20
"""Of each download: it is in mid-file for seconds."""
LIFE_SECONDS: Final = (0.02, 1.0)
BIRTH_SECONDS: Final = (0.05, 0.6)
FROZEN_SECONDS: Final = (1.0, 2.0)
END_SECONDS: Final = 30.0
HURRY_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 30.0
LOSS_BYTES: Final[Mapping[str, int]] = {
    # A block that was not full, and what lay in sockets.
    "polite": 4 << 20,
    # While nobody reads, the sockets fill: several megabytes that we never had.
    "frozen": 12 << 20,
    # All since the last sync, a second ago.
    "twice": 12 << 20,
}
"""What the host has sent of one film may be lost, by the kind of stop."""
KINDS: Final = ("polite", "polite", "twice", "frozen")
SETTINGS: Final[Mapping[str, Section]] = {
    "callback": {"trust": "callback"},
    "provider": {"requests_per_second": 500},
    "log": {"level": "info"},
}


@dataclass(frozen=True, slots=True)
class WatchedFilm(Film):
    """A film that notes how far its host has sent it."""

    sent: dict[str, int] = field(default_factory=dict, compare=False, kw_only=True)

    def read(  # type: ignore[explicit-override] # typing.override begins with 3.12
        self, start: int, stop: int, block_bytes: int = BLOCK_BYTES
    ) -> Iterator[memoryview]:
        """Yield blocks; one that another is asked for after was handed to the socket."""
        position = start
        for block in Film.read(self, start, stop, block_bytes):
            yield block
            position += len(block)
            self.sent[self.seed] = max(position, self.sent.get(self.seed, 0))


@dataclass(slots=True)
class Tally:
    """What the callers were told, and what was done to the daemon."""

    answered: Counter[str] = field(default_factory=Counter)
    """How many callbacks of each task were answered with 200."""
    sent: dict[str, int] = field(default_factory=dict)
    """How far the host has sent each film."""
    unrecorded: dict[str, int] = field(default_factory=dict)
    """How long each partial file was after the last stop."""
    films: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    """Films that were found under their final names, byte for byte."""
    stops: Counter[str] = field(default_factory=Counter)
    births: int = 0
    """Processes that were stopped while they started."""
    refused: int = 0
    closed: Counter[str] = field(default_factory=Counter)
    """Callbacks whose connection was closed without an answer, by the kind of stop."""
    longest_seconds: float = 0.0
    most_hurried_seconds: float = 0.0
    interrupted: int = 0
    """Downloads that were stopped in mid-file."""
    most_lost_bytes: Counter[str] = field(default_factory=Counter)
    """The most that one film lost, by the kind of stop."""


async def run_campaign(folder: Path, size: int, seed: int) -> Tally:
    """Stop a daemon `size` times and return the count of what was kept.

    Raises:
        PromiseBroken: with the seed that shows it.
    """
    luck, tally = random.Random(seed), Tally()
    options = {"file_size_bytes": FILM_BYTES, "bytes_per_second": BYTES_PER_SECOND}
    async with simulated_provider(**options) as provider:
        daemon = Daemon(folder, configure(provider.base_url, **SETTINGS))
        pending = [_add(provider, tally, finished=False) for _ in range(PENDING)]
        kinds: list[str] = []
        try:
            while tally.stops.total() < size:
                kinds = kinds or luck.sample(KINDS, len(KINDS))
                await _serve_and_stop(daemon, provider, pending, kinds.pop(), luck, tally)
                await _check(daemon, provider, tally)
            await _finish(daemon, provider, pending, tally)
        except PromiseBroken as broken:
            where = f"seed {seed}, stop {tally.stops.total()}"
            raise PromiseBroken(f"{where}: {broken}") from broken
        finally:
            await asyncio.to_thread(daemon.end)
    return tally


def _add(provider: Simulator, tally: Tally, *, finished: bool) -> str:
    """Make a task whose film is watched, and of which only we send callbacks."""
    task_id = provider.add_task(Faults(callbacks=()), finished=finished)
    task = provider.tasks[task_id]
    task.film = WatchedFilm(task_id, FILM_BYTES, sent=tally.sent)
    return task_id


async def _serve_and_stop(
    daemon: Daemon,
    provider: Simulator,
    pending: list[str],
    kind: str,
    luck: random.Random,
    tally: Tally,
) -> None:
    if luck.random() < 0.1:
        await _stop_at_birth(daemon, luck, tally)
    await asyncio.to_thread(daemon.start)
    callers = [
        asyncio.create_task(
            _call(daemon.url, provider, pending, kind, random.Random(luck.random()), tally)
        )
        for _ in range(CALLERS)
    ]
    if kind == "frozen":
        await asyncio.sleep(luck.uniform(*LIFE_SECONDS))
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(luck.uniform(*FROZEN_SECONDS))
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        await _expect_life(daemon, tally)
    await asyncio.sleep(luck.uniform(*LIFE_SECONDS))
    daemon.process.send_signal(signal.SIGTERM)
    if kind == "twice":
        # Two signals at the same moment are one (signal(7)).
        await asyncio.sleep(luck.uniform(0.01, 0.15))
        daemon.process.send_signal(signal.SIGTERM)
        seconds = await _expect_end(daemon, {8}, HURRY_SECONDS)
        tally.most_hurried_seconds = max(tally.most_hurried_seconds, seconds)
    else:
        seconds = await _expect_end(daemon, {0}, END_SECONDS)
        tally.longest_seconds = max(tally.longest_seconds, seconds)
    tally.stops[kind] += 1
    await asyncio.gather(*callers)
    _look_at_log(daemon)
    left = [path for path in (daemon.folder / "state").glob("*.sock*") if kind != "twice"]
    if left:
        raise PromiseBroken(f"a polite stop left {left} behind")
    await _weigh(daemon, kind, tally)


async def _stop_at_birth(daemon: Daemon, luck: random.Random, tally: Tally) -> None:
    """Stop a process that may not be ready yet; before it listens to signals they just end it."""
    await asyncio.to_thread(daemon.spawn)
    await asyncio.sleep(luck.uniform(*BIRTH_SECONDS))
    daemon.process.send_signal(signal.SIGTERM)
    await _expect_end(daemon, {0, -signal.SIGTERM}, END_SECONDS)
    tally.births += 1
    _look_at_log(daemon)


async def _expect_end(daemon: Daemon, codes: set[int], seconds: float) -> float:
    """Wait for the end of the process; return how long it took."""
    began = time.monotonic()
    try:
        code = await asyncio.to_thread(daemon.process.wait, END_SECONDS)
    except subprocess.TimeoutExpired:
        raise PromiseBroken(f"it has not ended after {END_SECONDS:g} s") from None
    took = time.monotonic() - began
    if code not in codes or took > seconds:
        raise PromiseBroken(f"it ended with {code} after {took:.2f} s\n{daemon.tell()}")
    return took


async def _expect_life(daemon: Daemon, tally: Tally) -> None:
    """Wait until somebody is answered again after a pause."""
    before, until = tally.answered.total(), time.monotonic() + ANSWER_SECONDS
    while tally.answered.total() == before:
        if time.monotonic() > until or daemon.process.poll() is not None:
            raise PromiseBroken("nobody was answered any more after a pause")
        await asyncio.sleep(0.02)


async def _call(
    url: str, provider: Simulator, pending: list[str], kind: str, luck: random.Random, tally: Tally
) -> None:
    """Send callbacks until nobody answers any more, now and then one that names a film."""
    while True:
        body = _write(provider, pending, luck, tally)
        task_id = body["data"]["task_id"]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                heard = await ask("POST", url, data=json.dumps(body).encode())
        except TimeoutError:
            raise PromiseBroken(f"a callback hung for {ANSWER_SECONDS:g} s") from None
        except aiohttp.ClientConnectorError:
            tally.refused += 1
            return
        except (aiohttp.ClientError, OSError):
            tally.closed[kind] += 1
            return
        if heard.status != 200:
            raise PromiseBroken(f"a proper callback was answered with {heard.status}")
        tally.answered[task_id] += 1
        if body["code"] == 200 and body["data"]["video_url"]:
            tally.films.add(task_id)
        await asyncio.sleep(luck.uniform(0, 0.02))


def _write(
    provider: Simulator, pending: list[str], luck: random.Random, tally: Tally
) -> dict[str, Any]:
    share = luck.random()
    if len(tally.films - tally.whole) < FILMS:
        task_id = _add(provider, tally, finished=True)
        return success(task_id, provider.tasks[task_id].video_url)
    if share < 0.05:
        # Success without a link only makes the question due.
        return success(luck.choice(pending), "")
    if share < 0.2:
        task_id = luck.choice(sorted(tally.films))
        return success(task_id, provider.tasks[task_id].video_url)
    return failure(f"stop-{luck.randrange(FAILURES)}")


def _look_at_log(daemon: Daemon) -> None:
    """Nothing broke inside, and no download was given up because of a stop or a pause."""
    if daemon.errors():
        raise PromiseBroken(f"it wrote to standard error:\n{daemon.errors()}")
    for line in daemon.log():
        library = line["event"] == "library.message" and line["level"] != "info"
        if line["level"] in {"error", "critical"} or library or line["event"] in _UNWANTED:
            raise PromiseBroken(f"its log says {line}")


_UNWANTED: Final = frozenset({"download.failed", "gate.closed", "task.vanished", "task.renamed"})


async def _weigh(daemon: Daemon, kind: str, tally: Tally) -> None:
    """Compare what the host has sent of each film with what the ledger knows to be on the disk."""
    ledger = await _read(daemon)
    for task_id, sent_bytes in list(tally.sent.items()):
        task = ledger.get(task_id)
        if task is None or task_id in tally.whole or task.state != State.WANTED:
            continue
        kept_bytes = Spans.parse(task.spans).total_bytes
        # What was lost before is not lost once more.
        tally.sent[task_id] = kept_bytes
        lost = sent_bytes - kept_bytes
        tally.interrupted += 1
        tally.most_lost_bytes[kind] = max(tally.most_lost_bytes[kind], lost)
        if lost > LOSS_BYTES[kind]:
            told = f"{lost} of {sent_bytes} bytes were thrown away"
            raise PromiseBroken(f"{task_id}: {told} ({kind})")
        part = daemon.videos / ".partial" / name_partial(task_id)
        on_disk = part.stat().st_size if part.exists() else 0
        # After a second signal bytes may be there that nobody recorded any more, and they stay
        # until the download goes on.
        excused = kind == "twice" or on_disk == tally.unrecorded.get(task_id)
        # The end of a whole film is left to its examination, which this stop came before.
        excused = excused or on_disk == task.size_bytes
        tally.unrecorded[task_id] = on_disk
        if on_disk < kept_bytes or (on_disk > kept_bytes and not excused):
            raise PromiseBroken(f"{part} has {on_disk} bytes, {kept_bytes} are recorded ({kind})")


async def _read(daemon: Daemon) -> dict[str, Task]:
    """Return the ledger of a daemon that does not run, by task id."""
    async with open_store(daemon.folder / "state") as store:
        return {task.task_id: task for task in await store.tasks((), 1_000_000_000)}


async def _check(daemon: Daemon, provider: Simulator, tally: Tally) -> None:
    """Compare ledger and folder of a daemon that ended with what was promised."""
    ledger = await _read(daemon)
    lost = [
        task_id
        for task_id, count in tally.answered.items()
        if task_id not in ledger or ledger[task_id].callbacks < count
    ]
    if lost:
        raise PromiseBroken(f"acknowledged and not in the ledger: {', '.join(lost[:5])}")
    gone = [task_id for task_id in tally.films if ledger[task_id].state in {"failed", "lost"}]
    if gone:
        raise PromiseBroken(f"given up though they can be fetched: {gone}")
    for path in daemon.videos.glob("*.mp4"):
        task_id = path.stem.removeprefix("video_")
        film = Film(task_id, FILM_BYTES)
        if path.read_bytes() != b"".join(film.read(0, FILM_BYTES)):
            raise PromiseBroken(f"{path} has a finished name and is not whole")
        if ledger[task_id].state == State.DONE:
            tally.whole.add(task_id)
            # Two hundred stops would fill a small disk.
            path.unlink()
    known = {name_partial(task_id) for task_id in provider.tasks}
    done = {name_partial(task_id) for task_id in tally.whole}
    wrong = [
        path
        for path in daemon.videos.rglob("*")
        if path.is_file()
        and path.suffix != ".mp4"
        and (path.parent.name != ".partial" or path.name not in known - done)
    ]
    if wrong:
        raise PromiseBroken(f"left behind: {wrong}")


async def _finish(daemon: Daemon, provider: Simulator, pending: list[str], tally: Tally) -> None:
    """Let everything come to its end, as fast as it goes."""
    provider.options = replace(provider.options, bytes_per_second=None)
    await asyncio.to_thread(daemon.start)
    asked = {task_id for task_id in pending if tally.answered[task_id]}
    for task_id in asked:
        provider.finish(task_id)
    await daemon.until_all(tally.films | asked)
    tally.films |= asked
    code = await daemon.stop()
    if code != 0:
        raise PromiseBroken(f"it ended with {code}")
    await _check(daemon, provider, tally)
    missing = tally.films - tally.whole
    if missing:
        raise PromiseBroken(f"never seen under their final names: {missing}")


def _tell(tally: Tally) -> str:
    stops = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.stops.items()))
    lost = " / ".join(f"{tally.most_lost_bytes[kind]} ({kind})" for kind in LOSS_BYTES)
    return (
        f"{tally.stops.total()} stops ({stops}) and {tally.births} "
        f"at birth, the longest {tally.longest_seconds:.2f} s, "
        f"hurried {tally.most_hurried_seconds:.2f} s; {tally.answered.total()} callbacks "
        f"acknowledged, {tally.refused} refused, closed {dict(tally.closed)}; {tally.interrupted} "
        f"downloads interrupted, at most {lost} bytes lost of one, "
        f"{len(tally.whole)} films whole, nothing lost"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=200, unit="SIGTERMs")()
