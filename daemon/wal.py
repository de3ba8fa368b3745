"""Is the write-ahead log whole? What SQLite itself does not say.

After a crash SQLite takes from the log what is whole from its beginning, and silently leaves what
stands behind a damaged byte or behind the place where the log was cut: commits that were
acknowledged. But the log's index remembers how many frames were committed, and behind the damage
the frames still stand.

Rule: the index is believed as far as its own checksum and its salts agree with the log, and a log
of which nothing bad can be proved is taken for whole.

Source: https://www.sqlite.org/walformat.html, https://www.sqlite.org/fileformat2.html#walformat.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

_LOG_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_INDEX_HEADER_BYTES: Final = 48
_BIG_ENDIAN_SUMS: Final = 0x377F0683
_MOST_STEPS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Index:
    """What the index says: how many frames of the log are committed, and the salts of that log."""

    frames: int
    salts: bytes


def read_index(path: Path) -> Index | None:
    """Read the index (the `-shm` file); None when it is missing, empty or torn."""
    try:
        with path.open("rb") as file:
            first, second = file.read(_INDEX_HEADER_BYTES), file.read(_INDEX_HEADER_BYTES)
    except OSError:
        return None
    # It is written twice, one copy after the other.
    if len(second) < _INDEX_HEADER_BYTES or first != second or not any(first):
        return None
    if struct.unpack("=2I", first[40:]) != _add_up(first[:40], "="):
        return None
    return Index(struct.unpack_from("=I", first, 16)[0], first[32:40])


def find_damage(
    path: Path, before: Index | None, after: Index | None, *, same_boot: bool
) -> str | None:
    """Return what is wrong with the log, or None.

    `before` is the index as the last process left it, `after` as SQLite made it anew from what it
    took for whole. `same_boot`: the machine ran on, so the kernel has kept every write, in order;
    otherwise one commit, the last one before the power went, may be there in pieces.
    """
    kept = after.frames if after else 0
    with path.open("rb") as file:
        header = file.read(_LOG_HEADER_BYTES)
        if any(header) and not _is_sound(header):
            return "its first bytes are damaged"
        salts = header[16:24]
        if before and before.frames > kept and (before.salts == salts or not any(header)):
            return f"it holds {kept} of {before.frames} frames that were committed"
        if before and before.frames and same_boot and any(header):
            # What comes from a snapshot may be an index that is older than its log, by some of the
            # steps that the first salt goes up by; an older log has other salts altogether.
            steps = (_first_salt(salts) - _first_salt(before.salts)) & 0xFFFFFFFF
            if steps > _MOST_STEPS:
                return "it is not the log that was written last"
        if not any(header):
            return None
        hidden = _count_commits(file, salts, behind=kept, order=_order(header))
    if hidden > (0 if same_boot else 1):
        return f"a damaged byte hides {hidden} commits"
    return None


def _is_sound(header: bytes) -> bool:
    if len(header) < _LOG_HEADER_BYTES:
        return False
    return struct.unpack(">2I", header[24:]) == _add_up(header[:24], _order(header))


def _first_salt(salts: bytes) -> int:
    found: int = struct.unpack_from(">I", salts)[0]
    return found


def _order(header: bytes) -> str:
    """Return the order of bytes in which the checksums of this log were made."""
    return ">" if struct.unpack_from(">I", header)[0] == _BIG_ENDIAN_SUMS else "<"


def _count_commits(file: BinaryIO, salts: bytes, *, behind: int, order: str) -> int:
    """Count the whole frames behind the first `behind` that end a commit of this very log.

    A frame is whole when its checksum follows from the one in the frame before it. One that is not
    may be a write that failed, for want of room say, and was acknowledged to nobody.
    """
    file.seek(8)
    page_bytes = struct.unpack(">I", file.read(4))[0]
    file.seek(_LOG_HEADER_BYTES + behind * (_FRAME_HEADER_BYTES + page_bytes))
    count, before = 0, b""
    while len(frame := file.read(_FRAME_HEADER_BYTES + page_bytes)) > page_bytes:
        head, page = frame[:_FRAME_HEADER_BYTES], frame[_FRAME_HEADER_BYTES:]
        # The second word is the size of the database after a commit, else nought.
        if before and head[8:16] == salts and any(head[4:8]) and len(page) == page_bytes:
            summed = _add_up(head[:8] + page, order, struct.unpack(">2I", before))
            count += summed == struct.unpack(">2I", head[16:])
        before = head[16:]
    return count


def _add_up(data: bytes, order: str, begin: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Return SQLite's checksum of whole pairs of words, going on from another one."""
    one, two = begin
    for first, second in struct.iter_unpack(f"{order}2I", data):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
