"""Reading the log as a person does: of a real daemon, through pipes, on a terminal."""

import asyncio
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from daemon.rules.redaction import escape_control
from tests.stories.harness import Daemon, launch, read_lines, run_on_terminal, run_verb
from tests.stories.stage import Stage

STORY = """\
{"timestamp":"2026-11-16T23:00:00Z","level":"info","event":"daemon.ready","version":"1"}
{"timestamp":"2026-11-17T10:00:02Z","level":"info","event":"task.moved","task_id":"t1","from":"wanted","to":"done"}
not ours \x1b[31m
{"timestamp":"2026-11-17T10:00:01Z","level":"warning","event":"download.failed","task_id":"t1","reason":"network"}
{"timestamp":"2026-11-18T10:00:00Z","level":"error","event":"store.failed","message":"full"}
{"timestamp":"2026-11-18T10:00:01Z","level":"info","event":"task.mo"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a log with foreign lines, out of order, with a torn end."""
    path = tmp_path / "daemon.log"
    path.write_text(STORY)
    return path


def events(output: str) -> list[str]:
    """Return the events of lines for people."""
    return re.findall(r"^\d\d:\d\d:\d\d \S+ +([a-z]+\.[a-z]+)", output, re.MULTILINE)


def test_what_happened_to_a_task_last_tuesday(log: Path) -> None:
    """Its story in order of time, with days; another day has nothing and says where to look."""
    span = ("--since", "2026-11-17", "--until", "2026-11-18")
    ended = run_verb("logs", str(log), "--task", "t1", *span, TZ="UTC")
    assert (ended.code, ended.errors) == (0, "")
    assert ended.output.splitlines() == [
        "Tuesday 2026-11-17",
        "10:00:01 warn  download.failed     reason=network",
        "10:00:02 info  task.moved          wanted -> done",
    ]
    other = run_verb("logs", str(log), "--task", "t1", "--since", "2026-11-18", TZ="UTC")
    assert (other.code, other.output) == (0, "")
    assert "suno-videod show t1" in other.errors


def test_a_log_is_read_from_a_file_and_from_a_pipe_alike(log: Path) -> None:
    """Foreign lines and the torn last one are there, and nothing drives the terminal."""
    from_file = run_verb("logs", str(log))
    assert (from_file.code, from_file.errors) == (0, "")
    assert from_file == run_verb("logs", "-", stdin=STORY)
    assert "not ours \\x1b[31m\n" in from_file.output
    assert from_file.output.endswith('"event":"task.mo\n')
    assert all(part == escape_control(part) for part in from_file.output.split("\n"))
    assert events(from_file.output) == [
        *("daemon.ready", "task.moved", "download.failed", "store.failed")
    ]


def test_filters_leave_out_what_cannot_meet_them(log: Path) -> None:
    """Events, a level and times, alone and together; `--json` is the line as it was."""
    for arguments, found in (
        (["--event", "task"], ["task.moved"]),
        (["--event", "gate.*", "--event", "store.failed"], ["store.failed"]),
        (["--level", "warning"], ["download.failed", "store.failed"]),
        (["--level", "warning", "--until", "2026-11-18"], ["download.failed"]),
    ):
        ended = run_verb("logs", str(log), *arguments, TZ="UTC")
        assert (ended.code, ended.errors, events(ended.output)) == (0, "", found), arguments
    as_json = run_verb("logs", str(log), "--json")
    assert as_json.output.splitlines() == [
        line for line in STORY.splitlines()[:-1] if line.startswith("{")
    ]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    """`logs FILE | head`: no traceback, exit 0."""
    path = tmp_path / "long.log"
    path.write_text(STORY.partition("\n")[0] + "\n" + "x\n" * 3_000_000)
    pipe = subprocess.PIPE
    process = launch("logs", str(path), stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["nowhere.log"], 2, "nowhere.log cannot be read"),
        (["."], 2, "Is a directory"),
        (["x.gz", "--follow"], 2, "compressed"),
        (["-", "--since", "soon"], 2, "yesterday"),
        (["-", "--level", "loud"], 2, "warning"),
        (["-", "--since", "1h", "--until", "2h"], 2, "not after --since"),
        ([], 6, "name a file"),
    ],
)
def test_what_cannot_be_read_is_explained(
    tmp_path: Path, arguments: list[str], code: int, hint: str
) -> None:
    """On standard error, with what would be right; without a journal a file is to be named."""
    ended = run_verb("logs", *arguments, cwd=tmp_path, PATH=str(tmp_path))
    assert (ended.code, ended.output) == (code, "")
    assert hint in ended.errors
    assert "Traceback" not in ended.errors


def test_following_goes_on_until_ctrl_c(log: Path) -> None:
    """What is written is shown at once, over a rotation; Ctrl-C is exit 8."""
    pipe = subprocess.PIPE
    process = launch("logs", str(log), "-f", "--event", "task", stdout=pipe, stderr=pipe, text=True)
    try:
        assert process.stdout is not None
        assert "Tuesday" in process.stdout.readline()
        assert "task.moved" in process.stdout.readline()
        log.rename(log.with_suffix(".1"))
        log.write_text(STORY.splitlines()[1].replace("t1", "t2") + "\n")
        assert " t2 " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert (process.returncode, output, errors.strip()) == (8, "", "")


def test_a_pipe_that_stays_open_is_shown_at_once() -> None:
    """`journalctl -f | suno-videod logs -` waits for no buffer to fill."""
    pipe = subprocess.PIPE
    process = launch("logs", "-", "--json", stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        for _ in range(2):
            line = STORY.splitlines()[0].encode() + b"\n"
            process.stdin.write(line)
            process.stdin.flush()
            assert os.read(process.stdout.fileno(), 65_536) == line
        process.stdin.close()
        assert process.wait(20) == 0


def test_colours_are_for_terminals(tmp_path: Path, log: Path) -> None:
    """A terminal has them, and the words are those of a pipe."""
    daemon = Daemon(tmp_path, "")
    shown = run_on_terminal(daemon, "logs", str(log))
    assert "\x1b[33mwarn " in shown
    plain = run_verb("-c", str(daemon.config), "logs", str(log)).output
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == plain


async def test_the_story_of_a_real_video(stage: Stage) -> None:
    """From the wish to the file: both ids tell it, all of it and nothing else."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    options = ("--task-id", "music", "--no-check", "--wait", "--json")
    made = [
        read_lines((await daemon.run("submit", "--audio-id", name, *options)).output)[0]
        for name in ("one", "two")
    ]
    task_id = made[0]["task_id"]
    (answered,) = daemon.log("submit.answered", task_id=task_id)
    log = str(daemon.folder / "log-1.txt")
    for known in (task_id, answered["local_id"]):
        ended = await daemon.run("logs", log, "--task", known, "--level", "info")
        told = events(ended.output)
        assert told[:2] == ["submit.recorded", "submit.answered"]
        assert [name for name in told if name == "task.moved"] == ["task.moved"] * 4
        assert "stored -> done" in ended.output.splitlines()[-1]
        assert made[1]["task_id"] not in ended.output
    whole = await asyncio.to_thread(run_verb, "logs", log)
    assert len(events(whole.output)) == len(daemon.log())
