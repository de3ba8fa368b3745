"""The command line, as a new user types it: with a daemon and without, right and wrong."""

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from daemon import __version__
from daemon.simulator.faults import SCENARIOS
from tests.stories.harness import (
    API_KEY,
    TOKEN,
    Daemon,
    Ended,
    ask,
    configure,
    launch,
    run_verb,
    write_toml,
)

TASK_FIELDS = [
    *("task_id", "label", "state", "reason", "message", "provider_code", "source"),
    *("music_task_id", "audio_id", "unconfirmed", "created_at", "updated_at", "stored_at"),
    *("deadline_at", "next_attempt_at", "attempts", "callbacks", "size_bytes", "received_bytes"),
    *("sha256", "path", "duration_seconds", "width", "height", "video_codec", "audio_codec"),
    *("audio_sample_rate", "finish_error", "forgotten_at"),
]
STATES = ["expected", "wanted", "verified", "stored", "done", "failed", "lost", "pruned"]
VERBS = [
    *("callback-url", "check", "config", "demo", "list", "retry", "serve", "show", "simulate"),
    *("status", "track"),
]
ASKING = (
    *(["list"], ["show", "x"], ["status", "--json"]),
    *(["check", "--json"], ["retry", "x"], ["track", "x"]),
)


@contextmanager
def started(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a verb beside the test and end it in any case."""
    pipe = subprocess.PIPE
    process = launch(*arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def simulated() -> Iterator[str]:
    """Run `simulate` and yield its address."""
    options = ("--listen", "127.0.0.1:0", "--api-key", API_KEY, "--render-seconds", "0")
    with started("simulate", *options, "--file-size", "100K") as process:
        assert process.stdout is not None
        yield next(word for word in process.stdout.readline().split() if "://" in word)


def generate(base_url: str, audio_id: str, callback_url: str) -> str:
    """Submit a video as an application does, and return its task id."""
    body = {"taskId": "music", "audioId": audio_id, "callBackUrl": callback_url}
    headers = {"Authorization": f"Bearer {API_KEY}"}
    url = f"{base_url}/api/v1/mp4/generate"
    answer = asyncio.run(ask("POST", url, data=json.dumps(body).encode(), headers=headers))
    return str(json.loads(answer.body)["data"]["taskId"])


def wait_for(daemon: Daemon, task_id: str, state: str) -> None:
    """Wait until a task is in a state."""
    until = time.monotonic() + 20
    while daemon.client.task(task_id)["state"] != state:
        assert time.monotonic() < until, daemon.tell()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run provider and daemon; `daemon.tasks` holds a task that is done and one that failed."""
    with simulated() as base_url:
        daemon = Daemon(tmp_path_factory.mktemp("world"), configure(base_url))
        try:
            daemon.start()
            for label in ("done", "failed"):
                audio_id = "sim-failure" if label == "failed" else "any"
                task_id = generate(base_url, audio_id, "https://callback.invalid/none")
                ended = run(daemon, "track", task_id, "--label", label)
                assert ended.code == 0
                wait_for(daemon, task_id, label)
            yield daemon
        finally:
            daemon.end()


def run(daemon: Daemon, *arguments: str, stdin: str = "") -> Ended:
    """Run a verb for a daemon."""
    return run_verb("-c", str(daemon.config), *arguments, stdin=stdin)


def find(daemon: Daemon, label: str) -> dict[str, Any]:
    """Return the task with a label."""
    (task,) = [task for task in daemon.client.tasks() if task["label"] == label]
    return dict(task)


def read_lines(output: str) -> list[dict[str, Any]]:
    """Return NDJSON as a list."""
    return [json.loads(line) for line in output.splitlines()]


def test_help_and_version_are_there() -> None:
    """`--help` names every verb with a sentence, each verb has its own, `--version` is one line."""
    for flag in ("--help", "-h"):
        ended = run_verb(flag)
        assert (ended.code, ended.errors) == (0, "")
        listed = ended.output.partition("Commands:")[2].split("\n")[1:]
        assert [line.split()[0] for line in listed if line] == VERBS
        assert all(len(line.split()) > 2 for line in listed if line)
    assert run_verb("--version") == (0, f"suno-videod, version {__version__}\n", "")
    assert "--label" in run_verb("track", "--help").output


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ([], "Commands:"),
        (["lsit"], "list"),
        (["list", "--sate", "done"], "--state"),
        (["list", "--limit", "0"], "--limit"),
        (["list", "--limit", "many"], "--limit"),
        (["show"], "ID"),
        (["show", "a", "b"], "unexpected"),
        (["track"], "ID"),
        (["retry"], "--failed"),
        (["retry", "a", "--failed"], "--failed"),
        (["config"], "Commands:"),
        (["config", "init"], "init"),
        (["submit"], "submit"),
        (["simulate", "--listen", "nowhere"], "127.0.0.1:"),
        (["simulate", "--listen", ""], "--listen"),
        (["simulate", "--file-size", "lots"], "64K"),
        (["simulate", "--kind", "suno"], "sunoapi"),
        (["simulate", "--hmac-key", "k"], "kie"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], hint: str) -> None:
    """What cannot be understood is said on standard error, with what would be right."""
    ended = run_verb(*arguments)
    assert (ended.code, ended.output) == (2, "")
    assert hint in ended.errors
    assert "Traceback" not in ended.errors


