"""Everything that is done to files, on threads of its own.

Rule: a disk call that was begun is waited for to its end, also when the caller is cancelled, for a
write that outlives the closing of its file lands in whatever file got that descriptor next. The
pool is not shared with name resolution: six slow writes must not make a look-up wait. Errors of
our own disk become `Hindered` here and nowhere else.
"""

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from daemon.digest import Digest
from daemon.folder import (
    exists,
    holds,
    open_folder,
    open_own_folder,
    open_to_read,
    set_mode,
    sync_directory,
)
from daemon.rules.failure import Hindered, Reason, Spoiled
from daemon.rules.filename import name_beside
from daemon.rules.mp4 import Film, inspect

PARTIAL_FOLDER = ".partial"
_NOT_THE_DISK = frozenset({errno.EEXIST, errno.EBADF})
"""A name that is taken is an answer, a descriptor that is not open is a bug."""
_WITHOUT_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""How file systems say that they have no hard links: exFAT, some network and FUSE ones."""

_PASSING = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT),
        *(errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO),
    }
)
"""A full or failing disk, or one that is not mounted; anything else is a mistaken setting."""

WALK_BYTES = 16 << 10
CLOCK_TICK_NS = 20_000_000
"""Files are stamped by a clock that stands still for up to 10 ms."""
EXAMINED_LIMIT = 1_000
_Stamp: TypeAlias = tuple[int, ...]

T = TypeVar("T")


@contextmanager
def own_disk() -> Iterator[None]:
    """Turn errors of our own disk into `Hindered`; stands around disk calls alone.

    Whatever a disk says: a dead mount says ENOTCONN or ESTALE, and callbacks are still taken.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_THE_DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise Hindered(Reason.DISK, f"{error.strerror or error}{where}") from error


def may_pass(failure: Hindered) -> bool:
    """Tell trouble of the disk, which may pass, from a folder that was never going to work."""
    cause = failure.__cause__
    return isinstance(cause, OSError) and cause.errno in _PASSING


