"""From verified bytes to a final name: crashes at every point, and names that others have."""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from daemon.disk import Disk
from daemon.download import Downloader
from daemon.rules.filename import name_partial
from daemon.rules.lifecycle import State
from daemon.rules.task import Task
from daemon.rules.verdict import Verdict
from daemon.simulator.faults import Faults, FileFault
from daemon.simulator.films import Film
from daemon.simulator.simulator import Simulator
from daemon.store import Store, open_store

Make = Callable[..., Downloader]
Plant = Callable[..., Awaitable[Task]]
Want = Callable[..., Awaitable[Task]]

FILM = b"".join(Film("publish", 100_000).read(0, 100_000))
SHA256 = hashlib.sha256(FILM).hexdigest()


@pytest.fixture
def verified(plant: Plant, disk: Disk) -> Callable[..., Awaitable[Task]]:
    """Put a verified task and its partial file there."""

    async def put(task_id: str = "a", name: str = "video_a.mp4") -> Task:
        disk.partial(name_partial(task_id)).write_bytes(FILM)
        path = str(disk.directory / name)
        size = {"size_bytes": len(FILM), "spans": f"0-{len(FILM)}"}
        return await plant(
            task_id, State.VERIFIED, sha256=SHA256, path=path, stored_at=None, **size
        )

    return put