def test_without_a_daemon_every_asking_verb_says_what_to_do(tmp_path: Path) -> None:
    """No daemon: exit 6, the socket's name and the next command; nothing is created."""
    config = tmp_path / "config.toml"
    config.write_text(configure("http://127.0.0.1:9"))
    for verb in ASKING:
        ended = run_verb("-c", str(config), *verb)
        assert (ended.code, ended.output) == (6, ""), verb
        assert str(tmp_path / "state" / "admin.sock") in ended.errors
        assert "suno-videod serve" in ended.errors
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 9\r\n\r\n[1, 2, 3]",
    ],
)
def test_a_stranger_on_the_socket_is_no_daemon(tmp_path: Path, answer: bytes) -> None:
    """What does not speak our language is said to be so, without a traceback."""
    place = tmp_path / "other.sock"
    config = tmp_path / "config.toml"
    config.write_text(write_toml({"admin": {"socket": str(place)}}))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()

        def serve() -> None:
            visitor, _ = listener.accept()
            with visitor:
                visitor.recv(65_536)
                visitor.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        ended = run_verb("-c", str(config), "status")
        thread.join(10)
    assert (ended.code, ended.output) == (6, "")
    assert str(place) in ended.errors
    assert "Traceback" not in ended.errors


def test_the_configuration_is_found_where_it_should_be(tmp_path: Path) -> None:
    """The flag wins over the variable, the variable over ./config.toml; a missing one is exit 3."""
    for name in ("flag", "variable", "config"):
        (tmp_path / f"{name}.toml").write_text(write_toml({"poll": {"interval": "1s"}}))
    variable = str(tmp_path / "variable.toml")

    def where(*flag: str, variable: str = "") -> str:
        command = (*flag, "config", "check")
        ended = run_verb(*command, cwd=tmp_path, SUNO_VIDEOD_CONFIG=variable)
        assert ended.code == 0
        return ended.output.partition(":")[0]

    assert where() == "config.toml"
    assert where(variable=variable) == variable
    assert where("-c", "flag.toml", variable=variable) == "flag.toml"
    missing = run_verb("-c", "none.toml", "config", "check")
    assert (missing.code, missing.output) == (3, "")
    assert "none.toml" in missing.errors
    missing = run_verb("config", "check", SUNO_VIDEOD_CONFIG="/nowhere.toml")
    assert missing.code == 3
    assert "SUNO_VIDEOD_CONFIG" in missing.errors


def test_the_configuration_is_shown_with_origins_and_without_secrets(tmp_path: Path) -> None:
    """Every key once, its value as TOML and where it came from; `--json` is one object a line."""
    config = tmp_path / "config.toml"
    config.write_text(configure("http://127.0.0.1:9"))
    shown = run_verb("-c", str(config), "config", "show", SUNO_VIDEOD_DISK__MIN_FREE="2G")
    assert (shown.code, shown.errors) == (0, "")
    rows = {line.split()[0]: line for line in shown.output.splitlines()}
    assert rows["KEY"].split() == ["KEY", "VALUE", "ORIGIN"]
    assert rows["disk.min_free"].split() == ["disk.min_free", '"2G"', "environment"]
    assert rows["poll.interval"].split() == ["poll.interval", '"200ms"', "file"]
    assert rows["callback.path"].split() == ["callback.path", '"/video-callback"', "default"]
    assert "***" in rows["provider.api_key"]
    in_json = run_verb("-c", str(config), "config", "show", "--json")
    lines = read_lines(in_json.output)
    assert all(list(line) == ["key", "value", "origin"] for line in lines)
    assert len(lines) == len(rows) - 1
    for ended in (shown, in_json):
        assert TOKEN not in ended.output
        assert API_KEY not in ended.output


