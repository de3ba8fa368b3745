"""File systems in files: what a campaign mounts, cuts the power of, or fills to the last byte.

Rule: nothing stays mounted and no loop device stays taken, whatever failed in between. Only root
can mount.
"""

import contextlib
import fcntl
import json
import os
import sqlite3  # noqa: TID251 - a ledger is looked at from outside
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from daemon.client import Client
from daemon.inspection import inspect_at_rest
from daemon.lock import StoreRefused
from daemon.simulator.simulator import Simulator
from tests.campaigns.campaign import PromiseBroken
from tests.stories.harness import Daemon, Section, configure

MIB: Final = 1 << 20
FICLONE: Final = 0x40049409
"""ioctl_ficlone(2): what `cp --reflink=always` does."""
UNMOUNT_SECONDS: Final = 5.0


def call(*command: str | Path) -> str:
    """Run a program of the system and return what it wrote."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - fixed words
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def make_image(path: Path, size_bytes: int, *mkfs: str) -> Path:
    """Make a file that holds an empty file system."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    call(*mkfs, path)
    return path


def can_mount() -> bool:
    """Say whether this process may mount a file through a loop device."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        try:
            image = make_image(place / "image", MIB, "mkfs.ext4", "-q")
            with mounted(image, place / "mount"):
                return True
        except (AssertionError, OSError):
            return False


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """Mount an image while the block runs; its journal is replayed on the way."""
    place.mkdir(exist_ok=True)
    call("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        _unmount(image, place)


def _unmount(image: Path, place: Path) -> None:
    """Unmount, also under the feet of a process that does not want to end."""
    until = time.monotonic() + UNMOUNT_SECONDS
    while True:
        try:
            call("umount", place)
        except AssertionError:
            if time.monotonic() < until:
                time.sleep(0.05)
                continue
            call("umount", "-l", place)
            # mount(8) asks for a device that frees itself; this one may still be held.
            for line in call("losetup", "--noheadings", "--output", "NAME", "-j", image).split():
                call("losetup", "-d", line)
        return


def clone(image: Path, copy: Path) -> None:
    """Copy what has reached the disk until now, at once: a power cut."""
    with image.open("rb") as source, copy.open("wb") as target:
        fcntl.ioctl(target.fileno(), FICLONE, source.fileno())


def boot_anew(state: Path) -> None:
    """Let a daemon believe that the machine was started again since the last one ran."""
    lock, boot = state / "lock", Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if lock.exists():
        lock.write_text(lock.read_text().replace(boot, str(uuid.UUID(int=0))))


def daemon_on(place: Path, folder: Path, base_url: str, **changes: Section) -> Daemon:
    """Return a daemon whose state and videos lie in `place`, its log and configuration beside."""
    download = {**changes.pop("download", {}), "directory": str(place / "videos")}
    state = json.dumps(str(place / "state"))
    settings = configure(base_url, **changes, download=download)
    folder.mkdir(exist_ok=True)
    daemon = Daemon(folder, settings.replace('"state"', state, 1), expect_errors=True)
    daemon.client = Client(place / "state" / "admin.sock")
    daemon.videos = place / "videos"
    return daemon


def read_ledger(state: Path) -> dict[str, dict[str, Any]]:
    """Return the tasks of a ledger that nobody uses, which stays as it is.

    Raises:
        PromiseBroken: the database is damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        for path in state.glob("ledger.sqlite3*"):
            # The index of the log is made anew: after a cut it is not to be trusted.
            if not path.name.endswith("-shm"):
                (Path(folder) / path.name).write_bytes(path.read_bytes())
        if not (Path(folder) / "ledger.sqlite3").exists():
            return {}
        return look(f"file:{folder}/ledger.sqlite3")


def look(uri: str) -> dict[str, dict[str, Any]]:
    """Return the tasks of a database by id, after a check of its integrity.

    Raises:
        PromiseBroken: the database is damaged.
    """
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        said = connection.execute("PRAGMA integrity_check").fetchall()
        if [tuple(row) for row in said] != [("ok",)]:
            raise PromiseBroken(f"the database is damaged: {[tuple(row) for row in said[:3]]}")
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'task'").fetchone():
            return {}
        rows = connection.execute("SELECT task_id, state, callbacks, path FROM task").fetchall()
    return {row["task_id"]: dict(row) for row in rows}


def check_files(videos: Path, provider: Simulator, ledger: Mapping[str, Mapping[str, Any]]) -> int:
    """Compare all finished files with the true films; return how many there are.

    Raises:
        PromiseBroken: one is not whole, or a task says that its file is there and it is not.
    """
    found = set()
    for path in videos.glob("*") if videos.exists() else ():
        if path.name.startswith("."):
            continue
        film = provider.tasks[path.stem.removeprefix("video_")].film
        if path.read_bytes() != b"".join(film.read(0, film.size_bytes)):
            raise PromiseBroken(f"{path} has a finished name and is not whole")
        found.add(path.name)
    for task_id, task in ledger.items():
        if task["state"] in {"stored", "done"} and Path(task["path"]).name not in found:
            raise PromiseBroken(f"{task_id} is {task['state']} and its file is not there")
    return len(found)


def check_startable(state: Path) -> None:
    """Look at a ledger as every start does first, which may not take a cut for damage.

    Raises:
        PromiseBroken: it would be refused.
    """
    try:
        inspect_at_rest(state)
    except StoreRefused as refusal:
        raise PromiseBroken(f"no daemon would start on it: {refusal}") from refusal
