"""Which lines of a log are wanted, and how they read."""

import json
import re
import time
import tracemalloc
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.rules.redaction import escape_control
from daemon.storyline import (
    HELD_LIMIT,
    VALUE_LIMIT,
    Entry,
    Narrator,
    Story,
    Wanted,
    in_order,
    is_event,
    read_entry,
    select,
)

NOON = datetime(2026, 11, 17, 12, tzinfo=UTC)
FOREIGN = [
    b"Traceback (most recent call last):",
    b"{",
    b'{"event": "cut',
    b'[{"event": "x"}]',
    b'{"message": "of another program"}',
    b'{"event": 7}',
    b"\xff\xfe\x00",
    b"null",
]


def line(event: str, at: float = 0, level: str = "info", /, **fields: Any) -> bytes:
    """Return a line as the daemon writes it."""
    stamp = (NOON + timedelta(seconds=at)).isoformat().replace("+00:00", "Z")
    return json.dumps({"timestamp": stamp, "level": level, "event": event, **fields}).encode()


def chosen(lines: Iterable[bytes], story: Story | None = None, /, **wanted: Any) -> list[str]:
    """Return the events of the lines that are wanted; a foreign line as it is."""
    batches = select([list(lines)], Wanted(**wanted), story)
    return [
        entry.fields["event"] if entry.fields else entry.raw.decode(errors="replace")
        for entries in batches
        for entry in entries
    ]


def tell(raw: bytes, **options: Any) -> str:
    """Return the last line that people see, behind its clock."""
    told = Narrator(colours=False, **options).tell(read_entry(raw))
    return told.splitlines()[-1].partition(" ")[2]


def test_foreign_lines_are_shown_until_something_is_asked_for() -> None:
    """What is not ours is shown as it is, and dropped under a filter that it cannot meet."""
    assert len(chosen([*FOREIGN, line("task.moved")])) == len(FOREIGN) + 1
    asked: list[dict[str, Any]] = [
        {"events": ("task",)},
        {"level": "debug"},
        {"since": NOON},
        {"until": NOON + timedelta(days=1)},
    ]
    for wanted in asked:
        assert chosen([*FOREIGN, line("task.moved")], **wanted) == ["task.moved"], wanted
    assert chosen([b'x "t1"', line("task.moved", task_id="t1")], Story("t1")) == ["task.moved"]


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("gate.closed", {"gate.closed"}),
        ("gate", {"gate.closed", "gate.opened"}),
        ("gate.*", {"gate.closed", "gate.opened"}),
        ("*.closed", {"gate.closed"}),
        ("gat", set()),
        ("gate.close", set()),
    ],
)
def test_an_event_is_named_or_meant_by_its_first_words(pattern: str, meant: set[str]) -> None:
    """The whole name, whole first words, or a pattern; never a piece of a word."""
    events = ("gate.closed", "gate.opened", "gateway.relayed", "task.moved")
    assert {event for event in events if is_event(event, pattern)} == meant
    assert set(chosen(map(line, events), events=(pattern,))) == meant


def test_a_level_is_that_and_what_is_worse() -> None:
    """`--level warning` has the errors too, and no line without a level."""
    lines = [line(level, 0, level) for level in ("debug", "info", "warning", "error", "odd")]
    assert chosen(lines, level="warning") == ["warning", "error"]
    assert chosen(lines, level="debug") == ["debug", "info", "warning", "error"]


def test_a_time_is_from_and_up_to() -> None:
    """The first moment belongs to it and the last does not; a line without a time is in none."""
    lines = [line(f"at.{seconds}", seconds) for seconds in range(4)]
    timeless = b'{"event": "timeless", "timestamp": "soon"}'
    span: dict[str, Any] = {
        "since": NOON + timedelta(seconds=1),
        "until": NOON + timedelta(seconds=3),
    }
    assert chosen([*lines, timeless], **span) == ["at.1", "at.2"]
    naive = b'{"event": "naive", "timestamp": "2026-11-17T12:00:01"}'
    assert chosen([naive], **span) == ["naive"]


SUBMITTED = [
    line("submit.recorded", 1, task_id="submit-1"),
    line("submit.recorded", 2, task_id="submit-2"),
    line("callback.received", 3, task_id="theirs"),
    line("callback.received", 3, task_id="theirs-2"),
    line("submit.answered", 4, task_id="theirs", local_id="submit-1"),
    line("task.moved", 5, task_id="theirs"),
    line("task.moved", 6, task_id="submit-2", message="about theirs"),
]


@pytest.mark.parametrize("task_id", ["submit-1", "theirs"])
def test_a_story_has_what_was_said_under_both_ids(task_id: str) -> None:
    """The log connects our id with the provider's; what was said before that belongs to it too."""
    story = Story(task_id)
    found = in_order(entry for raw in SUBMITTED for entry in story.choose(raw))
    seconds = [entry.at.second for entry in found if entry.at]
    assert seconds == [1, 3, 4, 5]
    assert story.ids == {"submit-1", "theirs"}


def test_a_story_is_of_this_task_alone() -> None:
    """An id that begins alike, or is only spoken of, is another task."""
    lines = [line("a", task_id="t1"), line("b", task_id="t10"), line("c", message="t1 t1")]
    assert chosen(lines, Story("t1")) == ["a"]
    assert chosen([line("a", task_id="t1")], Story("t1"), level="error") == []


