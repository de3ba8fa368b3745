"""What the daemon looks at for a diagnosis: nothing stays, nothing hangs, nothing is disturbed."""

import asyncio
import os
import sqlite3  # noqa: TID251 - a ledger is damaged from below here
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from io import StringIO
from pathlib import Path

import pytest
import structlog

from daemon import diagnosis
from daemon.backup import back_up
from daemon.clock import Clock
from daemon.config.sections import Secret
from daemon.diagnosis import Examiner
from daemon.disk import Disk
from daemon.gates import Gates
from daemon.logs import recent_trouble, set_up_logs
from daemon.outbound import api_session, file_session
from daemon.premises import look_at_folder, look_at_place
from daemon.provider import Provider
from daemon.rules.address import AddressPolicy
from daemon.rules.filename import name_partial
from daemon.rules.lifecycle import State
from daemon.simulator.simulator import Simulator
from daemon.soundness import look_quickly
from daemon.store import Store
from daemon.views import show_time
from tests.stations.examining import make_examiner, make_submitter

MIB = 1 << 20
WEEK = 7 * 86_400_000
POLICY = AddressPolicy(allow_http=True)


@asynccontextmanager
async def examining(
    folder: Path,
    store: Store,
    gates: Gates,
    disk: Disk,
    simulator: Simulator,
    now: Callable[[], int],
) -> AsyncIterator[Examiner]:
    """Yield an examiner whose provider is the simulator."""
    clock = Clock(now)
    async with (
        api_session(simulator.base_url, lambda: Secret("key")) as session,
        file_session(lambda: POLICY, 1, 1, 1) as files,
    ):
        provider = Provider(session, "sunoapi", gates, now, 1000, hear_date=clock.compare)
        submitter = make_submitter(store, provider, files, gates, policy=POLICY, now=now)
        examiner = make_examiner(
            *(folder, store, gates, disk),
            provider=provider,
            submitter=submitter,
            now=now,
            clock=clock,
        )
        try:
            yield examiner
        finally:
            await examiner.aclose()


@pytest.fixture
async def examiner(
    tmp_path: Path,
    store: Store,
    gates: Gates,
    disk: Disk,
    simulator: Simulator,
    *,
    now: Callable[[], int],
) -> AsyncIterator[Examiner]:
    """An examiner over a real ledger and a real disk."""
    async with examining(tmp_path, store, gates, disk, simulator, now) as made:
        yield made


def everything(folder: Path) -> set[str]:
    """Return the names of all files below a folder."""
    return {str(path) for path in folder.rglob("*")}


async def test_two_at_once_are_one(examiner: Examiner, tmp_path: Path) -> None:
    """Who asks meanwhile gets the same; who asks afterwards gets another; no file stays."""
    await examiner.diagnose()
    before = everything(tmp_path)
    first, second = await asyncio.gather(examiner.diagnose(), examiner.diagnose())
    assert first is second
    assert await examiner.diagnose() is not first
    assert everything(tmp_path) == before
    assert first.videos.speed is not None
    assert first.videos.speed.size_bytes == 8 * MIB
    assert first.provider.outcome == "answered"


async def test_who_hangs_up_takes_it_from_nobody(examiner: Examiner) -> None:
    """A diagnosis goes on for those who still wait."""
    impatient = asyncio.create_task(examiner.diagnose())
    patient = asyncio.create_task(examiner.diagnose())
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).pid == os.getpid()
    assert impatient.cancelled()


