"""What a person types and reads: ids in, tables out, on a terminal and through pipes."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.harness import (
    TASK_FIELDS,
    Daemon,
    configure,
    read_lines,
    run_on_terminal,
    started,
)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Daemon]:
    """Run a daemon with an empty ledger and without a provider."""
    settings = configure("http://127.0.0.1:9", provider={"api_key": None})
    daemon = Daemon(tmp_path, settings)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.end()


def post(daemon: Daemon, body: object) -> int:
    """Send a callback and return the status of the answer."""
    return asyncio.run(daemon.post(body)).status


def test_a_new_ledger_is_safe_and_empty(alone: Daemon) -> None:
    """Before the first task everything is safe, and `check` says so."""
    checked = alone.verb("check")
    assert (checked.code, checked.errors) == (0, "")
    assert checked.output.startswith("safe: ")
    as_json = alone.verb("check", "--json")
    assert as_json == (0, '{"safe": true, "unsafe": []}\n', "")
    assert "none yet" in alone.verb("status").output


def test_ids_are_tracked_from_arguments_and_from_stdin(alone: Daemon) -> None:
    """Good ids are adopted, bad ones are named with exit 5; `-` reads ids and labels."""
    good = alone.verb("track", "first", "second", "first", "--label", "batch 1")
    assert good.code == 0
    assert good.errors == "2 tracked, 0 rejected\n"
    assert [line.split()[0] for line in good.output.splitlines()] == ["TASK", "first", "second"]
    again = alone.verb("track", "first", "--json")
    (line,) = read_lines(again.output)
    assert (again.code, line["task_id"], line["label"]) == (0, "first", "batch 1")
    assert (line["state"], line["source"], list(line)) == ("expected", "track", TASK_FIELDS)
    bad = alone.verb("track", "third", "-rf/..", "a b", "x" * 129)
    assert bad.code == 2
    bad = alone.verb("track", "third", "a/b", "a b", "x" * 129)
    assert bad.code == 5
    assert "1 tracked, 3 rejected" in bad.errors
    assert "a/b: a task id has" in bad.errors
    stdin = "fourth\r\nfifth\tmine\n\n  sixth  \n\t\nbad/id\tlabel\nseventh\t\n"
    piped = alone.verb("track", "-", "--label", "all", stdin=stdin)
    assert piped.code == 5
    assert "4 tracked, 1 rejected" in piped.errors
    ledger = {task["task_id"]: task["label"] for task in alone.client.tasks()}
    assert ledger == {
        "first": "batch 1",
        "second": "batch 1",
        "third": None,
        "fourth": "all",
        "fifth": "mine",
        "sixth": "all",
        "seventh": "all",
    }
    assert alone.verb("track", "-").code == 0
    checked = alone.verb("check", "--json")
    assert checked.code == 1
    (answer,) = read_lines(checked.output)
    assert answer["safe"] is False
    assert {(one["id"], one["state"]) for one in answer["unsafe"]} == {
        (task_id, "expected") for task_id in ledger
    }
    assert all(one["why"] for one in answer["unsafe"])


def test_a_bad_label_is_wrong_usage(alone: Daemon) -> None:
    """A label that cannot be shown in one line is refused, with exit 2 and the reason."""
    for label in ("", "two\nlines", "x" * 201):
        ended = alone.verb("track", "first", "--label", label)
        assert (ended.code, ended.output) == (2, ""), label
        assert "label" in ended.errors
    assert list(alone.client.tasks()) == []


def test_bytes_that_are_no_text_are_no_id(alone: Daemon) -> None:
    """`track -` rejects a line that is not UTF-8 and still takes the others."""
    ended = alone.verb("track", "-", stdin="good\n\udcff\udcfe\n")
    assert ended.code == 5
    assert "1 tracked, 1 rejected" in ended.errors
    assert [task["task_id"] for task in alone.client.tasks()] == ["good"]


def test_thousands_of_ids_go_in_and_head_may_close_the_pipe(alone: Daemon) -> None:
    """2,500 ids are tracked in one go; a reader that has seen enough causes no error."""
    stdin = "".join(f"task-{number}\n" for number in range(2_500))
    tracked = alone.verb("track", "-", "--json", stdin=stdin)
    assert tracked.code == 0
    assert len(tracked.output.splitlines()) == 2_500
    listed = alone.verb("list", "--json", "--limit", "2400")
    assert len(listed.output.splitlines()) == 2_400
    for verb in (["list", "--json", "--limit", "2500"], ["list", "--limit", "2500"]):
        with started("-c", str(alone.config), *verb) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert (process.wait(20), process.stderr.read()) == (0, "")


def test_what_cannot_be_read_keeps_check_open(alone: Daemon) -> None:
    """A quarantined callback is unsafe, with its id, until somebody looks."""
    assert post(alone, b"not json") == 200
    checked = alone.verb("check")
    assert checked.code == 1
    assert "quarantine-" in checked.output
    (answer,) = read_lines(alone.verb("check", "--json").output)
    (one,) = answer["unsafe"]
    assert (one["state"], one["id"][:11]) == ("quarantined", "quarantine-")
    assert "quarantined:     1" in alone.verb("status").output


def test_text_from_outside_cannot_drive_the_terminal(alone: Daemon) -> None:
    """The provider's words are shown with control characters spelled out, everywhere alike."""
    message = "\x1b]0;owned\x07\x1b[31mred\u202etxt\u009b1m"
    body = {"code": 500, "msg": message, "data": {"task_id": "nasty"}}
    assert post(alone, body) == 200
    piped = alone.verb("show", "nasty")
    on_terminal = run_on_terminal(alone, "show", "nasty")
    for text in (piped.output, on_terminal):
        assert "\\x1b[31mred\\u202etxt\\x9b1m" in text
        assert not any(
            sign in text for sign in ("\x1b]0", "\x07", "\u202e", "\u009b", "\x1b[31mred")
        )
    (line,) = read_lines(alone.verb("show", "nasty", "--json").output)
    assert line["message"] == message


def test_a_terminal_shows_the_same_as_a_pipe(alone: Daemon) -> None:
    """What is on screen can be copied into a script: same words, same order."""
    assert alone.verb("track", "first", "--label", "mine").code == 0
    for verb in (["list", "--json"], ["config", "show"]):
        assert run_on_terminal(alone, *verb) == alone.verb(*verb).output


def test_ctrl_c_is_exit_8(alone: Daemon) -> None:
    """A verb that waits for its input ends at once, without a traceback."""
    with started("-c", str(alone.config), "track", "-") as process:
        assert process.stdin is not None
        # More than a pipe holds: when it is written, the verb has begun to read.
        process.stdin.write("first\n" * 50_000)
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 8
    assert "Traceback" not in errors
