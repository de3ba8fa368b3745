"""Disk calls: to their end whatever happens, never over another's file, never a crash of ours."""

import asyncio
import errno
import hashlib
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.digest import Digest
from daemon.disk import Disk, own_disk, sync_or_remove, undisturbed
from daemon.rules.failure import Hindered, Reason, Spoiled
from daemon.simulator.films import Film

CONTENT = b"".join(Film("disk", 100_000).read(0, 100_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    """A download folder."""
    made = Disk(tmp_path / "videos", workers=2, file_mode=0o640, directory_mode=0o2750)
    await made.prepare()
    yield made
    made.close()


def write_part(disk: Disk, content: bytes = CONTENT) -> Path:
    """Put a complete partial file on the disk."""
    part = disk.partial("a.part")
    part.write_bytes(content)
    return part


async def test_what_was_begun_is_finished_before_a_cancellation_is_felt() -> None:
    """A write that outlives the closing of its file lands in another file; so it is waited for."""
    going_on, done = asyncio.Event(), []

    async def work() -> None:
        await going_on.wait()
        done.append(True)

    task = asyncio.create_task(undisturbed(work()))
    for _ in range(3):
        await asyncio.sleep(0.005)
        task.cancel()
    await asyncio.sleep(0.005)
    assert not task.done()
    going_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]


async def test_a_cancellation_is_the_news_also_when_the_work_failed() -> None:
    """The error of work that nobody waits for any more is not called unretrieved either."""

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise OSError(errno.EIO, "broken")

    task = asyncio.create_task(undisturbed(fail()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_that_is_cancelled_itself_ends_the_caller() -> None:
    """At the end of a loop everything is cancelled, the work too."""
    work = asyncio.create_task(asyncio.sleep(9))

    async def wait_for_it() -> None:
        await work

    task = asyncio.create_task(undisturbed(wait_for_it()))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOTCONN, errno.ESTALE, 9999])
async def test_our_own_disk_is_in_the_way_and_nothing_crashes(disk: Disk, number: int) -> None:
    """Whatever errno a disk or a dead mount thinks of, callbacks have to be taken meanwhile."""

    def fail() -> None:
        raise OSError(number, "broken", "/mnt/x")

    with pytest.raises(Hindered, match=r"broken \(/mnt/x\)") as caught:
        await disk.run(fail)
    assert caught.value.reason is Reason.DISK


@pytest.mark.parametrize("number", [errno.EBADF, errno.EEXIST])
def test_a_bug_and_an_answer_are_no_trouble_of_the_disk(number: int) -> None:
    """A closed descriptor is a bug of ours, and a name that is taken is what was asked."""
    with pytest.raises(OSError, match="x") as caught, own_disk():
        raise OSError(number, "x")
    assert caught.value.errno == number


def test_a_disk_error_without_a_number_is_told_too() -> None:
    """Python raises some OSErrors by itself, with nothing but a text."""
    with pytest.raises(Hindered, match="only words"), own_disk():
        raise OSError("only words")


async def test_the_folders_have_their_modes(tmp_path: Path) -> None:
    """Whatever the umask is; what exists already is left as its owner wants it."""
    before = os.umask(0o077)
    try:
        for mode in (0o2750, 0o755):
            disk = Disk(tmp_path / "new" / "videos", workers=1, file_mode=0, directory_mode=mode)
            await disk.prepare()
            disk.close()
            assert stat.S_IMODE(disk.directory.stat().st_mode) == 0o2750
            assert stat.S_IMODE((disk.directory / ".partial").stat().st_mode) == 0o700
    finally:
        os.umask(before)


async def test_free_space_is_what_an_ordinary_user_may_write(disk: Disk) -> None:
    """Not what is kept for root."""
    found = os.statvfs(disk.directory)
    assert abs(await disk.free_bytes() - found.f_bavail * found.f_frsize) < 1 << 30


async def test_the_threads_end_when_it_is_closed(tmp_path: Path) -> None:
    """And they are its own: none of them is asyncio's, which resolves names."""
    disk = Disk(tmp_path, workers=2, file_mode=0o600, directory_mode=0o700)
    thread = await disk.run(threading.current_thread)
    assert thread.name.startswith("disk")
    disk.close()
    thread.join(2)
    assert not thread.is_alive()


async def test_a_film_is_read_back_from_the_disk(disk: Disk) -> None:
    """Its digest and what it is, for the bytes that are there and not those that were sent."""
    sha256, film = await disk.examine(write_part(disk), len(CONTENT), Digest())
    assert sha256 == SHA256
    assert film.width


@pytest.mark.parametrize(
    ("content", "size_bytes", "reason"),
    [
        (CONTENT[:-1], len(CONTENT), Reason.TRUNCATED),
        (CONTENT + b"x", len(CONTENT), Reason.TRUNCATED),
        (CONTENT[:50_000], 50_000, Reason.TRUNCATED),
        (b"<!doctype html>" * 9, 135, Reason.NOT_A_VIDEO),
    ],
)
async def test_what_is_no_whole_film_is_spoiled(
    disk: Disk, content: bytes, size_bytes: int, reason: Reason
) -> None:
    """With the digest of what it is, so that the same bad content is known again."""
    with pytest.raises(Spoiled) as caught:
        await disk.examine(write_part(disk, content), size_bytes, Digest())
    assert caught.value.reason is reason
    assert caught.value.sha256 == hashlib.sha256(content).hexdigest()


def test_a_file_whose_sync_failed_is_never_trusted_again(tmp_path: Path) -> None:
    """The kernel takes its pages for clean: the next sync would "succeed" without the data."""
    path = tmp_path / "a.part"
    path.write_bytes(CONTENT)

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            sync_or_remove(fail, 0, path)
        assert not path.exists()


async def test_a_free_name_and_our_own_content_are_taken(disk: Disk) -> None:
    """The same bytes under the right name, put there by anybody, are adopted."""
    assert await disk.choose_path("a.mp4", SHA256) == disk.directory / "a.mp4"
    (disk.directory / "a.mp4").write_bytes(CONTENT)
    assert await disk.choose_path("a.mp4", SHA256) == disk.directory / "a.mp4"


def plant(path: Path, kind: str, target: Path) -> None:
    """Put something that is not ours at `path`."""
    if kind == "file":
        path.write_bytes(b"somebody's")
    elif kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        path.symlink_to(target)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "dangling", "fifo", "socket"])
