"""What can happen to one file of a state folder while nobody looks.

Rule: one harm changes one file. Where and how much is drawn from the luck that it is given.
"""

import os
import random
import shutil
import sqlite3  # noqa: TID251 - a newer program is played
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.campaigns.ledgers import Left

LEDGER: Final = "ledger.sqlite3"
LOG: Final = f"{LEDGER}-wal"
INDEX: Final = f"{LEDGER}-shm"
LOCK: Final = "lock"
NEWER: Final = 99
MOST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Harm:
    """A harm to one file; a file that is not there takes none, and that is told."""

    name: str
    file: str
    deed: Callable[[Path, Left, random.Random], str]

    @property
    def puts_back(self) -> bool:
        """Whether an older copy takes the place of the file."""
        return self.deed is _put_back

    def do(self, state: Path, left: Left, luck: random.Random) -> str:
        """Do it in the folder `state`; return what was done."""
        path = state / self.file
        if not path.exists():
            return f"{self.file} was not there to be harmed"
        return f"{self.file} {self.deed(path, left, luck)}"


def _flip(path: Path, _: Left, luck: random.Random) -> str:
    data = bytearray(path.read_bytes())
    place, bit = luck.randrange(len(data)), luck.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"with bit {bit} of byte {place} of {len(data)} flipped"


def _overwrite(path: Path, _: Left, luck: random.Random) -> str:
    data = bytearray(path.read_bytes())
    # As many short strokes as long ones.
    count = min(len(data), 1 << luck.randrange(MOST_BYTES.bit_length()))
    place = luck.randrange(len(data) - count + 1)
    data[place : place + count] = luck.randbytes(count)
    path.write_bytes(data)
    return f"with {count} of {len(data)} bytes at {place} overwritten"


def _truncate(path: Path, _: Left, luck: random.Random) -> str:
    size = path.stat().st_size
    rest = luck.choice((0, luck.randrange(size), size // 4096 * 4096 * luck.randrange(4) // 4))
    os.truncate(path, rest)
    return f"cut to {rest} of {size} bytes"


def _zero(path: Path, _: Left, __: random.Random) -> str:
    path.write_bytes(bytes(path.stat().st_size))
    return "filled with zeros"


def _delete(path: Path, _: Left, __: random.Random) -> str:
    path.unlink()
    return "deleted"


def _put_back(path: Path, left: Left, _: random.Random) -> str:
    older = left.older / path.name
    shutil.copyfile(older, path)
    return f"put back as it was at {older.stat().st_size} bytes"


def _make_newer(path: Path, left: Left, _: random.Random) -> str:
    """Let a newer program write to the ledger, and be killed."""
    newer = path.parent.with_name("newer")
    shutil.copytree(path.parent, newer)
    with closing(sqlite3.connect(newer / LEDGER)) as connection:
        connection.execute(f"PRAGMA user_version = {NEWER}").fetchall()
        for name in (LEDGER, LOG, INDEX) if left.kind != "closed" else ():
            shutil.copyfile(newer / name, path.parent / name)
    if left.kind == "closed":
        shutil.copyfile(newer / LEDGER, path)
    shutil.rmtree(newer)
    return f"written by a program that knows {NEWER} steps"


HARMS: Final = (
    *(Harm("flip", file, _flip) for file in (LEDGER, LEDGER, LEDGER, LOG, LOG, INDEX, LOCK)),
    *(Harm("overwrite", file, _overwrite) for file in (LEDGER, LEDGER, LEDGER, LOG, LOG, INDEX)),
    Harm("overwrite", LOCK, _overwrite),
    *(Harm("truncate", file, _truncate) for file in (LEDGER, LEDGER, LOG, LOG, INDEX, LOCK)),
    *(Harm("zero", file, _zero) for file in (LEDGER, LOG, INDEX, LOCK)),
    *(Harm("delete", file, _delete) for file in (LEDGER, LOG, INDEX, LOCK)),
    *(Harm("put back", file, _put_back) for file in (LEDGER, LOG, INDEX, LOCK)),
    Harm("newer", LEDGER, _make_newer),
)
