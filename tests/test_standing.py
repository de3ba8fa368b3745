"""What `status` says: the one answer first, then what is, what it means and what to do."""

from typing import Any

import pytest

from daemon.rules.lifecycle import State
from daemon.rules.redaction import escape_control
from daemon.standing import describe_standing, show_status

GIB = 1 << 30


def standing(**changes: Any) -> dict[str, Any]:
    """Return a status as the admin API gives it."""
    return {
        "counts": {state.value: 0 for state in State},
        "oldest_waiting_at": None,
        "next_deadline_at": None,
        "gates": [],
        "disk": {"directory": "/videos", "free_bytes": 9 * GIB, "min_free_bytes": GIB},
        "quarantined": 0,
        "credits": 100.0,
        "credits_low": 20,
        "provider_answered_at": "2026-11-22T08:00:00.000Z",
        "overdue": [],
        "unsafe": 0,
        "oldest_waiting_id": None,
        "next_deadline_id": None,
        "started_at": "2026-11-22T08:00:00.000Z",
        "version": "1.2.3",
        **changes,
    }


def told(**changes: Any) -> dict[str, tuple[str, str]]:
    """Return what is said, by name, with its mood."""
    return {name: (words, mood) for name, words, mood in describe_standing(standing(**changes))}


@pytest.mark.parametrize(
    ("unsafe", "held", "answer"),
    [
        (0, 0, "safe: everything that was paid for is on disk or was refused by the provider"),
        (1, 0, "1 video is not safe yet: suno-videod check says which"),
        (3, 0, "3 videos are not safe yet: suno-videod check says which"),
        (1, 1, "1 callback is not safe yet: suno-videod check says which"),
        (5, 2, "3 videos and 2 callbacks are not safe yet: suno-videod check says which"),
    ],
)
def test_the_first_line_is_the_answer(unsafe: int, held: int, answer: str) -> None:
    """Is everything safe, and which verb says more."""
    first = next(describe_standing(standing(unsafe=unsafe, quarantined=held)))
    assert first[:2] == ("", answer)
    assert (first[2] == "good") == (unsafe == 0)
    overdue = standing(unsafe=unsafe, quarantined=held, overdue=["late"])
    assert next(describe_standing(overdue))[2] == ("bad" if unsafe else "good")


def test_what_waits_has_its_id() -> None:
    """The oldest task and the next deadline say which, in a state order that never changes."""
    found = told(
        counts={"expected": 2, "wanted": 0, "done": 7},
        oldest_waiting_at="2026-01-01T00:00:00.000Z",
        oldest_waiting_id="old\x1b",
        next_deadline_at="2099-01-01T00:00:00.000Z",
        next_deadline_id="next",
    )
    assert found["tasks"][0] == "2 expected, 7 done"
    assert found["oldest waiting"][0].endswith("ago, old\\x1b")
    assert found["next deadline"][0].endswith("from now, next")


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("key", "provider.api_key"),
        ("credits", "buy credits"),
        ("rate", "opens by itself"),
        ("maintenance", "opens by itself"),
        ("api", "tried again by themselves"),
        ("disk", "make room"),
        ("host:files.example.com", "downloads from there wait"),
    ],
)
def test_a_gate_says_what_it_means_and_what_to_do(gate: str, words: str) -> None:
    """Its name, since when, why; then what waits and who has to do something."""
    shut = {"name": gate, "since": "2026-01-01T00:00:00.000Z", "reason": "bad\x07"}
    said, mood = told(gates=[shut])["gate shut"]
    assert said.startswith(gate)
    assert "ago: bad\\x07. This means: " in said
    assert words in said
    assert mood == "warn"


def test_few_credits_and_a_full_disk_are_said() -> None:
    """Numbers alone leave it to the reader whether they are bad."""
    assert told()["credits"] == ("100", "")
    assert told(credits=None)["credits"] == ("unknown", "")
    assert told(credits=19.5)["credits"] == ("19.5: low, buy some before the next submit", "warn")
    assert told(credits=0.0, credits_low=0)["credits"][1] == "warn"
    full = {"directory": "/videos", "free_bytes": 1, "min_free_bytes": GIB}
    assert told(disk=full)["disk"][1] == "bad"
    assert told(disk=None)["disk"][1] == "bad"
    assert "forget" in told(quarantined=2)["quarantined"][0]


def test_an_older_daemon_is_understood() -> None:
    """Fields are only ever added: what it does not say is not shown."""
    older = standing()
    for name in ("unsafe", "oldest_waiting_id", "next_deadline_id", "started_at", "version"):
        del older[name]
    assert "daemon" not in {name for name, _, _ in describe_standing(older)}


@pytest.mark.parametrize("columns", [40, 80])
def test_lines_are_wrapped_with_a_hanging_indent(
    capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    """On a terminal; in a pipe a line stays a line, so that grep finds the whole of it."""
    gate = {"name": "api", "since": "2026-01-01T00:00:00.000Z", "reason": "no answer"}
    found = standing(gates=[gate], quarantined=3, unsafe=3, overdue=["late " * 30])
    show_status(found)
    piped = capsys.readouterr().out
    show_status(found, columns)
    wrapped = capsys.readouterr().out
    assert max(map(len, wrapped.splitlines())) <= columns
    assert wrapped.split() == piped.split()
    assert piped.count("\n") == len(list(describe_standing(found)))
    (first,) = [line for line in wrapped.splitlines() if line.startswith("gate shut:")]
    below = wrapped.splitlines()[wrapped.splitlines().index(first) + 1]
    assert below.startswith(" " * 17)
    show_status(found, columns, colours=True)
    coloured = capsys.readouterr().out
    assert "\x1b[33m" in coloured
    plain = coloured.replace("\x1b[0m", "")
    for code in (31, 32, 33):
        plain = plain.replace(f"\x1b[{code}m", "")
    assert plain == wrapped
    assert all(line == escape_control(line) for line in wrapped.splitlines())


def test_what_was_given_up_is_said_with_what_to_do() -> None:
    """To a target of the configuration, and to an application behind the gateway."""
    given_up = [
        {"target": "notify[2] https://hooks.example.com", "count": 3, "last_error": "HTTP 500"},
        {"target": "the application at https://app.example", "count": 1, "last_error": None},
    ]
    lines = [
        told
        for name, told, _ in describe_standing(standing(undelivered=given_up))
        if name == "not told"
    ]
    assert "3 events to notify[2] https://hooks.example.com" in lines[0]
    assert "test-notify" in lines[0]
    assert "30 days" in lines[1]
    assert "no video is touched" in lines[1]
