"""Looks for damage in what the last process left, before anything is opened for writing.

Rule: nothing is changed, and what is found is a text with the way out. A connection for writing
that closes last folds the log into the file and takes it away, and the proof of damage with it;
so everything here goes through one that only reads.
"""

import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from daemon.folder import sync_directory
from daemon.lock import InUse, Lock, StoreRefused, take_lock
from daemon.restoration import BACKUP_ID
from daemon.schema import MIGRATIONS
from daemon.wal import find_damage, read_index

LEDGER_NAME: Final = "ledger.sqlite3"
CHECKED_AT_START_BYTES: Final = 2 << 20
"""Some thousand tasks: a tenth of a second. A larger ledger is checked beside the work
(`daemon.soundness`)."""
WAY_OUT: Final = (
    "Nothing was changed. Put the newest backup in its place ('Backup and restore' in the README)"
)
_APPLICATION_ID_AT: Final = 68
"""Where the file has it: https://www.sqlite.org/fileformat2.html#the_database_header."""
_NOTE: Final = "ledger.damaged"


def inspect(path: Path, lock: Lock) -> None:
    """Look for damage in the ledger at `path`; `lock` says how the last process left it.

    Raises:
        StoreRefused: something is missing, or damaged, or newer than this program.
        OSError: the disk failed.
    """
    log, index = path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
    size_bytes = path.stat().st_size if path.exists() else 0
    if not lock.is_new and not size_bytes:
        raise StoreRefused(
            f"{path} is gone, or empty. {WAY_OUT}; to begin anew, remove {path.parent / 'lock'}"
        )
    note = path.with_name(_NOTE)
    if size_bytes and _application_id(path) == BACKUP_ID:
        note.unlink(missing_ok=True)
        # It belongs to the file that was here before, and SQLite would mix the two.
        if log.exists():
            log.rename(log.with_name(f"{log.name}-before-restore"))
        index.unlink(missing_ok=True)
    elif note.is_file():
        found = note.read_text(encoding="utf-8").strip()
        raise StoreRefused(
            f"{path} is damaged: {found}. {WAY_OUT}; to use it nevertheless, remove {note}"
        )
    elif lock.was_open and not log.exists():
        raise StoreRefused(
            f"{log} is missing, and the newest commits were in it. If another program has opened "
            f"the ledger since (sqlite3, an older suno-videod), it has folded them in: then remove "
            f"{path.parent / 'lock'}. Otherwise put the log back, or go on without what was in it "
            f"by removing the same. {WAY_OUT}"
        )
    if log.exists() and not lock.is_new:
        _inspect_log(path, log, index, lock)


def _inspect_log(path: Path, log: Path, index: Path, lock: Lock) -> None:
    before, kept = read_index(index), index.read_bytes() if index.exists() else None
    seen, place = 0, log
    try:
        with closing(read_only(path)) as connection:
            ((seen,),) = connection.execute("PRAGMA user_version").fetchall()
            damage = find_damage(log, before, read_index(index), same_boot=lock.same_boot)
            if not damage and not is_large(path):
                place, damage = path, find_bad_row(connection)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.Error) and is_full(error):
            return
        damage = str(error)
    if seen > len(MIGRATIONS) and not damage:
        raise newer(path, seen)
    if damage:
        # SQLite has made it anew, and the next start is to find the same proof in it.
        index.unlink(missing_ok=True)
        if kept is not None:
            index.write_bytes(kept)
        raise StoreRefused(
            f"{place} is damaged: {damage}. {WAY_OUT}; "
            f"to go on with what can be read, remove {path.parent / 'lock'}"
        )


def _application_id(path: Path) -> int:
    with path.open("rb") as file:
        file.seek(_APPLICATION_ID_AT)
        found: tuple[int, ...] = struct.unpack(">I", file.read(4).rjust(4, b"\0"))
    return found[0]


def read_only(path: Path, *, any_thread: bool = False) -> sqlite3.Connection:
    """Open a ledger for reading alone."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=not any_thread
    )
    connection.text_factory = decode
    return connection


def decode(data: bytes) -> str:
    """Read a text of the ledger; a damaged byte in one row is no reason to fail for all."""
    return data.decode(errors="replace")


def find_bad_row(connection: sqlite3.Connection) -> str | None:
    """Read every row; return what is wrong first, or None."""
    ((found,),) = connection.execute("PRAGMA integrity_check(1)").fetchall()
    return None if found == "ok" else str(found)


def newer(path: Path, seen: int) -> StoreRefused:
    """Return the refusal of a ledger with more steps than this program knows."""
    return StoreRefused(
        f"{path} was written by a newer suno-videod (schema {seen}, this one knows "
        f"{len(MIGRATIONS)}): install the newer version again, or move the file away"
    )


def is_large(path: Path) -> bool:
    """Tell whether checking every row of a ledger would hold up the start."""
    return path.exists() and path.stat().st_size > CHECKED_AT_START_BYTES


def note_damage(state_dir: Path, found: str) -> None:
    """Write down that the ledger is damaged: no start uses it before a person did something."""
    (state_dir / _NOTE).write_text(f"{found}\n", encoding="utf-8")
    sync_directory(state_dir)


def note_failure(state_dir: Path, failure: str, *, fatal: bool) -> StoreRefused:
    """Return the refusal of a ledger whose first statement failed; damage is written down."""
    if fatal:
        note_damage(state_dir, failure)
    return StoreRefused(f"{state_dir}: {failure}. {WAY_OUT if fatal else 'Make room on its disk'}")


def inspect_at_rest(state_dir: Path) -> None:
    """Look for damage where no daemon runs, before somebody else reads the ledger.

    Raises:
        StoreRefused: something is missing, or damaged.
    """
    if not (state_dir / "lock").exists():
        # Not made here: it would be the file of whoever calls, and the daemon could not have it.
        return
    try:
        with take_lock(state_dir) as lock:
            inspect(state_dir / LEDGER_NAME, lock)
    except InUse:
        return


def is_full(error: sqlite3.Error) -> bool:
    """Tell whether an error may come from a disk, or a quota, without room.

    SQLite says so itself of ENOSPC; of EDQUOT, and of the shared memory of the log, it says that
    the disk failed.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code in {
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_TRUNCATE,
    }


def is_fatal(error: sqlite3.Error) -> bool:
    """Tell whether only a new start, which reads everything again, can be trusted after an error.

    After a failed sync the kernel calls lost pages clean
    (https://wiki.postgresql.org/wiki/Fsync_Errors), and a damaged file lies.
    """
    return getattr(error, "sqlite_errorcode", 0) in {
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_DIR_FSYNC,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