def test_what_a_story_holds_is_bounded() -> None:
    """A log of a million submits is read in little memory."""
    story = Story("theirs")
    for number in range(HELD_LIMIT + 10):
        assert not list(story.choose(line("submit.recorded", task_id=f"submit-{number}")))
    assert len(story._held) == HELD_LIMIT


def test_a_story_is_told_in_the_order_of_time() -> None:
    """Several processes may have written between one another; what has no time comes first."""
    entries = [read_entry(line(name, at)) for name, at in (("b", 2), ("a", 1), ("c", 3))]
    entries.append(read_entry(b'{"event": "z"}'))
    assert [entry.fields["event"] for entry in in_order(entries) if entry.fields] == list("zabc")


def test_a_line_reads_well() -> None:
    """Level, event, id, then what is to be said, with units; the message comes last."""
    moved = {"from": "expected", "to": "wanted", "cause": "linked", "reason": None}
    assert tell(line("task.moved", task_id="t1", **moved)) == (
        "info  task.moved          t1 expected -> wanted cause=linked"
    )
    finished = {"bytes": 5_000_000, "seconds": 125.0, "resumed_bytes": 0, "connections": 1}
    assert tell(line("download.finished", message="all here", task_id="t1", **finished)) == (
        "info  download.finished   t1 bytes=4.8M seconds=2m05s resumed_bytes=0B connections=1 "
        "all here"
    )
    assert tell(line("gate.closed", 0, "warning", reason="a b", ok=True, none=None)) == (
        'warn  gate.closed         reason="a b" ok=true'
    )
    assert tell(line("x", 0, "error", rows=[1, {"a": "\x1b"}])) == (
        'ERROR x                   rows=[1, {"a": "\\u001b"}]'
    )


def test_the_id_of_a_story_is_said_once() -> None:
    """Where all is about one task, its id is told by the line that connects it only."""
    ids = {"submit-1", "theirs"}
    assert tell(SUBMITTED[5], alone=ids) == "info  task.moved"
    answered = tell(SUBMITTED[4], alone=ids)
    assert answered == "info  submit.answered     theirs local_id=submit-1"


def test_times_are_local_and_a_new_day_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clock times of this machine; the date stands once before each day's first line."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        narrator = Narrator(colours=False)
        told = [narrator.tell(read_entry(line("x", hours * 3600))) for hours in (0, 1, 20)]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert told[0].splitlines()[0] == "Tuesday 2026-11-17"
    assert told[0].splitlines()[1].startswith("07:00:00 info")
    assert told[1].startswith("08:00:00 info")
    assert told[2].splitlines()[0] == "Wednesday 2026-11-18"


def test_a_traceback_stands_below_its_line() -> None:
    """The one thing of many lines keeps them, indented, and drives no terminal."""
    told = Narrator(colours=False).tell(
        read_entry(line("http.failed", exception="Traceback:\n  File\x1b[31m\nValueError: x"))
    )
    assert told.splitlines()[2:] == [
        "    Traceback:",
        "      File\\x1b[31m",
        "    ValueError: x",
    ]


def test_colours_are_only_added() -> None:
    """With them the words are the same."""
    raw = line("task.moved", 0, "warning", task_id="t", why="x y")
    plain = Narrator(colours=False).tell(read_entry(raw))
    coloured = Narrator(colours=True).tell(read_entry(raw))
    assert coloured != plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_what_is_endless_is_cut() -> None:
    """A line of megabytes does not flood the screen, and says how much is not shown."""
    for raw in (b"x" * 3_000_000, line("a", message="x" * 3_000_000), line("a", b="x" * 99_999)):
        told = Narrator(colours=False).tell(read_entry(raw))
        assert len(told) < VALUE_LIMIT + 200
        assert "more characters)" in told


def test_what_is_endless_takes_no_memory() -> None:
    """A file that ends in NULs after a power cut is one such line."""
    entry = read_entry(b"\0" * 4_000_000)
    tracemalloc.start()
    try:
        told = Narrator(colours=False).tell(entry)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert told.startswith("\\x00")
    assert told.endswith("(3998000 more characters)")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b'{"event":"\\ud800","task_id":"\\u001b","timestamp":"0001-01-01T00:00:00+23:59"}')
@example(b'{"event":"x","seconds":NaN,"bytes":Infinity,"rows":[1e999]}')
@example(b'{"event":"x","timestamp":"9999-12-31T23:59:59-23:59"}')
@example(b'{"event":"x","bytes":1' + b"0" * 4_400 + b"}")
@example(b'{"event":"x","bytes":1' + b"0" * 400 + b',"seconds":1' + b"0" * 400 + b"}")
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
def test_no_line_breaks_it_or_drives_the_terminal(raw: bytes) -> None:
    """Whatever the bytes are, they are told without a control character in them."""
    entry = read_entry(raw)
    told = Narrator(colours=False).tell(entry)
    assert all(part == escape_control(part) for part in told.split("\n"))
    story = Story("t1")
    wanted = Wanted(events=("x",), level="info", since=NOON, until=NOON)
    list(select([[raw]], wanted, story))
    list(select([[raw]], wanted, None))
    in_order([entry, Entry(b"", None, NOON)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["message", "bytes", "to"]), JSON))
def test_no_value_breaks_it(fields: dict[str, Any]) -> None:
    """Fields of every name and type are shown on one line."""
    known = {"event": "task.moved", "timestamp": "2026-11-17T12:00:00Z"}
    raw = json.dumps({**fields, **known}).encode()
    fields.pop("exception", None)
    told = Narrator(colours=False).tell(read_entry(raw))
    assert all(part == escape_control(part) for part in told.split("\n"))