def test_a_configuration_is_checked_without_starting_anything(tmp_path: Path) -> None:
    """Good is exit 0 with warnings on standard error, bad is exit 3 with all mistakes."""
    config = tmp_path / "config.toml"
    config.write_text(write_toml({"callback": {"tokens": ["short"]}}))
    config.chmod(0o600)
    good = run_verb("-c", str(config), "config", "check")
    assert (good.code, good.output) == (0, f"{config}: no mistakes\n")
    assert good.errors.startswith("warning: callback.tokens")
    config.write_text('[poll]\ninterval = "fast"\nintervall = "1s"\n')
    bad = run_verb("-c", str(config), "config", "check")
    assert (bad.code, bad.output) == (3, "")
    assert len(bad.errors.splitlines()) == 2
    config.write_text("[poll\n")
    broken = run_verb("-c", str(config), "config", "check")
    assert broken.code == 3
    assert f"{config}:1: not valid TOML" in broken.errors
    assert not (tmp_path / "state").exists()


def test_the_callback_url_is_what_the_provider_is_given(tmp_path: Path) -> None:
    """With a public address it is that; without one it is the listen address and a warning."""
    config = tmp_path / "config.toml"

    def ask(**callback: object) -> Ended:
        config.write_text(write_toml({"callback": callback}))
        return run_verb("-c", str(config), "callback-url")

    fresh = ask()
    assert (fresh.code, fresh.output) == (3, "")
    assert "suno-videod serve" in fresh.errors
    assert not (tmp_path / "state").exists()
    public = ask(public_url="https://mv.example.com/video-callback", tokens=["first-token", "old"])
    assert public == (0, "https://mv.example.com/video-callback/first-token\n", "")
    local = ask(listen="127.0.0.1:8099", path="/cb", tokens=["first-token"])
    assert (local.code, local.output) == (0, "http://127.0.0.1:8099/cb/first-token\n")
    assert local.errors.startswith("warning: callback.public_url is not set")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "callback-token").write_text("kept-token\n")
    kept = ask(public_url="https://mv.example.com/video-callback/")
    assert kept == (0, "https://mv.example.com/video-callback/kept-token\n", "")
    (tmp_path / "state" / "callback-token").write_text("")
    empty = ask()
    assert (empty.code, empty.output) == (3, "")
    assert "callback-token is empty" in empty.errors
    assert "Traceback" not in empty.errors


def test_tasks_are_listed_for_people_and_programs(world: Daemon) -> None:
    """`list` is a table, `--json` one object a line with every field; states and limit select."""
    done, failed = find(world, "done"), find(world, "failed")
    table = run(world, "list", "--state", "done", "--state", "failed")
    assert (table.code, table.errors) == (0, "")
    head, *rows = table.output.splitlines()
    assert head.split() == ["TASK", "STATE", "SIZE", "ADOPTED", "LABEL", "REASON"]
    assert [row.split()[0] for row in rows] == [failed["task_id"], done["task_id"]]
    assert "100.0K" in rows[1]
    assert "generate_failed" in rows[0]
    lines = read_lines(run(world, "list", "--json", "--state", "done").output)
    assert lines == [done]
    assert list(lines[0]) == TASK_FIELDS
    assert Path(lines[0]["path"]).stat().st_size == lines[0]["size_bytes"] == 100 << 10
    assert len(read_lines(run(world, "list", "--json", "--limit", "1").output)) == 1
    empty = run(world, "list", "--state", "pruned")
    assert (empty.code, empty.output, empty.errors) == (0, "", "no tasks\n")
    assert run(world, "list", "--state", "pruned", "--json") == (0, "", "")


def test_an_unknown_state_is_wrong_usage(world: Daemon) -> None:
    """`list --state dnoe` is exit 2 and names the states that there are."""
    ended = run(world, "list", "--state", "dnoe")
    assert (ended.code, ended.output) == (2, "")
    assert "done" in ended.errors


