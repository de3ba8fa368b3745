"""What the tests of the stations share: a clock that can be set, a ledger, a provider in a box."""

import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from sqlite3 import SQLITE_DENY  # noqa: TID251 - a ledger is broken from below here

import pytest
import structlog

from daemon.config.sections import Download
from daemon.disk import Disk
from daemon.download import Downloader
from daemon.gates import Gates, Shut
from daemon.hosts import Hosts
from daemon.outbound import file_session
from daemon.right_of_way import RightOfWay
from daemon.rules.address import AddressPolicy
from daemon.rules.lifecycle import Cause, State
from daemon.rules.task import Move, Task, Tidings
from daemon.simulator.provider import SimulatorOptions
from daemon.simulator.simulator import Simulator
from daemon.store import Store, open_store
from tests.stations.submitting import Start, make_start

START = 1_790_000_000_000
"""Milliseconds since 1970, in September 2026: when every test begins."""
WEEK = 7 * 86_400_000


class _Clock:
    def __init__(self) -> None:
        self.at = START


@pytest.fixture
def _clock() -> _Clock:
    return _Clock()


@pytest.fixture
def now(_clock: _Clock) -> Callable[[], int]:
    """The clock that the stations are given; it stands still until `advance` moves it."""
    return lambda: _clock.at


@pytest.fixture
def advance(_clock: _Clock) -> Callable[[int], None]:
    """Move the clock by milliseconds, also backwards."""

    def move(by_ms: int) -> None:
        _clock.at += by_ms

    return move


@pytest.fixture
def moves() -> list[Move]:
    """What the ledger of the `store` fixture told its observer."""
    return []


@pytest.fixture
async def store(tmp_path: Path, moves: list[Move]) -> AsyncIterator[Store]:
    """A ledger on a real disk."""
    async with open_store(tmp_path / "state", moves.extend) as opened:
        yield opened


@pytest.fixture
def plant(store: Store, now: Callable[[], int]) -> Callable[..., Awaitable[Task]]:
    """Put a task into the ledger, as (task id, state, columns), whatever led to it."""

    async def put(task_id: str, state: State = State.EXPECTED, **columns: object) -> Task:
        at = now()
        link = "https://files.example.com/a.mp4"
        whole = {"link": link, "fetch_at": at, "stored_at": at, "size_bytes": 1, "sha256": "00"}
        whole["path"] = f"/videos/{task_id}.mp4"
        values = (whole if state is not State.EXPECTED else {}) | {"state": state, **columns}
        birth = Tidings(
            task_id=task_id, cause=Cause.HINTED, now=at, deadline_at=at + WEEK, ask_at=None
        )
        await store.receive([birth])
        sets = ", ".join(f"{name} = :{name}" for name in values)
        await store.commits.connection.execute_fetchall(
            f"UPDATE task SET {sets} WHERE task_id = :key",  # noqa: S608 - only column names
            {**values, "key": task_id},
        )
        task = await store.task(task_id)
        assert task is not None
        return task

    return put


@pytest.fixture
def break_ledger(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[None]]:
    """Let every statement fail from now on, or none any more; who waits for it waits 20 ms.

    What people ask for goes another way, and fails with `looks`.
    """
    monkeypatch.setattr("daemon.store.STORE_PAUSE_MS", 20)

    async def set_broken(*, broken: bool, looks: bool = False) -> None:
        deny = (lambda *_: SQLITE_DENY) if broken else None
        await store.commits.connection.set_authorizer(deny)
        if looks:
            await store._reader.set_authorizer(deny)

    return set_broken


@pytest.fixture
def want(
    store: Store, plant: Callable[..., Awaitable[Task]], now: Callable[[], int]
) -> Callable[..., Awaitable[Task]]:
    """Put a wanted task with this link into the ledger, as (link, task id, columns); claim it."""

    async def put(link: str, task_id: str = "a", **columns: object) -> Task:
        unknown = dict.fromkeys(("size_bytes", "sha256", "path", "stored_at"))
        await plant(task_id, State.WANTED, **unknown | {"link": link} | columns)
        claimed = await store.claim(task_id, now())
        assert claimed is not None
        return claimed

    return put


@pytest.fixture
def announced() -> list[str]:
    """What the gates announced: `gate.closed disk`, `gate.opened disk`."""
    return []


@pytest.fixture
def gates(now: Callable[[], int], announced: list[str]) -> Gates:
    """The gates of one process."""

    def announce(event: str, shut: Shut) -> None:
        announced.append(f"{event} {shut.name}")

    return Gates(now, announce)


@pytest.fixture
def hosts(gates: Gates, now: Callable[[], int]) -> Hosts:
    """What is known of the file hosts."""
    return Hosts(gates, now, lambda: 600_000)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    """A download folder."""
    made = Disk(tmp_path / "videos", workers=2, file_mode=0o640, directory_mode=0o750)
    await made.prepare()
    yield made
    made.close()


@pytest.fixture
async def make_downloader(
    store: Store, gates: Gates, disk: Disk, now: Callable[[], int]
) -> AsyncIterator[Callable[..., Downloader]]:
    """Build a downloader that may dial this machine, as (min_free, changes of `[download]`)."""
    policy = AddressPolicy(allow_http=True, allow_private=(ip_network("127.0.0.0/8"),))
    async with file_session(lambda: policy, 5, 5, 8) as session:

        def make(
            min_free: int = 0,
            folder: Disk = disk,
            ledger: Store = store,
            way: RightOfWay | None = None,
            **changes: object,
        ) -> Downloader:
            section = Download(directory=folder.directory, **changes)  # type: ignore[arg-type]
            return Downloader(
                *(ledger, session, lambda: policy, folder, gates),
                section=lambda: section,
                min_free_bytes=lambda: min_free,
                now=now,
                way=way,
            )

        yield make


async def _refuse_post(_url: str, _body: bytes, _headers: Mapping[str, str]) -> int:
    raise ConnectionRefusedError


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A provider that answers the key `key` and serves films of 3,000,000 bytes."""
    simulator = Simulator(SimulatorOptions(api_key="key", file_size_bytes=3_000_000), _refuse_post)
    async with simulator.serve():
        yield simulator


@pytest.fixture
def start(store: Store, gates: Gates, now: Callable[[], int]) -> Start:
    """Run a submitter against a simulator."""
    return make_start(store, gates, now)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for the provider's word longer than 0.3 s."""
    monkeypatch.setattr("daemon.submitter.ANSWER_SECONDS", 0.3)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A log that ends up in memory."""
    yield io.StringIO()
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()
    logging.captureWarnings(capture=False)