async def test_a_taken_name_gets_a_neighbour(disk: Disk, kind: str, tmp_path: Path) -> None:
    """Whatever lies there stays as it is, also when the neighbour's name is taken too."""
    (tmp_path / "target").write_bytes(CONTENT)
    names = ["a.mp4", f"a-{SHA256[:8]}.mp4"]
    for name in names:
        plant(disk.directory / name, kind, tmp_path / "target")
    before = [os.lstat(disk.directory / name) for name in names]
    path = await disk.choose_path("a.mp4", SHA256)
    assert path.name == f"a-{SHA256[:8]}-{SHA256[:8]}.mp4"
    with pytest.raises(FileExistsError):
        await disk.publish(write_part(disk), disk.directory / "a.mp4", SHA256)
    assert await disk.publish(write_part(disk), path, SHA256)
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    after = [os.lstat(disk.directory / name) for name in names]
    assert [found[:6] for found in after] == [found[:6] for found in before]


async def test_publishing_moves_the_file_and_sets_its_mode(disk: Disk) -> None:
    """One name, the final one, with the mode that lets the group read."""
    part, path = write_part(disk), disk.directory / "a.mp4"
    assert await disk.publish(part, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_nlink == 1
    assert not part.exists()


@pytest.mark.parametrize("crashed", ["before the link", "after the link", "after the unlink"])
async def test_publishing_can_be_repeated_after_a_crash(disk: Disk, crashed: str) -> None:
    """Wherever it stopped, the second run ends with one file under one name."""
    part, path = write_part(disk), disk.directory / "a.mp4"
    if crashed != "before the link":
        os.link(part, path)
    if crashed == "after the unlink":
        part.unlink()
    assert await disk.publish(part, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_nlink == 1
    assert not part.exists()


async def test_a_name_that_the_disk_cannot_write_hinders(disk: Disk) -> None:
    """The message says what is wrong with it, and the verified bytes stay."""
    part = write_part(disk)
    with pytest.raises(Hindered, match="too long"):
        await disk.publish(part, disk.directory / f"{'a' * 300}.mp4", SHA256)
    assert part.read_bytes() == CONTENT


async def test_bytes_that_vanished_or_changed_are_not_published(disk: Disk) -> None:
    """A partial file that somebody damaged or removed since is fetched again."""
    path = disk.directory / "a.mp4"
    assert not await disk.publish(disk.partial("a.part"), path, SHA256)
    assert not await disk.publish(write_part(disk, CONTENT[:-1] + b"x"), path, SHA256)
    assert not path.exists()


@contextmanager
def nobody(disk: Disk) -> Iterator[Disk]:
    """Be another user inside the folder while the block runs; those above it are closed to him."""
    for path in (disk.directory, disk.directory / ".partial"):
        os.chown(path, 65534, 65534)
    home = Path.cwd()
    os.chdir(disk.directory)
    os.setegid(65534)
    os.seteuid(65534)
    here = Disk(Path(), workers=1, file_mode=0o640, directory_mode=0o750)
    try:
        yield here
    finally:
        here.close()
        os.seteuid(0)
        os.setegid(0)
        os.chdir(home)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have another's files")


@needs_root
async def test_a_file_that_we_may_not_read_is_somebody_elses(disk: Disk) -> None:
    """A final name taken by root's file is no reason to stop all downloads: it gets a neighbour."""
    (disk.directory / "a.mp4").write_bytes(b"root's")
    (disk.directory / "a.mp4").chmod(0o600)
    os.chown(write_part(disk), 65534, 65534)
    with nobody(disk) as here:
        path = await here.choose_path("a.mp4", SHA256)
        assert path.name == f"a-{SHA256[:8]}.mp4"
        assert await here.publish(here.partial("a.part"), path, SHA256)
    assert (disk.directory / "a.mp4").read_bytes() == b"root's"
    assert (disk.directory / path).read_bytes() == CONTENT


@needs_root
async def test_a_folder_that_is_closed_to_us_hinders(disk: Disk) -> None:
    """Whether the bytes are there nobody can say, so they are not called vanished."""
    write_part(disk)
    (disk.directory / ".partial").chmod(0)
    with nobody(disk) as here, pytest.raises(Hindered, match="Permission denied"):
        await here.publish(here.partial("a.part"), here.directory / "a.mp4", SHA256)


@needs_root
@pytest.mark.parametrize("taken", [None, CONTENT, b"somebody's"])
async def test_a_disk_without_links_and_modes_gets_the_file_too(
    disk: Disk, taken: bytes | None
) -> None:
    """The kernel forbids nobody to link and to chmod root's file: so does exFAT, to everybody."""
    write_part(disk).chmod(0o644)
    if taken is not None:
        (disk.directory / "a.mp4").write_bytes(taken)
    with nobody(disk) as here:
        publishing = here.publish(here.partial("a.part"), here.directory / "a.mp4", SHA256)
        if taken == b"somebody's":
            with pytest.raises(FileExistsError):
                await publishing
        else:
            assert await publishing
            assert not here.partial("a.part").exists()
    assert (disk.directory / "a.mp4").read_bytes() == (taken or CONTENT)
