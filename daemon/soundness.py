"""Is the whole ledger sound? Asked while the daemon runs, where asking at the start takes too long.

Rule: a small ledger is checked before it is used, a large one, in which every page takes its time,
beside the work and through a connection that changes nothing. What is found ends the process and is
written down, so that no later start forgets it and acknowledges anything. The check stands back:
whoever reads holds up the emptying of the write-ahead log, and a long log makes each commit slower.
"""

import asyncio
import os
import sqlite3
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import structlog

from daemon.inspection import LEDGER_NAME, find_bad_row, is_large, note_damage, read_only
from daemon.store import StoreFailed

GROWTH_LIMIT_BYTES: Final = 32 << 20
"""The log may grow so much while it cannot be emptied: thousands of callbacks."""
LOOK_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 60.0
LONGEST_PAUSE_SECONDS: Final = 3600.0
LOOK_STEPS: Final = 10_000
"""Steps of the database's machine between two looks at the time."""
_LEAST: Final = 19
"""The lowest priority; see nice(2)."""

_log = structlog.get_logger()


async def check_soundness(state_dir: Path) -> None:
    """Check the ledger once, then wait for ever.

    Raises:
        StoreFailed: it is damaged; fatal.
    """
    path = state_dir / LEDGER_NAME
    if is_large(path):
        with ThreadPoolExecutor(1, "soundness", _step_back) as thread:
            found = await _check(path, thread)
        if found is not None:
            note_damage(state_dir, found)
            raise StoreFailed(f"{path} is damaged: {found}", fatal=True)
    await asyncio.Event().wait()


async def _check(path: Path, thread: Executor) -> str | None:
    """Return what is wrong first; None when nothing is, or when it could not be found out."""
    pause = PAUSE_SECONDS
    while True:
        try:
            with closing(read_only(path, any_thread=True)) as connection:
                return await _check_once(connection, path, thread)
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0)
            if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                return str(error)
            if code != sqlite3.SQLITE_INTERRUPT:
                _log.warning("store.unchecked", message=str(error))
                return None
        # So many callbacks come that they go first: again, when it is quieter.
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def _check_once(connection: sqlite3.Connection, path: Path, thread: Executor) -> str | None:
    limit = _log_bytes(path) + GROWTH_LIMIT_BYTES
    checking = asyncio.get_running_loop().run_in_executor(thread, find_bad_row, connection)
    try:
        while not (await asyncio.wait({checking}, timeout=LOOK_SECONDS))[0]:
            if _log_bytes(path) > limit:
                connection.interrupt()
        return checking.result()
    except asyncio.CancelledError:
        connection.interrupt()
        await asyncio.wait({checking})
        checking.exception()
        raise


def look_quickly(path: Path, seconds: float) -> str | None:
    """Look through a ledger that is in use; return what is wrong first, None when nothing is.

    Raises:
        TimeoutError: it is too large for so short a look.
        sqlite3.Error: it cannot be opened, or the disk failed.
    """
    until = time.monotonic() + seconds
    with closing(read_only(path)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > until, LOOK_STEPS)
        try:
            ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise TimeoutError from None
            raise
    return None if found == "ok" else str(found)


def _log_bytes(path: Path) -> int:
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _step_back() -> None:
    """Let this thread have what nobody else wants: on one processor callbacks would wait for it."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST)
