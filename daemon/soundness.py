"""Is the whole ledger sound? Asked while the daemon runs, where asking at the start takes too long.

Rule: a small ledger is checked before it is used, a large one, in which every page takes its time,
beside the work and through a connection that changes nothing. What is found ends the process and is
written down, so that no later start forgets it and acknowledges anything.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import structlog

from daemon.inspection import LEDGER_NAME, find_bad_row, is_large, note_damage, read_only
from daemon.store import StoreFailed

_log = structlog.get_logger()


async def check_soundness(state_dir: Path) -> None:
    """Check the ledger once, then wait for ever.

    Raises:
        StoreFailed: it is damaged; fatal.
    """
    path = state_dir / LEDGER_NAME
    if is_large(path):
        with closing(read_only(path, any_thread=True)) as connection:
            found = await _check(connection)
        if found is not None:
            note_damage(state_dir, found)
            raise StoreFailed(f"{path} is damaged: {found}", fatal=True)
    await asyncio.Event().wait()


async def _check(connection: sqlite3.Connection) -> str | None:
    """Return what is wrong first; None when nothing is, or when it could not be found out."""
    checking = asyncio.ensure_future(asyncio.to_thread(find_bad_row, connection))
    try:
        return await asyncio.shield(checking)
    except asyncio.CancelledError:
        connection.interrupt()
        await asyncio.wait({checking})
        checking.exception()
        raise
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return str(error)
        _log.warning("store.unchecked", message=str(error))
        return None