async def undisturbed(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even when the caller is cancelled meanwhile; then be cancelled."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            # Cancelled again: an impatient caller waits too, for the write cannot be recalled.
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            # Looked at, so that nobody calls it unretrieved; the cancellation is the news.
            running.exception()
        raise


async def wait_for_all(tasks: Iterable[asyncio.Task[None]]) -> list[BaseException]:
    """Return what went wrong when all have ended: none may outlive what it works on."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [result for result in results if result is not None]


class Disk:
    """The download folder and the threads that work on it."""

    def __init__(
        self, directory: Path, *, workers: int, file_mode: int, directory_mode: int
    ) -> None:
        self.directory = directory
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="disk")
        self.is_prepared = False
        self._began: dict[object, float] = {}
        self._examined: dict[Path, tuple[_Stamp, str]] = {}
        self._file_mode = file_mode
        self._directory_mode = directory_mode

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a blocking function on the pool, to its end.

        Raises:
            Hindered: our own disk failed.
        """

        async def call() -> T:
            loop = asyncio.get_running_loop()
            this = object()
            self._began[this] = time.monotonic()
            try:
                return await loop.run_in_executor(self.pool, function, *arguments)
            finally:
                del self._began[this]

        with own_disk():
            return await undisturbed(call())

    def hanging_seconds(self) -> float:
        """Return for how long the oldest call has been on its way; a dead mount never answers."""
        return time.monotonic() - min(self._began.values(), default=time.monotonic())

    def close(self) -> None:
        """Let the threads end; nothing is waited for."""
        self.pool.shutdown(wait=False, cancel_futures=True)

    async def prepare(self) -> None:
        """Make the download folder and its folder of partial files.

        Once in a process: a folder that is missing later lies on a disk that is not mounted, and
        would be made again on another one.
        """
        if not self.is_prepared:
            await self.run(self._prepare)
            self.is_prepared = True

    def _prepare(self) -> None:
        for path, mode in (
            (self.directory, self._directory_mode),
            (self.directory / PARTIAL_FOLDER, 0o700),
        ):
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            # Where modes cannot be set, as on exFAT, whoever mounted it has set them.
            with suppress(PermissionError):
                path.chmod(mode)
            sync_directory(path.parent)

    def partial(self, name: str) -> Path:
        """Return the path of a partial file."""
        return self.directory / PARTIAL_FOLDER / name

    async def free_bytes(self) -> int:
        """Return what an ordinary user may still write here."""
        return await self.run(self._free_bytes)

    async def free_inodes(self) -> int:
        """Return how many files more an ordinary user may make here."""
        return await self.run(lambda: os.statvfs(self.directory).f_favail)

    async def has(self, path: str, size_bytes: int | None) -> bool:
        """Return whether a plain file of this size stands there."""
        return await self.run(_has, Path(path), size_bytes)

    def _free_bytes(self) -> int:
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize

    async def examine(self, path: Path, size_bytes: int, digest: Digest) -> tuple[str, Film]:
        """Sync a complete partial file and read it back: its SHA-256, and what film it holds.

        `digest` is what was read back of it already.

        Raises:
            Spoiled: it is not a whole film; carries the SHA-256 of what it is.
        """
        return await self.run(self._examine, path, size_bytes, digest)

    def _examine(self, path: Path, size_bytes: int, digest: Digest) -> tuple[str, Film]:
        with open_own_folder(path.parent) as partials:
            descriptor = open_to_read(partials, path.name)
        if descriptor is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        # Boxes are read a few bytes at a time, and each read of a raw file is a call of the kernel.
        with os.fdopen(descriptor, "rb", buffering=WALK_BYTES) as file:
            sync_or_remove(os.fsync, descriptor, path)
            found = os.fstat(descriptor).st_size
            digest.advance(descriptor, found)
            sha256 = digest.hexdigest()
            if found != size_bytes:
                raise Spoiled(
                    Reason.TRUNCATED, f"{found} of {size_bytes} bytes are on the disk", sha256
                )
            try:
                film = inspect(file, size_bytes)
            except Spoiled as spoiled:
                spoiled.sha256 = sha256
                raise
            self._remember(path, descriptor, sha256)
            return sha256, film

    def _remember(self, path: Path, descriptor: int, sha256: str) -> None:
        """Spare publishing a second reading of a file that nobody touched since this one."""
        found = os.fstat(descriptor)
        if time.time_ns() - found.st_ctime_ns < CLOCK_TICK_NS:
            # A change within the same tick of the kernel's clock would show in no stamp.
            return
        if len(self._examined) >= EXAMINED_LIMIT:
            self._examined.clear()
        self._examined[path] = (_stamp(found), sha256)

    async def choose_path(self, name: str, sha256: str) -> Path:
        """Return where content with this SHA-256 may go: its own name, or a name beside it."""
        return await self.run(self._choose_path, name, sha256)

    def _choose_path(self, name: str, sha256: str) -> Path:
        with open_folder(self.directory) as folder:
            while exists(folder, name) and not holds(folder, name, sha256):
                name = name_beside(name, sha256)
        return self.directory / name

    async def publish(self, part: Path, path: Path, sha256: str) -> bool:
        """Give a verified partial file its final name, durably and without clobbering.

        Returns False when neither the partial nor the final file holds the content any more.

        Raises:
            FileExistsError: something else took the name meanwhile.
        """
        return await self.run(self._publish, part, path, sha256)

    def _publish(self, part: Path, path: Path, sha256: str) -> bool:
        with open_folder(path.parent) as folder, open_own_folder(part.parent) as partials:
            if self._is_as_examined(partials, part, sha256) or holds(partials, part.name, sha256):
                set_mode(partials, part.name, self._file_mode)
                self._rename(partials, part.name, folder, path.name, sha256)
            elif not holds(folder, path.name, sha256):
                return False
            os.fsync(folder)
            os.fsync(partials)
            return True

    def _is_as_examined(self, partials: int, part: Path, sha256: str) -> bool:
        stamp, examined = self._examined.pop(part, (None, None))
        if examined != sha256:
            return False
        try:
            found = os.stat(part.name, dir_fd=partials, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return _stamp(found) == stamp

    def _rename(self, partials: int, part: str, folder: int, name: str, sha256: str) -> None:
        try:
            os.link(part, name, src_dir_fd=partials, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            if not holds(folder, name, sha256):
                raise
        except OSError as error:
            if error.errno not in _WITHOUT_LINKS:
                raise
            if exists(folder, name) and not holds(folder, name, sha256):
                raise FileExistsError(errno.EEXIST, "taken", name) from None
            os.rename(part, name, src_dir_fd=partials, dst_dir_fd=folder)
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=partials)


def _stamp(found: os.stat_result) -> _Stamp:
    """Return what changes whenever a file does."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def sync_or_remove(sync: Callable[[int], None], descriptor: int, path: Path) -> None:
    """Sync a partial file; when that fails, remove it.

    After a failed sync the kernel takes the pages for clean, and the next sync "succeeds" without
    the data (https://wiki.postgresql.org/wiki/Fsync_Errors): such a file is never trusted again.
    """
    try:
        sync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _has(path: Path, size_bytes: int | None) -> bool:
    try:
        found = path.lstat()
    except OSError as error:
        # Trouble of the disk proves nothing; a place that we may not see holds no file of ours.
        return error.errno in _PASSING
    return stat.S_ISREG(found.st_mode) and found.st_size == size_bytes
