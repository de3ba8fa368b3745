"""Names inside a folder that we hold open, so that nobody can lead us somewhere else.

Rule: whoever may write into the download folder may put a link where we expect a file or a folder
of ours. None is followed: a folder is opened once for all steps of one change, names are looked up
in it, and what is opened is looked at before it is believed.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOT_OURS = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR})
"""What opening says of a name that is free, a link, or a socket."""


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Hold the folder of finished files open; what its own path leads over is the owner's choice.

    Raises:
        OSError: it is missing, no folder, or closed to us.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def open_own_folder(path: Path) -> Iterator[int]:
    """Hold a folder open that we made inside the folder of finished files.

    Raises:
        OSError: as `open_folder`, and also when it is a link, or somebody else's.
    """
    with open_folder(path.parent) as parent:
        folder = os.open(
            path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent
        )
        try:
            owner = os.fstat(folder).st_uid
            # A mount may give all its files to one user.
            if owner not in {os.geteuid(), os.fstat(parent).st_uid}:
                raise PermissionError(errno.EPERM, "made by another user: remove it", str(path))
            yield folder
        finally:
            os.close(folder)


def open_own_file(folder: int, name: str) -> int:
    """Open, or make, a plain file of ours for reading and writing; return its descriptor.

    What is none gives way: a link, a device, a second name of another file, somebody else's file.

    Raises:
        OSError: the disk failed, or a folder stands there.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        # A link, a socket, or a file that another user left: an earlier run as root, say.
        if error.errno not in {errno.ELOOP, errno.ENXIO, errno.EACCES}:
            raise
    else:
        found = os.fstat(descriptor)
        ours = found.st_uid in {os.geteuid(), os.fstat(folder).st_uid}
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and ours:
            return descriptor
        os.close(descriptor)
    os.unlink(name, dir_fd=folder)
    return os.open(name, flags | os.O_EXCL, 0o600, dir_fd=folder)


def open_to_read(folder: int, name: str) -> int | None:
    """Open a plain file; None when no such thing has this name, or we may not look.

    Raises:
        OSError: the disk failed.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        # A file that somebody else keeps to himself is none of ours either.
        if error.errno in _NOT_OURS or (error.errno == errno.EACCES and exists(folder, name)):
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def exists(folder: int, name: str) -> bool:
    """Say whether a name is taken, by whatever it is.

    Raises:
        OSError: nobody can say.
    """
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def holds(folder: int, name: str, sha256: str) -> bool:
    """Say whether a plain file with this content has the name.

    Raises:
        OSError: the disk failed.
    """
    descriptor = open_to_read(folder, name)
    if descriptor is None:
        return False
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def set_mode(folder: int, name: str, mode: int) -> None:
    """Set the mode of a plain file; where modes cannot be set, whoever mounted it has set them.

    Raises:
        OSError: the disk failed.
    """
    descriptor = open_to_read(folder, name)
    if descriptor is None:
        return
    try:
        os.fchmod(descriptor, mode)
    except PermissionError:
        return
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable: syncing a file does not cover its name, says fsync(2).

    Raises:
        OSError: the disk failed.
    """
    with open_folder(path) as folder:
        os.fsync(folder)
