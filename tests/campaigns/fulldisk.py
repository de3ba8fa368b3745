"""Fills the disk under the serving daemon to the last byte, and makes room again.

Rule: on a full disk a callback is answered with 200 and kept, or with 503; nothing that was
acknowledged is lost. Downloads wait behind the gate `disk`, the daemon lives, and with room again
everything gets done without anybody's help. A daemon that is started on a full disk serves, or says
which path has no room.

Needs root and e2fsprogs.

    python -m tests.campaigns.fulldisk --size 10 --seed 1
"""

import asyncio
import errno
import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.simulator.simulator import Simulator
from tests.campaigns.callers import CALLBACKS_ALONE, check_acknowledged
from tests.campaigns.campaign import PromiseBroken, command
from tests.campaigns.volumes import (
    MIB,
    check_files,
    daemon_on,
    make_image,
    mounted,
    read_ledger,
)
from tests.stories.harness import PATIENCE_SECONDS, Daemon, ask
from tests.stories.stage import check_film, failure, simulated_provider, success

IMAGE_BYTES: Final = 96 * MIB
FILM_BYTES: Final = 4 * MIB
BEFORE: Final = 2
"""Films that arrive while there is room."""
SHORT_BYTES: Final = 4 * MIB
"""Room for callbacks and for no film."""
SPARE_BYTES: Final = 4096
CALLBACKS: Final = 40
"""How many come at a time."""
FILMS: Final = 0.1
"""The share of callbacks that name a film."""
RECOVERY_SECONDS: Final = 40.0
"""The gate lets one download try every ten seconds."""


@dataclass(slots=True)
class Tally:
    """What was answered while there was no room, and how the daemon came out of it."""

    fills: int = 0
    acknowledged: int = 0
    """Callbacks answered with 200 on a full disk."""
    refused: int = 0
    """Callbacks answered with 503."""
    gates: int = 0
    """How often the gate of the disk was shut."""
    served: int = 0
    """Starts on a full disk after which the daemon served."""
    explained: int = 0
    """Starts on a full disk that ended with a word about the path."""
    words: set[str] = field(default_factory=set)
    """What those said."""
    done: int = 0


async def run_campaign(folder: Path, fills: int, seed: int) -> Tally:
    """Fill a disk `fills` times, a new one each time, and return the count of what was kept.

    Raises:
        PromiseBroken: with the seed that shows it.
    """
    luck, tally = random.Random(seed), Tally()
    async with simulated_provider(file_size_bytes=FILM_BYTES) as provider:
        while tally.fills < fills:
            image = make_image(folder / "disk.img", IMAGE_BYTES, "mkfs.ext4", "-q", "-m", "0")
            log = folder / f"log-{tally.fills}"
            with mounted(image, folder / "disk") as place:
                daemon = daemon_on(place, log, provider.base_url, **CALLBACKS_ALONE)
                try:
                    await _Story(place, daemon, provider, luck, tally).play()
                except AssertionError as broken:
                    told = f"seed {seed}, fill {tally.fills}: {broken}"
                    raise PromiseBroken(told) from broken
                finally:
                    await asyncio.to_thread(daemon.end)
            tally.fills += 1
    return tally


