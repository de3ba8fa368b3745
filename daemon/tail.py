"""Where the lines of a log come from: the journal, a file, standard input.

Rule: lines come in batches, as they are read, and a batch ends where nothing more is there yet. No
more than a batch and one line is ever in memory; a line without end is cut.
"""

import gzip
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

PIECE_BYTES: Final = 1 << 18
LINE_LIMIT: Final = 1 << 24
"""No line of ours is a thousandth of it, and a file without line ends is not read into memory."""
FIRST_LINES: Final = 10
"""What `--follow` shows of the past."""
LOOK_SECONDS: Final = 0.2
UNIT: Final = "suno-videod"
_EMPTY: Final = b"-- No entries --"


Batches = Generator[list[bytes], None, None]


class NoLog(Exception):
    """The log cannot be read; says what to do."""


class NothingLogged(NoLog):
    """There is a log, and nothing in it."""


class _Lines:
    """Cuts what was read into lines, and keeps the one that is not whole yet."""

    def __init__(self) -> None:
        self._rest = b""
        self._skips = False

    def cut(self, piece: bytes) -> list[bytes]:
        """Return the lines that are whole by now."""
        *lines, rest = (self._rest + piece).split(b"\n")
        if self._skips and lines:
            # The end of a line whose beginning was shown already.
            del lines[0]
            self._skips = False
        if self._skips:
            rest = b""
        elif len(rest) > LINE_LIMIT:
            lines.append(rest[:LINE_LIMIT])
            rest, self._skips = b"", True
        self._rest = rest
        return [line for line in lines if line]

    def last(self) -> list[bytes]:
        """Return the last line, where no line end follows it."""
        rest, self._rest, self._skips = self._rest, b"", False
        return [rest] if rest else []


def _read_all(read: Callable[[], bytes]) -> Batches:
    lines = _Lines()
    while piece := read():
        yield lines.cut(piece)
    yield lines.last()


def read_stdin() -> Batches:
    """Yield what comes on standard input, as it comes."""
    return _read_all(lambda: os.read(sys.stdin.fileno(), PIECE_BYTES))


def read_file(path: Path) -> Batches:
    """Yield the lines of a file, also of a compressed one.

    Raises:
        NoLog: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            packed = stream.peek(2)[:2] == b"\x1f\x8b"
            with gzip.open(stream) if packed else closing(stream) as source:
                yield from _read_all(lambda: source.read1(PIECE_BYTES))
    except (OSError, EOFError) as error:
        raise NoLog(f"{path} cannot be read ({_say(error)}): name a file of the log") from error


def follow_file(path: Path, *, whole: bool) -> Batches:
    """Yield the last lines of a file, or the whole, and then for ever what is added to it.

    A file that is not there yet is waited for; one that is put in its place, or made empty, is read
    from its beginning.
    """
    lines, stream = _Lines(), None
    try:
        while True:
            if stream is None:
                with suppress(FileNotFoundError):
                    stream = path.open("rb")
                    if not whole:
                        yield _find_end(stream)
                # Whatever is put there from now on is new.
                whole = True
            if stream is not None:
                while piece := stream.read(PIECE_BYTES):
                    yield lines.cut(piece)
                if _is_replaced(path, stream):
                    # What was written to the old one before it went away.
                    yield lines.cut(stream.read()) + lines.last()
                    stream.close()
                    stream = None
                    continue
                if os.fstat(stream.fileno()).st_size < stream.tell():
                    yield lines.last()
                    stream.seek(0)
                    continue
            time.sleep(LOOK_SECONDS)
    except OSError as error:
        raise NoLog(f"{path} cannot be read ({_say(error)}): name a file of the log") from error
    finally:
        if stream is not None:
            stream.close()


def _find_end(stream: BinaryIO) -> list[bytes]:
    """Return the last whole lines; what follows them is read by whoever follows."""
    begin = max(0, stream.seek(0, os.SEEK_END) - PIECE_BYTES)
    stream.seek(begin)
    piece = stream.read(PIECE_BYTES)
    end = piece.rfind(b"\n") + 1
    stream.seek(begin + end)
    found = piece[:end].split(b"\n")
    if begin:
        # Its beginning is further back.
        del found[0]
    return [line for line in found if line][-FIRST_LINES:]


def _is_replaced(path: Path, stream: BinaryIO) -> bool:
    """Tell whether another file has the name now; while none has it, the old one may still grow."""
    try:
        there, ours = path.stat(), os.fstat(stream.fileno())
    except FileNotFoundError:
        return False
    return (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev)


def read_journal(
    *, since: datetime | None, until: datetime | None, follow: bool, whole: bool
) -> Batches:
    """Yield the lines of the unit in the journal of systemd.

    Raises:
        NoLog: there is no journal, it may not be read, or has nothing of the unit.
    """
    command = ["journalctl", "-u", UNIT, "-o", "cat", "--no-pager"]
    command += [f"--since=@{int(since.timestamp())}"] if since else []
    command += [f"--until=@{int(until.timestamp()) + 1}"] if until and not follow else []
    if follow:
        command += ["-f", "-n", "all" if whole or since else str(FIRST_LINES)]
    pipe = subprocess.PIPE
    try:
        journal = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)  # noqa: S603 - without a shell
    except OSError as error:
        raise NoLog(
            f"journalctl cannot be run ({_say(error)}): name a file, or - for standard input, as "
            "in: suno-videod logs /var/log/suno-videod.log"
        ) from error
    heard = False
    if journal.stdout is None or journal.stderr is None:
        raise NoLog("journalctl has no output")
    try:
        out = journal.stdout.fileno()
        for lines in _read_all(lambda: os.read(out, PIECE_BYTES)):
            found = [line for line in lines if line != _EMPTY]
            heard = heard or bool(found)
            yield found
        told = journal.stderr.read().decode("utf-8", "backslashreplace").strip()
        code = journal.wait()
    finally:
        journal.terminate()
        journal.stdout.close()
        journal.stderr.close()
        journal.wait()
    if "permission" in told or "not seeing messages" in told:
        raise NoLog(
            "this user may not read the journal: run it as root or as a member of the group "
            "systemd-journal, or name a file"
        )
    if code and not heard:
        raise NoLog(f"the journal cannot be read: {told or f'journalctl ended with {code}'}")
    if not heard:
        raise NothingLogged(
            f"the journal has no line of {UNIT} in that time; where the daemon does not run as "
            "that unit, name the file that its output goes to, or - for standard input; who is not "
            "root sees the journal with sudo"
        )


def _say(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