def test_one_task_is_shown_with_its_history(world: Daemon) -> None:
    """`show` tells all that is known and what it means; an unknown id is exit 5."""
    done = find(world, "done")
    shown = run(world, "show", done["task_id"])
    assert (shown.code, shown.errors) == (0, "")
    for words in ("safe on disk", done["path"], done["sha256"], "verified -> stored, published"):
        assert words in shown.output
    assert "None" not in shown.output
    (line,) = read_lines(run(world, "show", done["task_id"], "--json").output)
    assert list(line) == [*TASK_FIELDS, "history"]
    assert all(list(step) == ["at", "from", "to", "cause", "reason"] for step in line["history"])
    assert [step["to"] for step in line["history"]][-1] == "done"
    for unknown in ("nobody", "../etc", "a b", "é", "%2e%2e"):
        ended = run(world, "show", unknown)
        assert (ended.code, ended.output) == (5, ""), unknown
        assert unknown in ended.errors


def test_the_status_says_how_it_stands(world: Daemon) -> None:
    """Counts of all states, deadlines, gates, disk and credits, for people and as one object."""
    shown = run(world, "status")
    assert (shown.code, shown.errors) == (0, "")
    for words in ("1 done", "1 failed", "credits:", str(world.videos)):
        assert words in shown.output
    (line,) = read_lines(run(world, "status", "--json").output)
    assert set(line) == {
        *("counts", "oldest_waiting_at", "next_deadline_at", "gates", "disk", "quarantined"),
        *("credits", "provider_answered_at"),
    }
    assert list(line["counts"]) == STATES
    assert (line["gates"], line["quarantined"]) == ([], 0)
    assert set(line["disk"]) == {"directory", "free_bytes", "min_free_bytes"}
    assert line["credits"] > 0


def test_a_retry_says_what_it_did(world: Daemon) -> None:
    """What is done is already safe; a failed task is asked about again; unknown is exit 5."""
    done, failed = find(world, "done"), find(world, "failed")
    safe = run(world, "retry", done["task_id"])
    assert safe.code == 0
    assert safe.errors == f"{done['task_id']}: already safe\n"
    (line,) = read_lines(run(world, "retry", "--json", failed["task_id"]).output)
    assert list(line) == TASK_FIELDS
    wait_for(world, failed["task_id"], "failed")
    every = run(world, "retry", "--failed")
    assert every.code == 0
    assert failed["task_id"] in every.output
    wait_for(world, failed["task_id"], "failed")
    mixed = run(world, "retry", "nobody", done["task_id"], "--json")
    assert mixed.code == 5
    assert [line["task_id"] for line in read_lines(mixed.output)] == [done["task_id"]]
    assert "nobody" in mixed.errors


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
    checked = run(alone, "check")
    assert (checked.code, checked.errors) == (0, "")
    assert checked.output.startswith("safe: ")
    as_json = run(alone, "check", "--json")
    assert as_json == (0, '{"safe": true, "unsafe": []}\n', "")
    assert "none yet" in run(alone, "status").output


def test_ids_are_tracked_from_arguments_and_from_stdin(alone: Daemon) -> None:
    """Good ids are adopted, bad ones are named with exit 5; `-` reads ids and labels."""
    good = run(alone, "track", "first", "second", "first", "--label", "batch 1")
    assert good.code == 0
    assert good.errors == "2 tracked, 0 rejected\n"
    assert [line.split()[0] for line in good.output.splitlines()] == ["TASK", "first", "second"]
    again = run(alone, "track", "first", "--json")
    (line,) = read_lines(again.output)
    assert (again.code, line["task_id"], line["label"]) == (0, "first", "batch 1")
    assert (line["state"], line["source"], list(line)) == ("expected", "track", TASK_FIELDS)
    bad = run(alone, "track", "third", "-rf/..", "a b", "x" * 129)
    assert bad.code == 2
    bad = run(alone, "track", "third", "a/b", "a b", "x" * 129)
    assert bad.code == 5
    assert "1 tracked, 3 rejected" in bad.errors
    assert "a/b: a task id has" in bad.errors
    stdin = "fourth\r\nfifth\tmine\n\n  sixth  \n\t\nbad/id\tlabel\nseventh\t\n"
    piped = run(alone, "track", "-", "--label", "all", stdin=stdin)
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
    assert run(alone, "track", "-").code == 0
    checked = run(alone, "check", "--json")
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
        ended = run(alone, "track", "first", "--label", label)
        assert (ended.code, ended.output) == (2, ""), label
        assert "label" in ended.errors
    assert list(alone.client.tasks()) == []


def test_bytes_that_are_no_text_are_no_id(alone: Daemon) -> None:
    """`track -` rejects a line that is not UTF-8 and still takes the others."""
    ended = run(alone, "track", "-", stdin="good\n\udcff\udcfe\n")
    assert ended.code == 5
    assert "1 tracked, 1 rejected" in ended.errors
    assert [task["task_id"] for task in alone.client.tasks()] == ["good"]


