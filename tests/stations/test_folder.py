"""Names inside a folder that is held open: what is followed, what gives way, what is closed."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.digest import Digest
from daemon.disk import Disk
from daemon.folder import exists, open_folder, open_own_file, open_own_folder, open_to_read
from daemon.rules.failure import Hindered

NOBODY = 65534
_OPEN = Path("/proc/self/fd")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """A folder held open; none of its descriptors may be left over at the end."""
    before = len(list(_OPEN.iterdir()))
    with open_folder(tmp_path) as opened:
        yield opened
    assert len(list(_OPEN.iterdir())) == before


def plant(path: Path, kind: str) -> None:
    """Put something at `path` that is no file of ours."""
    if kind == "link to a file":
        target = path.with_name("target")
        target.write_bytes(b"elsewhere")
        path.symlink_to(target)
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


KINDS = ["link to a file", "dangling link", "pipe", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_plain_file_is_read(folder: int, tmp_path: Path, kind: str) -> None:
    """A link is not followed, also where it leads to a good file; and nothing is left open."""
    plant(tmp_path / "a.mp4", kind)
    assert open_to_read(folder, "a.mp4") is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_is_taken_by_whatever_has_it(folder: int, tmp_path: Path, kind: str) -> None:
    """A link into nowhere takes a name as a file does."""
    assert not exists(folder, "a.mp4")
    plant(tmp_path / "a.mp4", kind)
    assert exists(folder, "a.mp4")


@pytest.mark.parametrize("kind", ["link to a file", "dangling link", "pipe", "second name"])
def test_what_is_no_file_of_ours_gives_way(folder: int, tmp_path: Path, kind: str) -> None:
    """The new file is empty and ours alone, whatever the umask; and nothing else is left open."""
    path = tmp_path / "a.part"
    if kind == "second name":
        (tmp_path / "video.mp4").write_bytes(b"a video")
        path.hardlink_to(tmp_path / "video.mp4")
    else:
        plant(path, kind)
    before = os.umask(0)
    try:
        os.close(open_own_file(folder, "a.part"))
        os.close(open_own_file(folder, "b.part"))
    finally:
        os.umask(before)
    for name in ("a.part", "b.part"):
        found = (tmp_path / name).lstat()
        assert stat.S_ISREG(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert (found.st_nlink, found.st_size) == (1, 0)
    assert not (tmp_path / "nowhere").exists()


def test_a_file_of_ours_keeps_its_bytes(folder: int) -> None:
    """It is opened again and again while a download goes on."""
    descriptor = open_own_file(folder, "a.part")
    os.write(descriptor, b"half of it")
    os.close(descriptor)
    descriptor = open_own_file(folder, "a.part")
    assert os.read(descriptor, 99) == b"half of it"
    os.close(descriptor)


def test_a_folder_in_the_place_of_a_file_stays(folder: int, tmp_path: Path) -> None:
    """It cannot be removed like a file, and is not."""
    (tmp_path / "a.part").mkdir()
    with pytest.raises(IsADirectoryError):
        open_own_file(folder, "a.part")


def test_a_mount_may_give_all_to_one_user(tmp_path: Path) -> None:
    """A folder of the owner of the folder around it is ours, of a third one it is not."""
    if os.geteuid():
        pytest.skip("needs root, to be another user")
    inside = tmp_path / "videos" / ".partial"
    inside.mkdir(parents=True)
    os.chown(inside, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match="another user"), open_own_folder(inside):
        pytest.fail("opened")
    os.chown(inside.parent, NOBODY, NOBODY)
    with open_own_folder(inside) as opened:
        assert os.fstat(opened).st_uid == NOBODY


async def test_nothing_is_taken_from_a_folder_that_is_not_ours(disk: Disk, tmp_path: Path) -> None:
    """Whoever puts a link in place of `.partial` gets no file of his published."""
    await disk.prepare()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.part").write_bytes(b"film")
    part = disk.partial("a.part")
    part.parent.rmdir()
    part.parent.symlink_to(elsewhere)
    with pytest.raises(Hindered):
        await disk.examine(part, 4, Digest())
    with pytest.raises(Hindered):
        await disk.publish(part, disk.directory / "a.mp4", hashlib.sha256(b"film").hexdigest())
    assert [path.name for path in disk.directory.iterdir()] == [".partial"]
