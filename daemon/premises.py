"""What a diagnosis finds on our disks: room, speed, modes, and files that nobody needs any more.

Rule: nothing is changed. A test file loses its name before its first byte is written, so it is gone
whatever happens. All calls here block and run on the threads of `disk`.
"""

import os
import secrets
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from ssl import PEM_cert_to_DER_cert
from typing import Final

from daemon.diagnosis_views import CertificateView, FolderView, PlaceView, SpeedView
from daemon.disk import PARTIAL_FOLDER
from daemon.folder import open_folder, open_own_folder
from daemon.rules.certificate import read_validity

BLOCK_BYTES: Final = 1 << 20
ROOM_BYTES: Final = 64 << 20
"""With less than this above the limit nothing is written to try it out."""
NAMES_SHOWN: Final = 5
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def look_at_folder(path: Path, dot: str | None, size_bytes: int, min_free: int) -> FolderView:
    """Return room and speed of the disk under `path`; the test file lies in its folder `dot`."""
    try:
        found = os.statvfs(path)
    except OSError as error:
        return FolderView(path=str(path), error=_say(error))
    free_bytes = found.f_bavail * found.f_frsize
    speed = None
    if free_bytes >= min_free + size_bytes + ROOM_BYTES:
        speed = _measure(path, dot, size_bytes)
    return FolderView(
        path=str(path),
        free_bytes=free_bytes,
        min_free_bytes=min_free,
        # btrfs and the like make inodes as they need them, and count none.
        free_inodes=found.f_favail if found.f_files else None,
        speed=speed,
    )


def _measure(path: Path, dot: str | None, size_bytes: int) -> SpeedView:
    block = os.urandom(BLOCK_BYTES)
    try:
        with open_own_folder(path / dot) if dot else open_folder(path) as folder:
            name = f"doctor-{secrets.token_hex(8)}"
            descriptor = os.open(name, _FLAGS, 0o600, dir_fd=folder)
            try:
                os.unlink(name, dir_fd=folder)
                began = time.monotonic()
                for _ in range(size_bytes // BLOCK_BYTES):
                    os.write(descriptor, block)
                os.fsync(descriptor)
                return SpeedView(size_bytes=size_bytes, seconds=time.monotonic() - began)
            finally:
                os.close(descriptor)
    except OSError as error:
        return SpeedView(size_bytes=size_bytes, error=_say(error))


def look_at_place(path: Path, most: int) -> PlaceView | None:
    """Return who may do what with a file or folder; None when it is not there."""
    mode: str | None = None
    own = False
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        pass
    else:
        mode, own = f"{stat.S_IMODE(found.st_mode):04o}", found.st_uid in {os.geteuid(), 0}
    need = os.W_OK | (os.X_OK if path.is_dir() else 0)
    return PlaceView(
        path=str(path), mode=mode, most=f"{most:04o}", own=own, writable=os.access(path, need)
    )


def list_partials(directory: Path) -> dict[str, int]:
    """Return the partial files and their sizes."""
    found: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(directory / PARTIAL_FOLDER) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found[entry.name] = entry.stat(follow_symlinks=False).st_size
    return found


def file_size(path: Path) -> int | None:
    """Return the size of a file; None when it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def look_at_certificate(path: Path, show: str) -> CertificateView:
    """Return until when the first certificate of a chain is valid; `show` is how it is called."""
    try:
        pem = path.read_text("ascii")
        begin = pem.index("-----BEGIN CERTIFICATE-----")
        end = pem.index("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----")
        _, until = read_validity(PEM_cert_to_DER_cert(pem[begin:end]))
    except (OSError, ValueError):
        return CertificateView(path=show, not_after=None, days_left=None)
    days_left = (until - datetime.now(UTC)).total_seconds() / 86_400
    return CertificateView(
        path=show, not_after=f"{until:%Y-%m-%dT%H:%M:%S}.000Z", days_left=round(days_left, 2)
    )


def shown(names: Sequence[str]) -> list[str]:
    """Return the first few names."""
    return sorted(names)[:NAMES_SHOWN]


def _say(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"