def test_thousands_of_ids_go_in_and_head_may_close_the_pipe(alone: Daemon) -> None:
    """2,500 ids are tracked in one go; a reader that has seen enough causes no error."""
    stdin = "".join(f"task-{number}\n" for number in range(2_500))
    tracked = run(alone, "track", "-", "--json", stdin=stdin)
    assert tracked.code == 0
    assert len(tracked.output.splitlines()) == 2_500
    listed = run(alone, "list", "--json", "--limit", "2400")
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
    checked = run(alone, "check")
    assert checked.code == 1
    assert "quarantine-" in checked.output
    (answer,) = read_lines(run(alone, "check", "--json").output)
    (one,) = answer["unsafe"]
    assert (one["state"], one["id"][:11]) == ("quarantined", "quarantine-")
    assert "quarantined:     1" in run(alone, "status").output


def test_text_from_outside_cannot_drive_the_terminal(alone: Daemon) -> None:
    """The provider's words are shown with control characters spelled out, everywhere alike."""
    message = "\x1b]0;owned\x07\x1b[31mred\u202etxt\u009b1m"
    body = {"code": 500, "msg": message, "data": {"task_id": "nasty"}}
    assert post(alone, body) == 200
    piped = run(alone, "show", "nasty")
    on_terminal = run_on_terminal(alone, "show", "nasty")
    for text in (piped.output, on_terminal):
        assert "\\x1b[31mred\\u202etxt\\x9b1m" in text
        assert not any(
            sign in text for sign in ("\x1b]0", "\x07", "\u202e", "\u009b", "\x1b[31mred")
        )
    (line,) = read_lines(run(alone, "show", "nasty", "--json").output)
    assert line["message"] == message


def run_on_terminal(daemon: Daemon, *arguments: str) -> str:
    """Run a verb whose output is a terminal, and return all that it wrote there."""
    ours, theirs = pty.openpty()
    command = ("-c", str(daemon.config), *arguments)
    process = launch(*command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    # The end of the last writer is EIO (pty(7)).
    with suppress(OSError):
        while piece := os.read(ours, 65_536):
            text += piece
    os.close(ours)
    assert process.wait(20) == 0
    return text.decode().replace("\r\n", "\n")


def test_a_terminal_shows_the_same_as_a_pipe(world: Daemon) -> None:
    """What is on screen can be copied into a script: same words, same order."""
    for verb in (["list", "--json", "--state", "done"], ["config", "show"]):
        assert run_on_terminal(world, *verb) == run(world, *verb).output


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


def test_the_simulator_tells_its_scenarios() -> None:
    """`simulate --scenarios` lists every audioId that makes trouble, and starts nothing."""
    ended = run_verb("simulate", "--scenarios")
    assert (ended.code, ended.errors) == (0, "")
    assert [line.split()[0] for line in ended.output.splitlines()[1:]] == list(SCENARIOS)


def test_the_simulator_stops_politely_and_says_when_it_cannot_start() -> None:
    """SIGTERM and Ctrl-C are exit 0; a taken port is exit 1 in one line."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with started("simulate", "--listen", "127.0.0.1:0") as process:
            assert process.stdout is not None
            address = process.stdout.readline().split()[3].removeprefix("http://")
            if number == signal.SIGINT:
                taken = run_verb("simulate", "--listen", address)
                assert (taken.code, taken.output) == (1, "")
                assert address in taken.errors
                assert "Traceback" not in taken.errors
            process.send_signal(number)
            assert process.wait(10) == 0


def test_the_demo_is_as_promised(tmp_path: Path) -> None:
    """One command shows the whole job offline and leaves four whole films, and exits 0."""
    folder = tmp_path / "demo"
    ended = run_verb("demo", "--directory", str(folder), seconds=90)
    assert (ended.code, ended.errors) == (0, "")
    assert "all as promised" in ended.output
    films = list((folder / "videos").glob("*.mp4"))
    assert len(films) == 4
    assert all(str(film) in ended.output for film in films)


def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the demo is exit 8, and its two programs are ended as well."""
    with started("demo", "--directory", str(tmp_path)) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("3."):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 8
    assert "Traceback" not in errors
    assert "daemon.stopped" in (tmp_path / "daemon.log").read_text()
    assert not (tmp_path / "state" / "admin.sock").exists()
