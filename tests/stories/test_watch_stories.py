"""Watching what is on its way: on terminals of all sizes, in pipes, over restarts."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.config import environment
from daemon.rules.redaction import escape_control
from tests.stories.broadcasting import MIB, Station, make_task, station
from tests.stories.harness import launch, run_verb

NASTY = "\x1b[31m\u202ered"
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture
def air(tmp_path: Path) -> Iterator[Station]:
    """Run a listener that says what a test says."""
    with station(tmp_path) as found:
        yield found


class Screen:
    """A terminal in which the verb runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", side: int) -> None:
        self.process = process
        self._side = side
        self.text = ""

    def until(self, *patterns: str) -> str:
        """Read until all patterns were written, in any order, and return what was written."""
        end = time.monotonic() + 20
        while not all(re.search(pattern, strip(self.text)) for pattern in patterns):
            assert time.monotonic() < end, f"not all of {patterns} in {self.text[-2_000:]!r}"
            self._read(0.2)
        return self.text

    def end(self) -> int:
        """Read to the end and return the exit code."""
        while self._read(20):
            pass
        return self.process.wait(10)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._side], [], [], seconds)[0]:
            return False
        try:
            piece = os.read(self._side, 65_536)
        except OSError:
            # The end of the last writer is EIO (pty(7)).
            return False
        self.text += piece.decode()
        return bool(piece)

    def resize(self, columns: int, rows: int) -> None:
        """Make the terminal another size, as a window's corner does."""
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._side, termios.TIOCSWINSZ, size)
        self.process.send_signal(signal.SIGWINCH)

    def press_ctrl_c(self) -> None:
        """Interrupt the verb as the terminal does."""
        os.write(self._side, b"\x03")


@contextmanager
def watching(
    air: Station, *ids: str, rich: bool = False, columns: int = 80, rows: int = 24, **environ: str
) -> Iterator[Screen]:
    """Run `watch` on a terminal of that size, with the library for bars or without."""
    folder = air.socket.parent
    hidden = folder / "hidden"
    if not rich:
        # What stands first on the path is found, and is not that library.
        (hidden / "rich").mkdir(parents=True, exist_ok=True)
        (hidden / "rich" / "__init__.py").write_text("raise ImportError('not here')\n")
    known = {**environment(), "TERM": "xterm", "PYTHONPATH": "" if rich else str(hidden)}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        known.pop(name, None)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = launch(
        *("-c", str(folder / "config.toml"), "watch", *ids),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**known, **environ},
        start_new_session=True,
        # Ctrl-C reaches whoever the terminal belongs to.
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        yield Screen(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)