async def test_a_disk_that_hangs_holds_nobody_up(
    examiner: Examiner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said to hang, and no second thread is sent after the first."""
    monkeypatch.setattr(diagnosis, "DISK_SECONDS", 0.3)
    examiner.disk = Disk(tmp_path / "videos", workers=16, file_mode=0o640, directory_mode=0o750)
    go_on, begun = threading.Event(), []

    def hang(*_: object) -> None:
        begun.append(1)
        go_on.wait(20)

    monkeypatch.setattr(diagnosis, "look_at_folder", hang)
    try:
        found = await examiner.diagnose()
        assert found.videos.error == "no answer within 0.3 s"
        assert found.provider.outcome == "answered"
        count = len(begun)
        assert (await examiner.diagnose()).state.error is not None
        assert len(begun) == count
    finally:
        go_on.set()
        examiner.disk.close()


async def test_a_shut_gate_is_not_knocked_at(
    examiner: Examiner, gates: Gates, simulator: Simulator
) -> None:
    """Not even by a doctor: it says which one it is."""
    gates.close("key", "wrong key")
    found = await examiner.diagnose()
    assert (found.provider.asked, found.provider.message) == (
        False,
        "gate key is shut: wrong key",
    )
    assert [gate.name for gate in found.gates] == ["key"]
    assert not simulator.requests


async def test_partial_files_of_open_tasks_are_no_leftovers(
    examiner: Examiner, disk: Disk, plant: Callable[..., object]
) -> None:
    """Those of finished ones are."""
    for state in (State.WANTED, State.FAILED, State.DONE):
        await plant(state.value, state)  # type: ignore[misc]
        disk.partial(name_partial(state.value)).write_bytes(b"xyz")
    found = (await examiner.diagnose()).leftovers
    assert found is not None
    assert (found.files, found.size_bytes) == (1, 3)
    assert found.names == [name_partial("done")]


async def test_a_test_file_has_no_name_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever kills the daemon meanwhile, it is gone."""
    (tmp_path / ".partial").mkdir()
    seen: list[list[str]] = []
    write = os.write

    def spy(descriptor: int, data: bytes) -> int:
        seen.append([path.name for path in (tmp_path / ".partial").iterdir()])
        return write(descriptor, data)

    monkeypatch.setattr("daemon.premises.os.write", spy)
    found = look_at_folder(tmp_path, ".partial", 2 * MIB, 0)
    assert found.speed is not None
    assert found.speed.seconds
    assert seen == [[], []]


def test_a_disk_without_room_is_not_written_to(tmp_path: Path) -> None:
    """The last bytes belong to callbacks."""
    free = look_at_folder(tmp_path, None, MIB, 0).free_bytes
    assert free is not None
    assert look_at_folder(tmp_path, None, MIB, free - MIB).speed is None


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """Nobody leads the test file somewhere else."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".partial").symlink_to("elsewhere")
    found = look_at_folder(tmp_path, ".partial", MIB, 0)
    assert found.speed is not None
    assert found.speed.error is not None


def test_places_are_looked_at(tmp_path: Path) -> None:
    """Mode, owner, and whether we may write; what is missing is no place."""
    (tmp_path / "file").write_text("")
    (tmp_path / "file").chmod(0o640)
    place = look_at_place(tmp_path / "file", 0o600)
    assert place is not None
    assert (place.mode, place.most, place.own, place.writable) == ("0640", "0600", True, True)
    assert look_at_place(tmp_path / "none", 0o600) is None


async def test_a_damaged_ledger_is_found(store: Store, tmp_path: Path) -> None:
    """By a short look, through a connection that changes nothing."""
    path = tmp_path / "state" / "ledger.sqlite3"
    assert look_quickly(path, 5) is None
    await store.tidy()
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 3 + 2000] = b"\xff" * 2000
    copy = tmp_path / "copy.sqlite3"
    copy.write_bytes(content)
    with suppress(sqlite3.DatabaseError):
        assert look_quickly(copy, 5) is not None
    assert copy.read_bytes() == bytes(content)


async def test_a_backup_is_known(examiner: Examiner, tmp_path: Path) -> None:
    """When the last copy was made is told, and that none was."""
    assert (await examiner.diagnose()).ledger.backed_up_at is None
    back_up(tmp_path / "state", tmp_path / "copy.sqlite3")
    copied_at = (await examiner.diagnose()).ledger.backed_up_at
    noted = (tmp_path / "state" / "last-backup").stat().st_mtime
    assert copied_at == show_time(int(noted * 1000))


async def test_a_look_that_takes_too_long_is_given_up(tmp_path: Path, store: Store) -> None:
    """A large ledger is not read for a minute because somebody asks for a doctor."""
    filler = [("quarantine-" + str(number), str(number), bytes(200)) for number in range(20_000)]
    await store.commits.connection.executemany(
        "INSERT INTO quarantine (id, received_at, why, sha256, body) VALUES (?, 1, 'w', ?, ?)",
        filler,
    )
    await store.commits.connection.commit()
    with pytest.raises(TimeoutError):
        look_quickly(tmp_path / "state" / "ledger.sqlite3", 0)


def test_the_last_warnings_are_kept_masked_and_bounded() -> None:
    """Twenty of them, without tracebacks; what is no trouble is not kept."""
    stream = StringIO()
    set_up_logs(level="info", form="json", secrets=["a-secret-of-this-test"], stream=stream)
    try:
        log = structlog.get_logger()
        log.info("poll.asked")
        for number in range(25):
            log.warning("download.failed", number=number, message="x" * 999)
        log.error("store.failed", message="with a-secret-of-this-test", exc_info=ValueError("b"))
        kept = recent_trouble()
    finally:
        structlog.reset_defaults()
    assert len(kept) == 20
    assert [one["event"] for one in kept[:-1]] == ["download.failed"] * 19
    assert kept[-1]["message"] == "with ***"
    assert "exc_info" not in kept[-1]
    assert len(str(kept[0]["message"])) == 300
