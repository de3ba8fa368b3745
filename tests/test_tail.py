"""Where the lines of a log come from: files that grow and rotate, pipes, the journal."""

import gzip
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon import tail
from daemon.config import environment
from daemon.tail import (
    FIRST_LINES,
    LINE_LIMIT,
    Batches,
    NoLog,
    NothingLogged,
    follow_file,
    read_file,
    read_journal,
)

NEVER: dict[str, None] = {"since": None, "until": None}


def flat(batches: Iterable[list[bytes]]) -> list[bytes]:
    """Return all lines."""
    return [line for lines in batches for line in lines]


def until(batches: Iterator[list[bytes]], last: bytes) -> list[bytes]:
    """Read until a line comes, and return all that came."""
    found: list[bytes] = []
    while last not in found:
        found += next(batches)
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the path of a log that is not there yet."""
    return tmp_path / "daemon.log"


@pytest.fixture
def follow(log: Path) -> Iterator[Callable[..., Batches]]:
    """Follow the log, and close it in any case."""
    opened: list[Batches] = []

    def begin(*, whole: bool = True) -> Batches:
        opened.append(follow_file(log, whole=whole))
        return opened[-1]

    yield begin
    for batches in opened:
        batches.close()


def test_a_file_is_read_to_its_last_bytes(log: Path) -> None:
    """Empty lines say nothing; what stands behind the last line end is a line."""
    log.write_bytes(b"one\n\ntwo\r\n\xff\xfe\nhalf")
    assert flat(read_file(log)) == [b"one", b"two\r", b"\xff\xfe", b"half"]


def test_a_compressed_file_is_read_whatever_its_name(log: Path) -> None:
    """What logrotate packed is a log as well; a torn one says so."""
    packed = gzip.compress(b"one\ntwo\n")
    log.write_bytes(packed)
    assert flat(read_file(log)) == [b"one", b"two"]
    log.write_bytes(packed[:-9])
    with pytest.raises(NoLog, match="cannot be read"):
        flat(read_file(log))


def test_lines_are_cut_where_they_end_and_not_where_a_read_ends(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of any size make the same lines."""
    log.write_bytes(b"one\ntwo two\n\nthree")
    for size in range(1, 12):
        monkeypatch.setattr(tail, "PIECE_BYTES", size)
        assert flat(read_file(log)) == [b"one", b"two two", b"three"], size


def test_a_line_without_end_is_cut(log: Path) -> None:
    """Ten megabytes are a line; what is longer than any line is not kept in memory."""
    log.write_bytes(b"x" * 10_000_000 + b"\n" + b"y" * (3 * LINE_LIMIT) + b"\nlast\n")
    first, second, last = flat(read_file(log))
    assert first == b"x" * 10_000_000
    assert LINE_LIMIT <= len(second) <= LINE_LIMIT + 2 * tail.PIECE_BYTES
    assert last == b"last"


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_is_no_file_is_said(log: Path, kind: str) -> None:
    """The name, the reason, and what would be right."""
    if kind == "folder":
        log.mkdir()
    with pytest.raises(NoLog, match=r"daemon\.log cannot be read .*: name a file"):
        flat(read_file(log))


def test_following_begins_with_the_last_lines(log: Path, follow: Callable[..., Batches]) -> None:
    """As tail does; with the whole file where that is asked for."""
    log.write_bytes(b"".join(b"%d\n" % number for number in range(100_000)) + b"ha")
    batches = follow(whole=False)
    first = next(batches)
    assert first == [b"%d" % number for number in range(100_000 - FIRST_LINES, 100_000)]
    with log.open("ab") as writer:
        writer.write(b"lf\nnext\n")
    assert until(batches, b"next") == [b"half", b"next"]
    assert len(until(follow(), b"next")) == 100_002


def test_following_waits_for_a_file_that_is_not_there(
    log: Path, follow: Callable[..., Batches]
) -> None:
    """The daemon may be started afterwards; nothing of the new file is missed."""
    timer = threading.Timer(0.4, lambda: log.write_bytes(b"first\nsecond\n"))
    timer.start()
    assert until(follow(whole=False), b"second") == [b"first", b"second"]
    timer.join()