@contextmanager
def piped(air: Station, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `watch` with its output in pipes."""
    pipe = subprocess.PIPE
    config = str(air.socket.parent / "config.toml")
    process = launch("-c", config, "watch", *arguments, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def read_until(process: "subprocess.Popen[str]", words: str) -> list[str]:
    """Return the lines of standard output up to one with these words."""
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or words not in lines[-1]:
        line = process.stdout.readline()
        assert line, (lines, words)
        lines.append(line.rstrip("\n"))
    return lines


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for the end and return code, output and errors."""
    output, errors = process.communicate(timeout=20)
    return process.returncode, output, errors


def strip(text: str) -> str:
    """Return what was written without the orders to the terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def block(text: str) -> list[str]:
    """Return the lines of the block that was drawn last, of the plain painter."""
    return text.rpartition("\x1b[J")[2].replace("\r", "").split("\n")[:-1]


@pytest.mark.parametrize("rich", [False, True])
def test_a_terminal_shows_bars_that_move(air: Station, *, rich: bool) -> None:
    """State, percent, sizes, speed and the time that is left; what ended stands above with path."""
    air.put(make_task("one", "wanted"))
    air.put(make_task("two", label=NASTY))
    air.put(make_task("old", "done"))
    with watching(air, rich=rich) as screen:
        air.wait()
        screen.until("1 expected  1 wanted  1 done", r"u202ered  +expected")
        air.progress("one", 10 * MIB, 40 * MIB, 2 * MIB)
        drawn = strip(screen.until(r" 25%"))
        assert re.search(r"one +wanted .* 25% +10\.0M/40\.0M +2\.0M/s +0:15", drawn)
        air.move("one", "done", path="/videos/one.mp4")
        text = screen.until(r"one  done +/videos/one\.mp4", "1 expected  2 done")
        # A quarter of it, however wide the longest name leaves it.
        bar = re.search(r"\[(#+)(\.+)\]", text)
        assert (bar is not None and 2 <= len(bar[2]) / len(bar[1]) <= 4) != rich
        assert ("\u2501" in text) == rich
        screen.press_ctrl_c()
        assert screen.end() == 8
    text = screen.text
    assert text.rfind(SHOW_CURSOR) >= text.rfind(HIDE_CURSOR)
    assert "Traceback" not in text
    assert "\\x1b[31m\\u202ered" in text
    assert "\x1b[31m" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("columns", [40, 60, 80, 132])
def test_no_line_is_wider_than_the_terminal(air: Station, columns: int) -> None:
    """Ids of 128 characters and a gate's long reason included; a short one says how many more."""
    for number in range(30):
        air.put(make_task(f"{number:02}" + "x" * 126))
    air.put(make_task("y" * 128, "wanted", deadline_at="2026-01-01T00:00:00.000Z"))
    air.gates = [{"name": "api", "since": "2026-11-22T08:00:00.000Z", "reason": "down " * 40}]
    with watching(air, columns=columns, rows=10) as screen:
        air.wait()
        screen.until("and 2. more")
        air.progress("y" * 128, MIB, 3 * MIB, 1000)
        screen.until("33%")
        lines = block(screen.text)
        assert max(map(len, lines)) < columns
        assert len(lines) <= 9
        assert lines[1].startswith("gate api is shut: down")
        assert re.match(r"y+\.\.y+ +wanted", lines[2])
        screen.press_ctrl_c()
        assert screen.end() == 8


@pytest.mark.parametrize("rich", [False, True])
def test_a_window_that_changes_is_drawn_anew(air: Station, *, rich: bool) -> None:
    """The next drawing has the new size."""
    air.put(make_task("x" * 60, label="y" * 60))
    with watching(air, rich=rich, columns=120) as screen:
        air.wait()
        screen.until("y{60}")
        begin = len(screen.text)
        screen.resize(40, 15)
        air.progress("x" * 60, MIB, 4 * MIB, 1)
        screen.until(r"y\.\.y", "25%")
        drawn = strip(screen.text[begin:]).split("\n")
        assert max(len(line) for line in drawn if "25%" in line) < 40
        screen.press_ctrl_c()
        assert screen.end() == 8


@pytest.mark.parametrize("rich", [False, True])
def test_an_end_from_outside_gives_the_cursor_back(air: Station, *, rich: bool) -> None:
    """SIGTERM, of a window that is closed for example, is no reason to leave it hidden."""
    air.put(make_task("one"))
    with watching(air, rich=rich) as screen:
        screen.until("one")
        screen.process.terminate()
        assert screen.end() == 128 + signal.SIGTERM
    assert (HIDE_CURSOR in screen.text) == rich
    assert screen.text.rfind(SHOW_CURSOR) >= screen.text.rfind(HIDE_CURSOR)


def test_a_restart_is_said_and_what_was_missed_is_read(air: Station) -> None:
    """The daemon goes and comes back: what ended meanwhile is told, what is new is there."""
    for name in ("one", "two"):
        air.put(make_task(name, "wanted"))
    with watching(air) as screen:
        screen.until("2 wanted")
        air.wait()
        air.stop()
        screen.until("the daemon is gone")
        air.tasks["one"] |= {"state": "done", "path": "/videos/one.mp4"}
        air.put(make_task("three"))
        air.start()
        screen.until("the daemon is back", r"one  done +/videos/one\.mp4", "three +expected")
        air.wait()
        air.move("two", "lost", reason="deadline")
        screen.until("two  lost +deadline", "1 expected  1 done  1 lost")
        assert screen.text.count("the daemon is gone") == 1
        screen.press_ctrl_c()
        assert screen.end() == 8


def test_a_pipe_gets_a_line_for_each_change(air: Station) -> None:
    """Plain lines with the time; progress is told at most once in ten seconds for each task."""
    air.put(make_task("one", "wanted"))
    air.put(make_task("old", "done"))
    with piped(air, "one") as process:
        assert re.fullmatch(r"\d\d:\d\d:\d\d  one  wanted", read_until(process, "wanted")[-1])
        air.wait()
        for number in range(20):
            air.progress("one", number * MIB, 40 * MIB, MIB)
            time.sleep(0.02)
        air.move("one", "verified")
        read_until(process, "verified")
        air.move("one", "done", path="/videos/one.mp4")
        code, output, errors = finish(process)
    assert (code, errors) == (0, "")
    (line,) = output.splitlines()
    assert line.endswith("one  done      /videos/one.mp4")


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (["done", "done"], 0),
        (["done", "pruned"], 0),
        (["failed", "done"], 5),
        (["lost", "failed"], 5),
    ],
)
def test_named_tasks_are_waited_for(air: Station, ends: Sequence[str], code: int) -> None:
    """It ends when all of them have ended, and not before; one that failed is exit 5."""
    for number in range(2):
        air.put(make_task(f"t{number}"))
    air.put(make_task("other", "failed"))
    with piped(air, "t0", "t1") as process:
        air.wait()
        air.move("t0", ends[0])
        read_until(process, ends[0])
        assert process.poll() is None
        air.move("t1", ends[1])
        assert finish(process)[0] == code