class _Story:
    """One disk that runs full."""

    def __init__(
        self,
        place: Path,
        daemon: Daemon,
        provider: Simulator,
        luck: random.Random,
        tally: Tally,
    ) -> None:
        self._filler = place / "somebody's"
        self._daemon = daemon
        self._provider = provider
        self._luck = luck
        self._tally = tally
        self._answered: Counter[str] = Counter()
        self._films: set[str] = set()

    async def play(self) -> None:
        """Fill, call, stop and start on the full disk, call again, make room."""
        daemon, tally = self._daemon, self._tally
        await asyncio.to_thread(daemon.start)
        for _ in range(BEFORE):
            assert await self._call(film=True) == 200
        if self._luck.random() < 0.5:
            await daemon.until_all(self._films)
        fill(self._filler, leave=SHORT_BYTES)
        assert await self._call_often() == CALLBACKS, "there was room for all of them"
        await daemon.says("gate.closed", gate="disk")
        tally.gates += 1
        for _ in range(2):
            # The second time the daemon's own reserve is taken from it as well.
            fill(self._filler)
            tally.acknowledged += await self._call_often()
        await self._end_somehow()
        self._check_kept()
        fill(self._filler)
        await self._start_full()
        if daemon.process.poll() is None:
            tally.served += 1
            tally.acknowledged += await self._call_often()
            self._filler.unlink()
        else:
            tally.explained += 1
            self._filler.unlink()
            await daemon.restart()
        await self._recover()
        tally.done += len(self._films)
        assert await daemon.stop() == 0
        self._check_kept()

    async def _end_somehow(self) -> None:
        """In turn: stop with room again and all done; be killed; stop; lose power."""
        way = self._tally.fills % 4
        if way == 0:
            # It leaves no log behind: all that a start needs has to be made on the full disk.
            self._filler.unlink()
            await self._recover()
            await self._daemon.says("gate.opened", gate="disk")
        if way in {0, 2}:
            assert await self._daemon.stop() == 0
        else:
            await asyncio.to_thread(self._daemon.kill)
        if way == 3:
            # Nobody ever syncs the index of the log.
            (self._filler.parent / "state" / "ledger.sqlite3-shm").unlink()

    async def _call(self, *, film: bool) -> int:
        """Send one callback and return the answer."""
        if film:
            task_id = self._provider.add_task(finished=True)
            body = success(task_id, self._provider.tasks[task_id].video_url)
        else:
            task_id = f"full-{self._luck.getrandbits(64):016x}"
            body = failure(task_id)
        reply = await ask("POST", self._daemon.url, data=json.dumps(body).encode())
        assert reply.status in {200, 503}, reply
        if reply.status == 200:
            self._answered[task_id] += 1
            if film:
                self._films.add(task_id)
        return reply.status

    async def _call_often(self) -> int:
        """Call, with a film at first; return how often the answer was 200."""
        acknowledged = 0
        for number in range(CALLBACKS):
            status = await self._call(film=number == 0 or self._luck.random() < FILMS)
            acknowledged += status == 200
        assert self._daemon.process.poll() is None, self._daemon.tell()
        self._tally.refused += CALLBACKS - acknowledged
        return acknowledged

    def _finished(self, task_id: str) -> bool:
        return (self._daemon.videos / f"video_{task_id}.mp4").exists()

    async def _start_full(self) -> None:
        """Start on the full disk; wait until the daemon serves or ends with a word about it."""
        daemon, until = self._daemon, time.monotonic() + PATIENCE_SECONDS
        daemon.spawn()
        while daemon.process.poll() is None and not (ready := daemon.log("daemon.ready")):
            assert time.monotonic() < until, daemon.tell()
            await asyncio.sleep(0.02)
        if daemon.process.poll() is None:
            daemon.callback = ready[0]["callback"]
            return
        assert daemon.process.returncode == 1, daemon.tell()
        (failed,) = daemon.log("daemon.failed")
        self._tally.words.add(failed["message"])
        assert str(self._filler.parent) in failed["message"], f"which path? {failed['message']}"
        assert "room" in failed["message"], f"what is to be done? {failed['message']}"

    async def _recover(self) -> None:
        """With room, all that was acknowledged gets done; nobody helps."""
        daemon, until = self._daemon, time.monotonic() + RECOVERY_SECONDS
        while not all(map(self._finished, self._films)):
            assert time.monotonic() < until, f"it does not go on\n{daemon.tell()}"
            assert daemon.process.poll() is None, daemon.tell()
            await asyncio.sleep(0.05)
        await daemon.until_all(self._films)
        assert not await daemon.gates()
        assert await self._call(film=False) == 200
        for task_id in self._films:
            check_film(daemon, self._provider, task_id)

    def _check_kept(self) -> None:
        """Look at the ledger that a stopped daemon has left."""
        ledger = read_ledger(self._filler.parent / "state")
        check_acknowledged(ledger, self._answered)
        check_files(self._daemon.videos, self._provider, ledger)


def fill(path: Path, leave: int = 0) -> None:
    """Let somebody else's file take all room, to the last byte but those that it is to leave."""
    size = 16 * MIB
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        while size:
            try:
                os.posix_fallocate(file.fileno(), end, size)
                end += size
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
        if leave:
            file.truncate(end - leave)
            return
    # A truncation would free again what ext4 took for the last try.
    left = os.statvfs(path.parent)
    assert left.f_bavail * left.f_frsize < SPARE_BYTES, f"{left.f_bavail} blocks are left"


def _tell(tally: Tally) -> str:
    said = "".join(f"\n  it said: {words}" for words in sorted(tally.words))
    return (
        f"{tally.fills} disks filled, {tally.acknowledged} callbacks acknowledged without room and "
        f"{tally.refused} refused, {tally.gates} gates shut, started on the full disk: "
        f"{tally.served} served, {tally.explained} said why not, {tally.done} films done, "
        f"nothing lost{said}"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=10, unit="fills")()