def test_following_survives_a_new_file_under_the_name(
    log: Path, follow: Callable[..., Batches]
) -> None:
    """What is still written to the old one is read first, then the new one from its beginning."""
    log.write_bytes(b"one\n")
    batches = follow()
    assert next(batches) == [b"one"]
    with log.open("ab") as old:
        log.rename(log.with_suffix(".1"))
        old.write(b"two\nhal")
        old.flush()
        assert until(batches, b"two") == [b"two"]
        old.write(b"f\nlast of the old")
        old.flush()
        log.write_bytes(b"new\n")
    assert until(batches, b"new") == [b"half", b"last of the old", b"new"]


def test_following_survives_a_file_that_is_made_empty(
    log: Path, follow: Callable[..., Batches]
) -> None:
    """As logrotate's copytruncate does it."""
    log.write_bytes(b"one\ntwo\n")
    batches = follow()
    assert next(batches) == [b"one", b"two"]
    shutil.copy(log, log.with_suffix(".1"))
    os.truncate(log, 0)
    with log.open("ab") as writer:
        writer.write(b"new\n")
    assert until(batches, b"new") == [b"new"]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a program named journalctl first on the path, a shell script; it notes its arguments."""

    def install(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program, noted = folder / "journalctl", folder / "arguments"
        program.write_text(f'#!/bin/sh\necho "$*" > {noted}\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:{environment()['PATH']}")
        return noted

    return install


def test_the_journal_is_asked_for_the_unit_and_the_time(
    journal: Callable[[str], Path],
) -> None:
    """It looks the time up itself, which is what makes it fast."""
    noted = journal("echo one; echo; echo '-- No entries --'; echo two")
    since = datetime(2026, 11, 17, tzinfo=UTC)
    stamp = int(since.timestamp())
    span = {"since": since, "until": since}
    assert flat(read_journal(**span, follow=False, whole=True)) == [b"one", b"two"]
    common = "-u suno-videod -o cat --no-pager"
    assert noted.read_text() == f"{common} --since=@{stamp} --until=@{stamp + 1}\n"
    flat(read_journal(**NEVER, follow=True, whole=False))
    assert noted.read_text() == f"{common} -f -n {FIRST_LINES}\n"
    flat(read_journal(since=since, until=None, follow=True, whole=False))
    assert noted.read_text() == f"{common} --since=@{stamp} -f -n all\n"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1",
            "as root or as a member of the group systemd-journal",
        ),
        (
            "echo 'Hint: You are currently not seeing messages from other users.' >&2",
            "systemd-journal",
        ),
        ("echo 'Failed to open' >&2; exit 1", "Failed to open"),
        ("exit 3", "ended with 3"),
        ("echo '-- No entries --'", "has no line of suno-videod"),
    ],
)
def test_a_journal_that_says_nothing_is_explained(
    journal: Callable[[str], Path], script: str, told: str
) -> None:
    """Forbidden, broken, or without a line: what it is and what to do."""
    journal(script)
    with pytest.raises(NoLog, match=told) as failure:
        flat(read_journal(**NEVER, follow=False, whole=True))
    assert ("name" in str(failure.value)) == ("exit" not in script or "permissions" in script)
    assert isinstance(failure.value, NothingLogged) == ("entries" in script)


def test_without_journalctl_it_says_to_name_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without systemd has a log all the same."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoLog, match="name a file, or - for standard input"):
        flat(read_journal(**NEVER, follow=False, whole=True))


def test_the_journal_is_let_go_when_nobody_reads_on(
    journal: Callable[[str], Path], tmp_path: Path
) -> None:
    """A reader that has seen enough leaves no program behind."""
    journal(f"echo $$ > {tmp_path}/pid; echo one; exec sleep 60")
    with closing(read_journal(**NEVER, follow=True, whole=False)) as batches:
        assert until(batches, b"one") == [b"one"]
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_real_journalctl_takes_these_arguments() -> None:
    """Whatever the journal of this machine holds, no argument is refused."""
    if shutil.which("journalctl") is None:
        pytest.skip("needs the package systemd")
    since = datetime(2001, 1, 1, tzinfo=UTC)
    try:
        flat(read_journal(since=since, until=since, follow=False, whole=True))
    except NoLog as nothing:
        assert "option" not in str(nothing)  # noqa: PT017 - an empty journal is no failure
        assert "parse" not in str(nothing)  # noqa: PT017 - likewise
