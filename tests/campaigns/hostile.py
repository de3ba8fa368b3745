"""Fetches films from a host that lies, breaks off, stalls and changes its mind.

Rule: whatever a host does, no file stands under a finished name that is not the film byte for
byte; every attempt ends as the table of lies says; and once the host is honest, the film is there.

    python -m tests.campaigns.hostile --size 5000 --seed 1

First every lie is played once in every framing, over HTTP and TLS, to a fresh task and to one that
has half of the film; then `size` transfers meet several lies each, drawn by luck.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Final

from daemon.simulator.films import Clip, Film
from tests.campaigns.broken_wires import WIRE_LIES
from tests.campaigns.campaign import PromiseBroken, command
from tests.campaigns.false_answers import ANSWER_LIES
from tests.campaigns.false_places import PLACE_LIES
from tests.campaigns.fetching import Place, Transfer, hold, opened
from tests.campaigns.liars import Framing, Lie, Scene, Scheme, liar

LIES: Final[Sequence[Lie]] = (*WIRE_LIES, *ANSWER_LIES, *PLACE_LIES)
FRAMINGS: Final[tuple[Framing, ...]] = ("length", "chunked", "close")
CLIPS: Final[tuple[Clip, ...]] = ("faststart", "moov_last", "fragmented")
SMALL: Final = 260_000
LARGE: Final = 1_500_000
HELD: Final = 180_000
AT_A_TIME: Final = 12
MOST_LIES: Final = 2
MOST_TIMES: Final = 3
MOST_HONEST: Final = 3
"""Attempts that an honest host may need: one may find that what is held is worth nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """One field of the matrix."""

    lie: Lie
    framing: Framing
    scheme: Scheme
    resumed: bool

    def __str__(self) -> str:  # type: ignore[explicit-override] # typing.override: 3.12
        held = "resumed" if self.resumed else "fresh"
        return f"{self.lie.name} ({self.framing}, {self.scheme}, {held})"


@dataclass(slots=True)
class Tally:
    """What was tried, and what it cost."""

    cases: int = 0
    wrong_ends: list[str] = field(default_factory=list)
    """Cases that ended otherwise than the table says, with how they did."""
    ends: Counter[str] = field(default_factory=Counter)
    transfers: int = 0
    lies: int = 0
    """Requests that were lied to."""
    attempts: int = 0
    resumable: int = 0
    """Transfers whose host broke off only, and could have gone on."""
    resumable_bytes: int = 0
    resumable_sent_bytes: int = 0
    slowest_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def cost(self) -> float:
        """Bytes sent for every byte of a film, where a host only broke off."""
        return self.resumable_sent_bytes / max(1, self.resumable_bytes)


async def run_campaign(folder: Path, size: int, seed: int) -> Tally:
    """Play the whole matrix, then `size` transfers of mixed lies.

    Raises:
        PromiseBroken: a wrong file, or none in the end, with the seed that shows it.
    """
    tally = Tally()
    await play_cases(folder, list(cases()), tally)
    await play_transfers(folder, size, seed, tally)
    if tally.wrong_ends:
        raise PromiseBroken("\n".join(tally.wrong_ends))
    return tally


def cases() -> Iterator[Case]:
    """Yield every field of the matrix."""
    for lie in LIES:
        for framing in FRAMINGS:
            for scheme in lie.schemes:
                if framing in lie.fresh:
                    yield Case(lie, framing, scheme, resumed=False)
                if framing in lie.resumed:
                    yield Case(lie, framing, scheme, resumed=True)


def one_of_each(seed: int) -> Iterator[Case]:
    """Yield one field of the matrix for every lie, another one with another seed."""
    luck = random.Random(seed)
    for _, fields in groupby(cases(), key=lambda case: case.lie.name):
        yield luck.choice(list(fields))


@cache
def film(seed: str, size_bytes: int, clip: Clip = "faststart") -> bytes:
    """Return a whole film."""
    return b"".join(Film(seed, size_bytes, clip).read(0, size_bytes))


async def play_cases(folder: Path, matrix: Sequence[Case], tally: Tally) -> None:
    """Play these fields of the matrix, some at a time; count those with another end."""

    async def play(number: int, place: Place) -> None:
        end = await _play_case(matrix[number], f"case-{number}", place, tally)
        allowed = matrix[number].lie
        expected = (allowed.resumed if matrix[number].resumed else allowed.fresh)[
            matrix[number].framing
        ]
        tally.ends[end] += 1
        if end not in expected:
            tally.wrong_ends.append(f"{matrix[number]}: {end}, not {' or '.join(expected)}")

    await _side_by_side(folder / "matrix", len(matrix), play)
    tally.cases += len(matrix)


