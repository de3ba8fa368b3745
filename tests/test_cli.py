"""The command line, as a new user types it: with a daemon and without, right and wrong."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon import __version__
from tests.stories.harness import (
    API_KEY,
    TASK_FIELDS,
    TOKEN,
    Daemon,
    Ended,
    ask,
    configure,
    read_lines,
    run_verb,
    started,
    write_toml,
)

STATES = ["expected", "wanted", "verified", "stored", "done", "failed", "lost", "pruned"]
VERBS = [
    *("backup", "callback-url", "check", "config", "demo", "doctor", "export", "forget", "list"),
    *("logs", "report", "retry", "serve", "show", "simulate", "status", "submit"),
    *("test-callback", "test-notify", "track", "watch"),
]
ASKING = (
    *(["list"], ["show", "x"], ["status", "--json"]),
    *(["check", "--json"], ["retry", "x"], ["track", "x"], ["forget", "quarantine-0"]),
    *(["test-notify"], ["report"], ["export"], ["watch"], ["watch", "x", "--json"]),
    ["submit", "--task-id", "m", "--audio-id", "a", "--wait"],
)


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
                ended = daemon.verb("track", task_id, "--label", label)
                assert ended.code == 0
                wait_for(daemon, task_id, label)
            yield daemon
        finally:
            daemon.end()


def find(daemon: Daemon, label: str) -> dict[str, Any]:
    """Return the task with a label."""
    (task,) = [task for task in daemon.client.tasks() if task["label"] == label]
    return dict(task)


def test_help_and_version_are_there() -> None:
    """`--help` names every verb with a sentence, each verb has its own, `--version` is one line."""
    for flag in ("--help", "-h"):
        ended = run_verb(flag)
        assert (ended.code, ended.errors) == (0, "")
        listed = ended.output.partition("Commands:")[2].partition("\n\n")[0].split("\n")[1:]
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
        (["submit"], "--task-id"),
        (["submit", "--task-id", "m"], "--audio-id"),
        (["forget"], "ID"),
        (["report", "--since", "soon"], "--since"),
        (["export", "file"], "unexpected"),
        (["logs", "a", "b"], "unexpected"),
        (["logs", "--level", "loud"], "warning"),
        (["logs", "--since", "soon"], "yesterday"),
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
    table = world.verb("list", "--state", "done", "--state", "failed")
    assert (table.code, table.errors) == (0, "")
    head, *rows = table.output.splitlines()
    assert head.split() == ["TASK", "STATE", "SIZE", "ADOPTED", "LABEL", "REASON"]
    assert [row.split()[0] for row in rows] == [failed["task_id"], done["task_id"]]
    assert "100.0K" in rows[1]
    assert "generate_failed" in rows[0]
    lines = read_lines(world.verb("list", "--json", "--state", "done").output)
    assert lines == [done]
    assert list(lines[0]) == TASK_FIELDS
    assert Path(lines[0]["path"]).stat().st_size == lines[0]["size_bytes"] == 100 << 10
    assert len(read_lines(world.verb("list", "--json", "--limit", "1").output)) == 1
    empty = world.verb("list", "--state", "pruned")
    assert (empty.code, empty.output, empty.errors) == (0, "", "no tasks\n")
    assert world.verb("list", "--state", "pruned", "--json") == (0, "", "")


def test_an_unknown_state_is_wrong_usage(world: Daemon) -> None:
    """`list --state dnoe` is exit 2 and names the states that there are."""
    ended = world.verb("list", "--state", "dnoe")
    assert (ended.code, ended.output) == (2, "")
    assert "done" in ended.errors


def test_one_task_is_shown_with_its_history(world: Daemon) -> None:
    """`show` tells all that is known and what it means; an unknown id is exit 5."""
    done = find(world, "done")
    shown = world.verb("show", done["task_id"])
    assert (shown.code, shown.errors) == (0, "")
    for words in ("safe on disk", done["path"], done["sha256"], "verified -> stored, published"):
        assert words in shown.output
    assert "None" not in shown.output
    (line,) = read_lines(world.verb("show", done["task_id"], "--json").output)
    assert list(line) == [*TASK_FIELDS, "history"]
    assert all(list(step) == ["at", "from", "to", "cause", "reason"] for step in line["history"])
    assert [step["to"] for step in line["history"]][-1] == "done"
    for unknown in ("nobody", "../etc", "a b", "é", "%2e%2e"):
        ended = world.verb("show", unknown)
        assert (ended.code, ended.output) == (5, ""), unknown
        assert unknown in ended.errors


def test_the_status_says_how_it_stands(world: Daemon) -> None:
    """Counts of all states, deadlines, gates, disk and credits, for people and as one object."""
    shown = world.verb("status")
    assert (shown.code, shown.errors) == (0, "")
    for words in ("1 done", "1 failed", "credits:", str(world.videos)):
        assert words in shown.output
    (line,) = read_lines(world.verb("status", "--json").output)
    assert set(line) == {
        *("counts", "oldest_waiting_at", "next_deadline_at", "gates", "disk", "quarantined"),
        *("credits", "provider_answered_at", "overdue", "undelivered"),
        *(
            "credits_low",
            "unsafe",
            "oldest_waiting_id",
            "next_deadline_id",
            "started_at",
            "version",
        ),
    }
    assert list(line["counts"]) == STATES
    assert (line["gates"], line["quarantined"]) == ([], 0)
    assert set(line["disk"]) == {"directory", "free_bytes", "min_free_bytes"}
    assert line["credits"] > 0


def test_a_retry_says_what_it_did(world: Daemon) -> None:
    """What is done is already safe; a failed task is asked about again; unknown is exit 5."""
    done, failed = find(world, "done"), find(world, "failed")
    safe = world.verb("retry", done["task_id"])
    assert safe.code == 0
    assert safe.errors == f"{done['task_id']}: already safe\n"
    (line,) = read_lines(world.verb("retry", "--json", failed["task_id"]).output)
    assert list(line) == TASK_FIELDS
    wait_for(world, failed["task_id"], "failed")
    every = world.verb("retry", "--failed")
    assert every.code == 0
    assert failed["task_id"] in every.output
    wait_for(world, failed["task_id"], "failed")
    mixed = world.verb("retry", "nobody", done["task_id"], "--json")
    assert mixed.code == 5
    assert [line["task_id"] for line in read_lines(mixed.output)] == [done["task_id"]]
    assert "nobody" in mixed.errors
