"""Lets one system call after the other fail under the daemon, or kills it there.

Rule: whatever call fails, with whatever error, once or from then on: a callback that was answered
with 200 is in the ledger, no file stands under a finished name that is not whole, and the daemon
goes on. It may end only when the database could not be synced, or when it could not start. Once the
fault is gone every film gets done.

Needs strace. All cases take about an hour.

    python -m tests.campaigns.syscalls --size 200 --seed 1
"""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from daemon.config import environment
from daemon.simulator.simulator import Simulator
from tests.campaigns.callers import CALLBACKS_ALONE, check_acknowledged
from tests.campaigns.campaign import PromiseBroken, command
from tests.campaigns.tracing import ERRORS, STARTS, Case, Moment, Trace, attached
from tests.campaigns.volumes import check_files, daemon_on, look, read_ledger
from tests.stories.harness import PATIENCE_SECONDS, Daemon, Section
from tests.stories.stage import check_film, simulated_provider, success

FILM_BYTES: Final = 3_000_000
CASES_A_LEDGER: Final = 20
SETTLE_SECONDS: Final = 0.15
"""How long a fault may go on being felt once it was."""
FAULT_SECONDS: Final = 4.0
"""How long a case waits for its fault."""
RECOVERY_SECONDS: Final = 45.0
"""Whatever is due is looked for every 30 s, and a failed database is left alone for 5 s."""
PATIENT: Final = 0.05
"""The share of cases in which nobody helps a daemon that pauses."""
SETTINGS: Final[Mapping[str, Section]] = {**CALLBACKS_ALONE, "download": {"concurrency": 1}}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case did before its fault was gone."""

    task_id: str
    injected: int
    """How often the call failed."""
    status: int | None
    """The answer to the callback, where there was one."""
    code: int | None
    """How the daemon ended, where it did."""


@dataclass(slots=True)
class Tally:
    """What failed, and what came of it."""

    listed: int = 0
    """Cases that there are."""
    cases: int = 0
    missed: int = 0
    """Cases whose call was not made that often."""
    injected: int = 0
    kills: int = 0
    ended: int = 0
    """Daemons that ended by themselves, as they should."""
    refused: int = 0
    """Callbacks that were answered with 503."""
    done: int = 0
    groups: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How many cases there were by moment, place and call."""

    def count(self, case: Case, outcome: Outcome) -> None:
        """Add a case."""
        self.cases += 1
        self.injected += outcome.injected
        self.missed += not outcome.injected
        self.kills += outcome.code == -signal.SIGKILL
        self.ended += outcome.code == 1
        self.refused += outcome.status == 503
        self.done += 1
        if outcome.injected:
            self.groups[case.moment, case.place, case.call] += 1


async def run_campaign(folder: Path, size: int, seed: int) -> Tally:
    """Draw `size` cases from all that there are, each kind before any a second time.

    Raises:
        PromiseBroken: with the case that shows it.
    """
    luck = random.Random(seed)
    async with simulated_provider(file_size_bytes=FILM_BYTES) as provider:
        cases = await survey(folder / "survey", provider)
    tally = await try_cases(folder, draw(cases, size, luck), luck)
    tally.listed = len(cases)
    return tally


def draw(cases: list[Case], size: int, luck: random.Random) -> list[Case]:
    """Return `size` cases in turn from all groups, those of one moment together."""
    groups: dict[tuple[str, str, str], list[Case]] = {}
    for case in luck.sample(cases, len(cases)):
        groups.setdefault((case.moment, case.place, case.call), []).append(case)
    drawn: list[Case] = []
    while groups and len(drawn) < size:
        for name in sorted(groups):
            drawn.append(groups[name].pop())
            if not groups[name]:
                del groups[name]
    return sorted(drawn[:size], key=lambda case: case.moment)


async def try_cases(
    folder: Path, cases: list[Case], luck: random.Random, patient: float = PATIENT
) -> Tally:
    """Try cases one after the other, some on one ledger, and return the count.

    `patient` is the share of cases in which nobody helps a daemon that pauses.

    Raises:
        PromiseBroken: with the case that shows it.
    """
    tally = Tally(listed=len(cases))
    async with simulated_provider(file_size_bytes=FILM_BYTES) as provider:
        while cases:
            few = 1 if cases[0].moment == "first start" else CASES_A_LEDGER
            taken = [case for case in cases[:few] if case.moment == cases[0].moment]
            cases = cases[len(taken) :]
            home = folder / f"home-{tally.cases}"
            home.mkdir()
            bench = Bench(home, provider)
            try:
                for case in taken:
                    try:
                        tally.count(case, await bench.attempt(case, luck.random() < patient))
                    except AssertionError as broken:
                        raise PromiseBroken(f"{case}: {broken}") from broken
                await bench.close()
            finally:
                await asyncio.to_thread(bench.daemon.end)
    return tally