async def _side_by_side(
    folder: Path, count: int, play: Callable[[int, Place], Awaitable[None]]
) -> None:
    numbers = iter(range(count))

    async def work(place: Place) -> None:
        for number in numbers:
            await play(number, place)

    async with liar() as host, opened(folder, host) as place:
        workers = [asyncio.create_task(work(place)) for _ in range(AT_A_TIME)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _play_case(case: Case, key: str, place: Place, tally: Tally) -> str:
    """Meet one lie once, then honesty; return how the attempt ended and what came after it."""
    lie = case.lie
    size = LARGE if lie.large else SMALL
    scene = Scene(key=key, film=film("case", size), framing=case.framing, scheme=case.scheme)
    transfer = Transfer(place, scene, random.Random(key), hasty=lie.hasty)
    await transfer.adopt()
    if case.resumed:
        await hold(transfer, HELD)
    try:
        return await _meet(transfer, lie, tally)
    except Exception as broken:
        raise PromiseBroken(f"{case}: {broken!r}") from broken


async def _meet(transfer: Transfer, lie: Lie, tally: Tally) -> str:
    end = await transfer.attempt(lie)
    if transfer.scene.lies_told == 0:
        raise PromiseBroken("the lie was not told")
    if transfer.is_stored:
        await _check(transfer, {transfer.scene.film})
        return end
    low, high = lie.waits or (0.0, 21_600.0)
    if not low <= transfer.waited_seconds <= high:
        raise PromiseBroken(f"it waits {transfer.waited_seconds} s, not {low} to {high}")
    await _finish(transfer, tally)
    return f"{end} > {transfer.went_on}"


async def _finish(transfer: Transfer, tally: Tally) -> None:
    """Let the host be honest until the film is there, and look at it."""
    truths = {transfer.scene.film}
    for _ in range(MOST_HONEST):
        _expect_nothing(transfer)
        await transfer.attempt(None)
        if transfer.is_stored:
            break
    else:
        raise PromiseBroken("an honest host was asked in vain")
    await _check(transfer, truths)
    tally.slowest_seconds = max(tally.slowest_seconds, transfer.slowest_seconds)


def _expect_nothing(transfer: Transfer) -> None:
    if transfer.final.exists():
        raise PromiseBroken("a file has a finished name before its task is stored")


async def _check(transfer: Transfer, truths: set[bytes]) -> None:
    """Compare the finished file, then make room."""
    found = await asyncio.to_thread(transfer.final.read_bytes)
    if found not in truths:
        raise PromiseBroken(f"{len(found)} bytes have a finished name and are not the film")
    if transfer.partial.exists():
        raise PromiseBroken("a partial file was left")
    transfer.final.unlink()
    transfer.leave()


async def play_transfers(folder: Path, count: int, seed: int, tally: Tally) -> None:
    """Play transfers that meet several lies each."""
    began = time.monotonic()

    async def play(number: int, place: Place) -> None:
        luck = random.Random(f"{seed} {number}")
        plan = _draw(luck, f"film-{number}")
        try:
            await _play_transfer(plan, place, luck, tally)
        except Exception as broken:
            raise PromiseBroken(f"seed {seed}, {plan}: {broken!r}") from broken

    await _side_by_side(folder / "transfers", count, play)
    tally.seconds += time.monotonic() - began


@dataclass(frozen=True, slots=True)
class Plan:
    """What one transfer is to meet."""

    scene: Scene
    lies: Sequence[Lie]
    turns_at: int | None
    """Before which attempt the host puts another film in the place of the first."""
    has_key: bool

    def __str__(self) -> str:  # type: ignore[explicit-override] # likewise
        scene = self.scene
        names = ", ".join(lie.name for lie in self.lies)
        return f"{scene.key} ({len(scene.film)}, {scene.framing}, {scene.scheme}): {names}"


def _draw(luck: random.Random, key: str) -> Plan:
    size = int(200_000 * 20 ** luck.random())
    scene = Scene(
        key=key,
        film=film_of(luck, size),
        framing=luck.choice(FRAMINGS),
        scheme=luck.choice(("http", "https")),
    )
    known = LIES if luck.random() < 0.6 else [lie for lie in LIES if lie.saves]
    fitting = [
        lie
        for lie in known
        if scene.scheme in lie.schemes and scene.framing in {**lie.fresh, **lie.resumed}
    ]
    lies = [
        lie
        for _ in range(luck.randint(1, MOST_LIES))
        for lie in [luck.choice(fitting)] * luck.randint(1, MOST_TIMES)
    ]
    turns = luck.randrange(1, len(lies) + 1) if known is LIES and luck.random() < 0.1 else None
    return Plan(scene, lies, turns, has_key=luck.random() < 0.7)


def film_of(luck: random.Random, size: int) -> bytes:
    """Return a film of its own."""
    seed, clip = f"{luck.random()}", luck.choice(CLIPS)
    return b"".join(Film(seed, size, clip).read(0, size))


async def _play_transfer(plan: Plan, place: Place, luck: random.Random, tally: Tally) -> None:
    scene, first = plan.scene, plan.scene.film
    transfer = Transfer(place, scene, luck, hasty=True, has_key=plan.has_key)
    await transfer.adopt()
    for number, lie in enumerate(plan.lies):
        if number == plan.turns_at:
            scene.film, scene.etag = (
                film_of(luck, len(first) + luck.randrange(-9_999, 9_999)),
                '"v2"',
            )
        _expect_nothing(transfer)
        tally.ends[await transfer.attempt(lie)] += 1
        if transfer.is_stored:
            # What was there as a whole before the host turned is a film of its own.
            await _check(transfer, {scene.film} | ({first} if not scene.asked else set()))
            break
    else:
        if not scene.asked and plan.turns_at is not None:
            scene.film = first
        await _finish(transfer, tally)
    tally.transfers += 1
    tally.lies += scene.lies_told
    tally.attempts += transfer.attempts
    if all(lie.saves for lie in plan.lies):
        tally.resumable += 1
        tally.resumable_bytes += len(first)
        tally.resumable_sent_bytes += scene.sent_bytes


def _tell(tally: Tally) -> str:
    ends_told = ", ".join(f"{count} {end}" for end, count in sorted(tally.ends.items()))
    return (
        f"{len(LIES)} lies, {tally.cases} cases, all ended as they have to\n"
        f"{tally.transfers} transfers met {tally.lies} lies in {tally.attempts} attempts "
        f"({tally.transfers / tally.seconds:.0f} a second), 0 wrong files\n"
        f"{tally.cost:.2f} bytes sent for each byte of {tally.resumable} films whose host only "
        f"broke off; slowest attempt {tally.slowest_seconds:.1f} s\n({ends_told})"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=5000, unit="transfers")()