def test_what_has_ended_already_is_told_and_over(air: Station) -> None:
    """Nobody waits for what is there; ids that are unknown are exit 5, and a forgotten one 6."""
    config = ("-c", str(air.socket.parent / "config.toml"), "watch")
    air.put(make_task("t", "done", path="/videos/t.mp4"))
    done = run_verb(*config, "t", "t")
    assert (done.code, done.errors) == (0, "")
    assert done.output.endswith("t  done      /videos/t.mp4\n")
    unknown = run_verb(*config, "t", "nobody")
    assert (unknown.code, unknown.output) == (5, "")
    assert "no such task" in unknown.errors
    air.put(make_task("t", forgotten_at="2026-11-22T08:00:00.000Z"))
    assert run_verb(*config, "t").code == 6
    air.put(make_task("submit-1", next_attempt_at=None))
    opened = run_verb(*config, "submit-1")
    assert opened.code == 6
    assert "nobody knows whether the provider makes this video" in opened.errors


def test_a_submit_is_followed_under_its_new_id(air: Station) -> None:
    """The provider's id replaces ours; who waits for ours waits for the video."""
    air.put(make_task("submit-1"))
    with piped(air, "submit-1") as process:
        read_until(process, "submit-1")
        air.wait()
        air.put(make_task("theirs"))
        air.tasks["submit-1"] = air.tasks["theirs"]
        air.say("submit.answered", task_id="theirs", local_id="submit-1")
        read_until(process, "theirs")
        air.move("theirs", "done")
        assert finish(process)[0] == 0


def test_json_is_one_object_a_line_as_it_came(air: Station) -> None:
    """Of all, or of the named tasks; what is no JSON is left out."""
    air.put(make_task("one", "wanted"))
    with piped(air, "--json") as process:
        air.wait()
        air.say("gate.closed", gate="key", reason="wrong")
        air.send(": a sign of life\r\n\r\nevent: odd\r\ndata: {\r\n\r\ndata: [1]\r\n\r\n")
        air.progress("one", 1, 2, 3)
        lines = read_until(process, "download.progress")
        process.send_signal(signal.SIGINT)
        code, output, errors = finish(process)
    assert (code, output, errors.strip()) == (8, "", "")
    assert [json.loads(line)["event"] for line in lines] == ["gate.closed", "download.progress"]
    with piped(air, "--json", "one") as process:
        air.wait()
        while air.looks < 2:
            time.sleep(0.02)
        air.say("task.moved", task_id="two", **{"from": "expected", "to": "wanted"})
        air.move("one", "done")
        code, output, _ = finish(process)
    assert code == 0
    assert [json.loads(line)["task_id"] for line in output.splitlines()] == ["one"]


def test_a_flood_that_is_dropped_is_made_good(air: Station) -> None:
    """When the daemon says that it left lines out, the ledger is read again."""
    air.put(make_task("one", "wanted"))
    with piped(air, "one") as process:
        read_until(process, "wanted")
        air.wait()
        air.tasks["one"]["state"] = "done"
        air.say("events.dropped", lines=100)
        assert finish(process)[0] == 0


def test_names_from_outside_drive_no_terminal(air: Station) -> None:
    """Control characters in ids and labels are spelled out in a pipe as well."""
    air.put(make_task("evil" + NASTY, label="l" + NASTY, reason="r\n" + NASTY))
    with piped(air) as process:
        (line,) = read_until(process, "evil")
        assert line == escape_control(line)
        air.wait()
        air.progress("p" + NASTY, 1, 2, 3)
        (line,) = read_until(process, "50%")
        assert line == escape_control(line)


def test_without_a_daemon_it_says_what_to_do(tmp_path: Path) -> None:
    """Not there at the start: exit 6 and the next command, as every verb."""
    (tmp_path / "config.toml").write_text(f'[admin]\nsocket = "{tmp_path}/none.sock"\n')
    ended = run_verb("-c", str(tmp_path / "config.toml"), "watch")
    assert (ended.code, ended.output) == (6, "")
    assert "suno-videod serve" in ended.errors