def names(disk: Disk) -> dict[str, bytes]:
    """Return what lies in the download folder, by name."""
    return {path.name: path.read_bytes() for path in disk.directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("crashed", ["before the link", "after the link", "after the unlink"])
async def test_publishing_is_finished_after_a_crash(
    make_downloader: Make, verified: Plant, disk: Disk, crashed: str
) -> None:
    """Nobody is asked for a byte again: what was verified is on this disk under some name."""
    task = await verified()
    part = disk.partial(name_partial("a"))
    if crashed != "before the link":
        os.link(part, task.path or "")
    if crashed == "after the unlink":
        part.unlink()
    done = await make_downloader().publish(task)
    assert (done.state, done.stored_at) == ("stored", task.created_at)
    assert names(disk) == {"video_a.mp4": FILM}
    assert not part.exists()


async def test_bytes_that_vanished_are_wanted_again(
    make_downloader: Make, verified: Plant, disk: Disk
) -> None:
    """With nothing left on record of what was there."""
    task = await verified()
    disk.partial(name_partial("a")).unlink()
    again = await make_downloader().publish(task)
    assert (again.state, again.spans, again.size_bytes, again.validator) == (
        "wanted",
        "",
        None,
        None,
    )


async def test_bytes_that_changed_since_are_wanted_again(
    make_downloader: Make, verified: Plant, disk: Disk
) -> None:
    """The digest is compared once more before the name is given."""
    task = await verified()
    disk.partial(name_partial("a")).write_bytes(FILM[:-1] + b"x")
    assert (await make_downloader().publish(task)).state == "wanted"
    assert names(disk) == {}


async def test_a_name_taken_by_the_same_film_is_adopted(
    simulator: Simulator, make_downloader: Make, want: Want, disk: Disk
) -> None:
    """A copy that a person put there is taken for ours, without a second one beside it."""
    task_id = simulator.add_task(Faults(callbacks=()), film=Film("publish", 100_000))
    (disk.directory / "video_a.mp4").write_bytes(FILM)
    downloader = make_downloader()
    task = await downloader.fetch(await want(simulator.tasks[task_id].video_url))
    assert (await downloader.publish(task)).state == "stored"
    assert names(disk) == {"video_a.mp4": FILM}


@pytest.mark.parametrize("late", [False, True])
async def test_a_name_taken_by_something_else_gets_a_neighbour(
    simulator: Simulator, make_downloader: Make, want: Want, disk: Disk, *, late: bool
) -> None:
    """Before the film is verified or after it: nothing of somebody else's is overwritten."""
    task_id = simulator.add_task(Faults(callbacks=()), film=Film("publish", 100_000))
    neighbour = f"video_a-{SHA256[:8]}.mp4"
    foreign = {"video_a.mp4": b"mine", neighbour: b"mine too"}
    downloader, task = make_downloader(), await want(simulator.tasks[task_id].video_url)
    if late:
        task = await downloader.fetch(task)
    for name, content in foreign.items():
        (disk.directory / name).write_bytes(content)
    for _ in range(9):
        if task.state == "stored":
            break
        step = downloader.fetch if task.state == "wanted" else downloader.publish
        task = await step(task)
    path = f"video_a-{SHA256[:8]}-{SHA256[:8]}.mp4"
    assert (task.state, task.path) == ("stored", str(disk.directory / path))
    assert names(disk) == foreign | {path: FILM}


async def test_two_tasks_with_one_name_get_two_files(
    simulator: Simulator, make_downloader: Make, want: Want, disk: Disk
) -> None:
    """`{label}` or `{date}` may name many tasks alike, and twins may even hold the same film."""
    downloader = make_downloader(file_name="{label}.mp4")
    seeds = {"a": "publish", "b": "other", "c": "publish"}
    tasks = []
    for task_id, seed in seeds.items():
        film = Film(seed, 100_000)
        at_host = simulator.tasks[simulator.add_task(Faults(callbacks=()), film=film)]
        tasks.append(await want(at_host.video_url, task_id, label="song"))

    async def carry(task: Task) -> Task:
        while task.state in {"wanted", "verified"}:
            step = downloader.fetch if task.state == "wanted" else downloader.publish
            task = await step(task)
        return task

    stored = await asyncio.gather(*(carry(task) for task in tasks))
    assert [task.state for task in stored] == ["stored"] * 3
    paths = [Path(task.path or "") for task in stored]
    assert len(set(paths)) == 3
    assert disk.directory / "song.mp4" in paths
    for task, path in zip(stored, paths, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == task.sha256


async def test_a_link_that_was_replaced_unconfirmed_stores_nothing(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store, disk: Disk
) -> None:
    """The provider names another link while a forger's film is fetched: that one is thrown away."""
    slow = FileFault(bytes_per_second=500_000)
    forged = simulator.add_task(Faults(callbacks=(), files=(slow,)), film=Film("f", 200_000))
    true = simulator.add_task(Faults(callbacks=()), film=Film("publish", 100_000))
    downloader, task = (
        make_downloader(),
        await want(simulator.tasks[forged].video_url, unconfirmed=1),
    )
    fetching = asyncio.create_task(downloader.fetch(task))
    await asyncio.sleep(0.2)
    answer = Verdict(None, {"link": simulator.tasks[true].video_url, "unconfirmed": 0})
    await store.settle(task, task.created_at, lambda _: answer)
    again = await fetching
    assert (again.state, again.spans, again.unconfirmed) == ("wanted", "", 0)
    stored = await downloader.publish(await downloader.fetch(again))
    assert (stored.state, stored.sha256) == ("stored", SHA256)
    assert names(disk) == {"video_a.mp4": FILM}


async def test_a_renewed_link_does_not_waste_a_download(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store
) -> None:
    """A confirmed film stays one when the provider signs its link anew under way."""
    slow = FileFault(bytes_per_second=500_000)
    task_id = simulator.add_task(Faults(callbacks=(), files=(slow,)), film=Film("publish", 100_000))
    task = await want(simulator.tasks[task_id].video_url)
    fetching = asyncio.create_task(make_downloader().fetch(task))
    await asyncio.sleep(0.1)
    answer = Verdict(None, {"link": "https://files.example.com/renewed.mp4"})
    await store.settle(task, task.created_at, lambda _: answer)
    assert (await fetching).state == "verified"


async def test_the_name_comes_from_the_task_and_is_harmless(
    simulator: Simulator, make_downloader: Make, want: Want, disk: Disk
) -> None:
    """Date of adoption, label and id, each through the name filter."""
    task_id = simulator.add_task(Faults(callbacks=()), film=Film("publish", 100_000))
    task = await want(simulator.tasks[task_id].video_url, "a:b", label="../x")
    stored = await make_downloader(file_name="{date}_{label}_{task_id}.mp4").fetch(task)
    path = Path(stored.path or "")
    assert path.parent == disk.directory
    assert path.name.startswith("2026-09-21____x-")


async def test_a_verified_task_without_a_path_is_a_bug(
    make_downloader: Make, verified: Plant
) -> None:
    """The database cannot hold one; whoever makes one up hears of it."""
    task = await verified()
    with pytest.raises(ValueError, match="without a path"):
        await make_downloader().publish(
            Task(**{name: getattr(task, name) for name in task.__slots__} | {"path": None})
        )


_VICTIM = """
import asyncio, os, signal, sys
from ipaddress import ip_network
from pathlib import Path
from daemon.config.sections import Download
from daemon.disk import Disk
from daemon.download import Downloader
from daemon.gates import Gates
from daemon.outbound import file_session
from daemon.rules.address import AddressPolicy
from daemon.rules.lifecycle import State
from daemon.rules.task import Tidings
from daemon.rules.lifecycle import Cause
from daemon.store import Store, open_store

home, link, left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
WATCHED = {"open", "os.chmod", "os.link", "os.remove", "os.rename", "os.truncate"}

def die_sometime(event, arguments):
    global left
    ours = event != "open" or any(word in str(arguments[0]) for word in (".part", ".mp4", "videos"))
    if event in WATCHED and ours:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    policy = AddressPolicy(allow_http=True, allow_private=(ip_network("127.0.0.0/8"),))
    disk = Disk(home / "videos", workers=2, file_mode=0o640, directory_mode=0o750)
    await disk.prepare()
    store_at, session_at = open_store(home / "state"), file_session(lambda: policy, 5, 5, 4)
    async with store_at as store, session_at as session:
        section = Download(directory=disk.directory)
        gates = Gates(lambda: 2, lambda *_: None)
        downloader = Downloader(
            *(store, session, lambda: policy, disk, gates),
            section=lambda: section, min_free_bytes=lambda: 0, now=lambda: 2
        )
        steps = {
            "wanted": downloader.fetch, "verified": downloader.publish, "stored": downloader.finish
        }
        await store.receive(
            [Tidings(task_id="a", cause=Cause.LINKED, now=1, deadline_at=9, ask_at=None, link=link)]
        )
        task = await store.claim("a", 2) or await store.task("a")
        sys.addaudithook(die_sometime)
        while task.state in steps:
            print(task.state, flush=True)
            task = await steps[task.state](task)
        print(task.state, flush=True)
    disk.close()

asyncio.run(main())
"""


async def test_a_kill_before_any_disk_operation_costs_nothing(
    simulator: Simulator, tmp_path: Path
) -> None:
    """`kill -9` before the first, the second, ... until none is left; each is finished afterwards.

    A film is there whole or not at all, and what was verified is never asked for again.
    """
    states: list[str] = []
    for number in range(1, 100):
        home = tmp_path / str(number)
        task_id = simulator.add_task(Faults(callbacks=()), film=Film("publish", 100_000))
        link, asked = simulator.tasks[task_id].video_url, len(simulator.requests)

        async def run(kill_at: int, home: Path = home, link: str = link) -> tuple[int, list[str]]:
            victim = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _VICTIM, str(home), link, str(kill_at)),
                stdout=subprocess.PIPE,
            )
            output, _ = await victim.communicate()
            return victim.returncode or 0, [
                word for word in output.decode().split() if word in set(State)
            ]

        status, states = await run(number)
        for path in (home / "videos").glob("*.mp4"):
            assert path.read_bytes() == FILM, number
        if status == 0:
            break
        assert status == -9
        requests = len(simulator.requests)
        status, again = await run(0)
        assert (status, again[0], again[-1]) == (0, states[-1], "done")
        assert [path.name for path in (home / "videos").iterdir() if path.is_file()] == [
            "video_a.mp4"
        ]
        assert (home / "videos" / "video_a.mp4").read_bytes() == FILM
        assert list((home / "videos" / ".partial").iterdir()) == []
        if states[-1] != "wanted":
            assert len(simulator.requests) == requests
        assert len(simulator.requests) - asked <= 2
        async with open_store(home / "state") as store:
            steps = [step.after for step in await store.history("a")]
            assert steps == ["wanted", "verified", "stored", "done"]
    assert number > 8
    assert states == ["wanted", "verified", "stored", "done"]