class Bench:
    """One daemon on which calls fail."""

    def __init__(self, home: Path, provider: Simulator) -> None:
        self.home = home
        self.daemon = _Traced(home, provider)
        self.provider = provider
        self._answered: Counter[str] = Counter()
        self._films: set[str] = set()

    async def attempt(self, case: Case, patient: bool) -> Outcome:  # noqa: FBT001 - drawn
        """Let a call fail while a film arrives, then take the fault away and look.

        Raises:
            AssertionError: a promise is broken.
        """
        daemon, task_id = self.daemon, self.provider.add_task(finished=True)
        trace = Trace(self.home, task_id, case)
        if case.moment == "next start":
            await self.open()
            assert await self._post(self.provider.add_task(finished=True)) == 200
            await asyncio.to_thread(daemon.kill)
        if case.moment in STARTS:
            status, code = await self._start_with(trace, task_id)
        else:
            await self.open()
            if case.moment == "stop":
                assert await self._post(task_id) == 200
                await daemon.until(task_id)
            async with attached(trace, daemon.process.pid):
                if case.moment == "stop":
                    status, code = None, await daemon.stop()
                else:
                    status = await self._post(task_id)
                    code = await self._await_fault(trace, task_id)
                    if code is None and trace.injected() and case.ends:
                        code = await self._await_end()
        self._check_end(case, code)
        if case.moment != "running" or code is not None:
            assert daemon.process.poll() is not None
            self._check_reopened()
        await self._bring_home(task_id, patient=patient)
        killed = code == -signal.SIGKILL
        return Outcome(task_id, 1 if killed else trace.injected(), status, code)

    async def open(self) -> None:
        """Start the daemon unless it runs."""
        if not self.daemon.runs:
            await asyncio.to_thread(self.daemon.start)

    async def close(self) -> None:
        """Stop the daemon and look at all that it leaves."""
        await self.open()
        assert await self.daemon.stop() == 0
        self._check_reopened()

    async def _start_with(self, trace: "Trace", task_id: str) -> tuple[int | None, int | None]:
        """Start under strace; post when it serves; end it as it is."""
        daemon, until = self.daemon, time.monotonic() + PATIENCE_SECONDS
        daemon.spawn_traced(trace)
        while daemon.process.poll() is None and not (ready := daemon.log("daemon.ready")):
            assert time.monotonic() < until, daemon.tell()
            await asyncio.sleep(0.02)
        if (code := daemon.process.poll()) is not None:
            return None, code
        daemon.callback = ready[0]["callback"]
        status = await self._post(task_id)
        await asyncio.sleep(SETTLE_SECONDS)
        if daemon.process.poll() is None:
            daemon.process.kill()
            await daemon.ended()
            return status, None
        return status, daemon.process.poll()

    async def _post(self, task_id: str) -> int | None:
        """Send the callback; return the answer, None when there was none."""
        body = success(task_id, self.provider.tasks[task_id].video_url)
        try:
            heard = await self.daemon.post(body)
        except (aiohttp.ClientError, OSError):
            return None
        assert heard.status in {200, 503}, heard
        if heard.status == 200:
            self._answered[task_id] += 1
            self._films.add(task_id)
        return heard.status

    async def _await_fault(self, trace: "Trace", task_id: str) -> int | None:
        """Wait until the fault was felt, or the film is done; return how the daemon ended."""
        until, felt = time.monotonic() + FAULT_SECONDS, False
        while time.monotonic() < until and self.daemon.runs:
            done = self.daemon.log("task.moved", task_id=task_id, to="done")
            if not felt and (trace.injected() or done):
                felt, until = True, time.monotonic() + SETTLE_SECONDS
            await asyncio.sleep(0.01)
        return self.daemon.process.poll()

    async def _await_end(self) -> int:
        """Wait until the daemon ended, as it has to."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self.daemon.runs:
            assert time.monotonic() < until, f"it goes on\n{self.daemon.tell()}"
            await asyncio.sleep(0.02)
        return self.daemon.process.returncode

    def _check_end(self, case: Case, code: int | None) -> None:
        if case.moment == "stop" and case.fault != "KILL":
            # The log stays beside the database: nothing is lost by a stop that could not tidy. The
            # lock file says how the ledger was left: what could not be noted there is told.
            assert code in {0, int(case.place == "lock")}, f"it ended with {code}"
        elif case.moment != "stop":
            assert code is None or case.may_end(code), f"it ended with {code}"
        broken = self.daemon.history("daemon.failed", message="unexpected error")
        assert not broken, broken
        errors = self.daemon.errors()
        assert not errors, errors

    def _check_reopened(self) -> None:
        """Look at what a daemon that is gone has left."""
        ledger = read_ledger(self.home / "state")
        check_acknowledged(ledger, self._answered)
        check_files(self.daemon.videos, self.provider, ledger)

    async def _bring_home(self, task_id: str, *, patient: bool) -> None:
        """Without the fault: the callback is answered, and the film gets done and is right."""
        await self.open()
        final = self.daemon.videos / f"video_{task_id}.mp4"
        if final.exists():
            film = self.provider.tasks[task_id].film
            assert final.read_bytes() == b"".join(film.read(0, film.size_bytes)), final
        if task_id not in self._films:
            assert await self._post(task_id) == 200
        quick = time.monotonic() + 2 * SETTLE_SECONDS
        while not await self._is_done(task_id):
            if time.monotonic() > quick:
                if not patient:
                    await self._hurry(task_id)
                break
            await asyncio.sleep(0.02)
        until = time.monotonic() + RECOVERY_SECONDS
        while not await self._is_done(task_id):
            assert time.monotonic() < until, f"it does not go on\n{self.daemon.tell()}"
            await asyncio.sleep(0.05)
        check_film(self.daemon, self.provider, task_id)
        check_acknowledged(
            look(f"file:{self.home / 'state' / 'ledger.sqlite3'}?mode=ro"), self._answered
        )

    async def _is_done(self, task_id: str) -> bool:
        """Ask the ledger: a process that was killed may not have said what it had committed."""
        assert self.daemon.runs, f"it ended without need\n{self.daemon.tell()}"
        return bool((await self.daemon.task(task_id))["state"] == "done")

    async def _hurry(self, task_id: str) -> None:
        """End a pause that would end by itself."""
        if "disk" in await self.daemon.gates():
            await self.daemon.retry(task_id)
        else:
            await asyncio.to_thread(self.daemon.kill)
            await self.open()


class _Traced(Daemon):
    """A daemon that can be started under strace."""

    def __init__(self, home: Path, provider: Simulator) -> None:
        made = daemon_on(home, home, provider.base_url, **SETTINGS)
        super().__init__(home, made.config.read_text(), expect_errors=True)
        self.videos = made.videos

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def spawn_traced(self, trace: Trace) -> None:
        """Start a process under strace, which is its grandchild: its id and end are its own."""
        self._runs += 1
        python = (sys.executable, "-m", "daemon", "-c", str(self.config), "serve")
        with self._file("log").open("wb") as output, trace.errors.open("wb") as errors:
            self._file("errors").touch()
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*trace.command(), "-D", *python],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=dict(environment()),
            )


async def survey(home: Path, provider: Simulator) -> list[Case]:
    """Let a film arrive while no call fails, and return every case that there is."""
    daemon = _Traced(home, provider)
    counts: dict[Moment, Counter[tuple[str, str]]] = {}
    task_id = provider.add_task(finished=True)
    body = json.dumps(success(task_id, provider.tasks[task_id].video_url)).encode()
    try:
        trace = Trace(home, task_id, None)
        for moment in STARTS:
            daemon.spawn_traced(trace)
            await daemon.says("daemon.ready")
            await asyncio.sleep(SETTLE_SECONDS)
            await asyncio.to_thread(daemon.kill)
            counts[moment] = trace.count()
        await daemon.restart()
        async with attached(trace, daemon.process.pid):
            assert (await daemon.post(body)).status == 200
            await daemon.until(task_id)
        counts["running"] = trace.count()
        async with attached(trace, daemon.process.pid):
            assert await daemon.stop() == 0
        counts["stop"] = trace.count()
    finally:
        await asyncio.to_thread(daemon.end)
    return [
        Case(moment, place, call, nth, fault, lasting)
        for moment, found in counts.items()
        for (place, call), count in sorted(found.items())
        for nth in range(1, count + 1)
        for fault in (*ERRORS, "KILL")
        for lasting in ((False, True) if fault != "KILL" else (False,))
    ]


def _tell(tally: Tally) -> str:
    return (
        f"{tally.cases} of {tally.listed} cases of {len(tally.groups)} kinds, {tally.injected} "
        f"calls failed, {tally.missed} cases missed their call, {tally.kills} kills, "
        f"{tally.ended} daemons ended by themselves, {tally.refused} callbacks refused, "
        f"{tally.done} films done, nothing lost"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=10_000, unit="cases, at most all there are")()
