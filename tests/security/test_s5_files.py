"""S5: where bytes may land, under which names and modes, and what a planted link changes."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.config import ConfigError, load
from daemon.disk import Disk
from daemon.folder import open_own_file, open_own_folder, open_to_read
from daemon.partial import open_partial
from daemon.rules.failure import Hindered
from daemon.rules.filename import name_partial, name_video
from daemon.store import Store
from daemon.token import make_token, token_path
from tests.stories.stage import Stage, check_film, success

HOSTILE_IDS = [
    "../../etc/passwd",
    "a/b",
    "a\x00b",
    "\u202egnp.exe",
    "-rf",
    ".hidden",
    "..",
    "CON",
    "abc\n",
    "\uff0e\uff0e\uff0fx",
    "\udcff",
    "x" * 200,
    "TASK",
    "task",
]


@pytest.mark.parametrize("template", ["video_{task_id}.mp4", "{label}{task_id}.mp4"])
def test_s5_01_no_id_and_no_label_leaves_the_folder(template: str) -> None:
    """Whatever somebody calls a task, its files are plain names in one folder, and all differ."""
    names = set()
    for number, odd in enumerate(HOSTILE_IDS):
        name = name_video(template, task_id=odd, label=odd, date="2026-11-22")
        assert not name.startswith((".", "-"))
        for made in (name, name_partial(odd)):
            assert Path(made).name == made
            assert made.isascii()
            assert made.isprintable()
            assert len(made) <= 255
        names.add(name)
        assert len(names) == number + 1


async def test_s5_01_what_is_no_id_is_no_task(stage: Stage) -> None:
    """A callback about such an id is kept for a person, and makes no file."""
    daemon = await stage.daemon(None, callback={"trust": "callback"}, provider={"api_key": None})
    for odd in HOSTILE_IDS[:8]:
        assert (await daemon.post(success(odd, "http://127.0.0.1:9/a.mp4"))).status == 200
    tasks = set(await daemon.tasks())
    assert tasks <= {"CON", "-rf"}
    assert {path.name for path in daemon.videos.iterdir()} == {".partial"}


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file of somebody's outside, which must stay as it is."""
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    yield path
    assert path.read_bytes() == b"precious"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def plant(path: Path, kind: str, target: Path) -> None:
    """Put a symbolic or a hard link, or something else, where a file of ours would be made."""
    if kind == "symlink":
        path.symlink_to(target)
    elif kind == "hard link":
        path.hardlink_to(target)
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo"])
async def test_s5_02_nothing_is_written_through_a_planted_partial_file(
    disk: Disk, victim: Path, kind: str
) -> None:
    """It gives way to a file of ours, however it got there."""
    await disk.prepare()
    path = disk.partial("a.part")
    plant(path, kind, victim)

    async def record(*_: object) -> None:
        return

    async with open_partial(disk, path, record, spans="", total_bytes=None, validator=None) as part:
        await part.write(0, memoryview(b"film"))
    found = path.lstat()
    assert (stat.S_ISREG(found.st_mode), found.st_nlink) == (True, 1)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert path.read_bytes() == b"film"


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo"])
async def test_s5_02_a_planted_final_name_is_neither_followed_nor_taken(
    stage: Stage, victim: Path, kind: str
) -> None:
    """The video gets a name beside it; what was planted stays."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task()
    planted = daemon.videos / f"video_{task_id}.mp4"
    plant(planted, kind, victim)
    before = planted.lstat()
    await daemon.post(success(task_id, provider.tasks[task_id].video_url))
    task = await daemon.until(task_id)
    assert task["path"] != str(planted)
    stored = Path(task["path"])
    assert stored.parent == daemon.videos
    assert not await asyncio.to_thread(stored.is_symlink)
    assert planted.lstat()[:6] == before[:6]


@pytest.mark.parametrize("other", ["symlink", "another user's"])
async def test_s5_02_a_folder_that_is_not_ours_gets_no_bytes(
    disk: Disk, tmp_path: Path, other: str
) -> None:
    """In a shared download folder somebody may put another `.partial` in place of ours."""
    await disk.prepare()
    partials = disk.directory / ".partial"
    partials.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if other == "symlink":
        partials.symlink_to(elsewhere)
    elif os.geteuid():
        pytest.skip("needs root, to be another user")
    else:
        partials.mkdir()
        os.chown(partials, 65534, 65534)

    async def record(*_: object) -> None:
        return

    with pytest.raises(Hindered):
        async with open_partial(
            disk, disk.partial("a.part"), record, spans="", total_bytes=None, validator=None
        ):
            pytest.fail("bytes would land there")
    assert list(elsewhere.iterdir()) == []
    assert list(partials.iterdir()) == []


def test_s5_02_what_another_user_left_gives_way(tmp_path: Path) -> None:
    """Not only a link: a file of his he could still be writing to."""
    if os.geteuid():
        pytest.skip("needs root, to have another user's file")
    folder = tmp_path / "videos" / ".partial"
    folder.mkdir(parents=True)
    (folder / "a.part").write_bytes(b"his")
    os.chown(folder / "a.part", 65534, 65534)
    with open_own_folder(folder) as opened:
        descriptor = open_own_file(opened, "a.part")
        assert os.fstat(descriptor).st_uid == os.geteuid()
        assert os.fstat(descriptor).st_size == 0
        os.close(descriptor)


def test_s5_02_a_name_is_looked_up_in_the_folder_that_is_open(tmp_path: Path) -> None:
    """Who swaps the folder in the middle of a change swaps nothing."""
    folder = tmp_path / "videos" / ".partial"
    folder.mkdir(parents=True)
    (folder / "a.part").write_bytes(b"ours")
    with open_own_folder(folder) as opened:
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        (folder / "a.part").write_bytes(b"swapped")
        descriptor = open_to_read(opened, "a.part")
        assert descriptor is not None
        with os.fdopen(descriptor, "rb") as file:
            assert file.read() == b"ours"


async def test_s5_03_modes_are_as_narrow_as_they_can_be(stage: Stage) -> None:
    """Ledger, token and partial files are ours alone, videos are for the group; umask or not."""
    before = os.umask(0)
    try:
        provider = await stage.provider()
        daemon = await stage.daemon(provider, callback={"tokens": None})
        assert not daemon.log("config.warning")
        task_id = provider.add_task(finished=True)
        await daemon.track(task_id)
        await daemon.until(task_id)
        check_film(daemon, provider, task_id)
    finally:
        os.umask(before)
    modes = {
        path.relative_to(daemon.folder).as_posix(): stat.S_IMODE(path.lstat().st_mode)
        for path in daemon.folder.rglob("*")
    }
    for name, mode in modes.items():
        if name.startswith("state/"):
            assert mode & 0o077 == 0, (name, oct(mode))
    assert modes["state"] & 0o077 == 0
    assert modes["state/callback-token"] == 0o600
    assert modes["state/admin.sock"] == 0o600
    assert modes["videos"] == 0o750
    assert modes["videos/.partial"] == 0o700
    assert modes[f"videos/video_{task_id}.mp4"] == 0o640


def test_s5_03_a_token_that_others_could_read_is_closed_again(tmp_path: Path) -> None:
    """A copy or a backup brings its own mode; the token stays what the provider was given."""
    token = make_token(tmp_path)
    path = token_path(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert make_token(tmp_path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("mode", "refused"), [(0o600, False), (0o640, False), (0o644, True)])
def test_s5_03_a_secret_file_for_everyone_is_refused(
    tmp_path: Path, mode: int, *, refused: bool
) -> None:
    """For its group it is a warning: some set-ups need that."""
    (tmp_path / "key").write_text("an-api-key-of-this-test")
    (tmp_path / "key").chmod(mode)
    (tmp_path / "config.toml").write_text('[provider]\napi_key_file = "key"')
    environ = {"HOME": str(tmp_path)}
    if refused:
        with pytest.raises(ConfigError, match="chmod 600"):
            load(tmp_path / "config.toml", environ)
    else:
        loaded = load(tmp_path / "config.toml", environ)
        assert bool(loaded.warnings) == (mode == 0o640)


def test_s5_03_an_open_configuration_with_secrets_is_warned_about(tmp_path: Path) -> None:
    """The warning names what everyone can read, and the command that mends it."""
    path = tmp_path / "config.toml"
    path.write_text('[provider]\napi_key = "an-api-key-of-this-test"')
    path.chmod(0o644)
    (warning,) = load(path, {"HOME": str(tmp_path)}).warnings
    assert "provider.api_key" in warning
    assert f"chmod 600 {path}" in warning
    assert "an-api-key" not in warning


async def test_s5_04_downloads_park_before_the_disk_is_full(stage: Stage) -> None:
    """Below disk.min_free nothing is fetched, and callbacks are taken all the same."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, disk={"min_free": "8000T"})
    task_id = provider.add_task()
    await daemon.post(success(task_id, provider.tasks[task_id].video_url))
    await daemon.says("gate.closed", gate="disk")
    assert (await daemon.post(success("another", "http://127.0.0.1:9/a"))).status == 200
    assert all(path.stat().st_size == 0 for path in (daemon.videos / ".partial").iterdir())


async def test_s5_05_the_ledger_takes_any_text_as_a_value(store: Store) -> None:
    """No statement is put together from what came in, and nothing of it breaks the next one."""
    odd = ["'; DROP TABLE task; --", 'x"y', "%", "_", "\u202e", "x" * 5000]
    await store.adopt(odd, source="track", label="'; --", now=1, deadline_at=2, ask_at=None)
    for one in odd:
        task = await store.task(one)
        assert task is not None
        assert (task.task_id, task.label) == (one, "'; --")
    for setting, value in (("trusted_schema", 0), ("cell_size_check", 1)):
        ((found,),) = await store.commits.connection.execute_fetchall(f"PRAGMA {setting}")
        assert found == value
