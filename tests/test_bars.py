"""How far a task is, on one line of any width; and what is known of all that are watched."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.bars import (
    Pace,
    cut,
    cut_middle,
    describe,
    draw_cells,
    draw_line,
    join,
    measure,
    remaining,
)
from daemon.board import Board
from daemon.rules.lifecycle import State
from daemon.rules.redaction import escape_control
from tests.stories.broadcasting import MIB, make_task

STATUS = {"counts": {"expected": 1, "wanted": 1}, "gates": []}


def in_future(**span: float) -> str:
    """Return a time of the API."""
    return (datetime.now(UTC) + timedelta(**span, seconds=30)).isoformat()


def test_a_line_has_what_there_is_to_know() -> None:
    """Bar, percent, sizes, speed and the time that is left, in that order."""
    task = make_task("t", "wanted", size_bytes=40 * MIB, received_bytes=10 * MIB)
    assert draw_line(task, None, 2 * MIB) == (
        "t  wanted    [#####...............]  25%  10.0M/40.0M  2.0M/s  0:15"
    )
    assert draw_line(task) == "t  wanted    [#####...............]  25%  10.0M/40.0M"
    unknown = make_task("t", "wanted", received_bytes=10 * MIB)
    assert draw_line(unknown, None, 512) == "t  wanted    10.0M  512B/s"
    assert draw_line(make_task("t", label="song")) == "t  expected  song"
    assert draw_line(make_task("t", "done", path="/v/t.mp4")) == "t  done      /v/t.mp4"
    failed = make_task("t", "failed", reason="generate_failed", message="no\n")
    assert draw_line(failed) == "t  failed    generate_failed, no\\n"


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (80, ["bar", "percent", "sizes", "speed", "left"]),
        (64, ["bar", "percent", "speed", "left"]),
        (53, ["bar", "percent", "left"]),
        (44, ["bar", "percent"]),
        (34, ["percent"]),
        (26, []),
    ],
)
def test_what_does_not_fit_is_left_out(columns: int, parts: list[str]) -> None:
    """Sizes first and the percentage last; the id keeps both its ends."""
    task = make_task("a" * 20 + "z" * 20, "wanted", size_bytes=9, received_bytes=3)
    cells = draw_cells(task, columns, 1.0)
    assert [cell.kind for cell in cells[2:]] == parts
    assert cells[0].text.startswith("aaaaa")
    assert cells[0].text.rstrip().endswith("zzzz")
    assert len(join(cells)) <= columns


@given(
    st.integers(20, 200),
    st.sampled_from([state.value for state in State]),
    st.tuples(st.from_regex(r"[!-~]{0,128}", fullmatch=True), st.text(max_size=250)),
    st.integers(0, 1 << 45),
    st.none() | st.integers(0, 1 << 45),
    st.none() | st.floats(0.001, 1e12),
)
def test_no_line_is_too_wide(
    columns: int,
    state: str,
    texts: tuple[str, str],
    received: int,
    total: int | None,
    speed: float | None,
) -> None:
    """Whatever the ids, labels and numbers are."""
    name, label = texts
    known: dict[str, Any] = {"label": label, "received_bytes": received, "size_bytes": total}
    task = make_task(name, state, reason="network", path=label, **known)
    for cells in (
        draw_cells(task, columns, speed),
        draw_cells(task, columns, speed, id_width=max(128, len(name))),
    ):
        assert measure(join(cells)) <= columns
        assert join(cells) == escape_control(join(cells))


def test_a_deadline_is_told_when_it_is_near() -> None:
    """In place of the sizes, for three days before the provider deletes the video."""
    near = make_task("t", "wanted", size_bytes=4, received_bytes=2, deadline_at=in_future(hours=5))
    assert "gone in 5 h" in draw_line(near, 80, 1.0)
    assert "2B/4B" not in draw_line(near, 80, 1.0)
    assert remaining(make_task("t", deadline_at=in_future(minutes=7))) == "gone in 7 min"
    assert remaining(make_task("t", deadline_at="2026-01-01T00:00:00.000Z")) == "past its time"
    assert not remaining(make_task("t", deadline_at=in_future(hours=73)))
    assert not remaining(make_task("t", "done", deadline_at=in_future(hours=1)))
    assert describe(make_task("t", label="song", deadline_at=in_future(hours=2))) == (
        "gone in 2 h, song"
    )


def test_a_text_is_cut_to_its_room() -> None:
    """At its end, or in its middle; what fits stays whole."""
    assert [cut("abcdefgh", width) for width in (8, 7, 2, 1)] == ["abcdefgh", "abcde..", "..", "."]
    assert [cut_middle("abcdefgh", width) for width in (8, 7, 5)] == [
        *("abcdefgh", "abc..gh", "ab..h")
    ]
    assert cut("\u97f3\u4e50\u89c6\u9891", 7) == "\u97f3\u4e50.."


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (40_000, "11 h")],
)
def test_the_time_left_is_short(seconds: float, told: str) -> None:
    """Minutes and seconds, then hours, then words."""
    task = make_task("t", "wanted", size_bytes=1 << 40, received_bytes=0)
    speed = (1 << 40) / max(seconds, 1e-9)
    assert draw_line(task, None, speed).split("/s  ")[1] == told


def test_a_pace_is_measured_from_what_is_seen() -> None:
    """Not at the first look; until it stands still for long, or begins anew."""
    pace = Pace()
    assert pace.feed(0, 0.0) is None
    assert pace.feed(500, 0.5) is None
    assert pace.feed(2_000, 2.0) == 1_000
    assert pace.feed(2_000, 4.0) == 1_000
    assert pace.feed(2_000, 8.0) is None
    assert pace.feed(10, 9.0) is None


def test_progress_is_taken_from_the_events() -> None:
    """They are ahead of the ledger, and their speed is forgotten when they cease."""
    board = Board()
    board.load(STATUS, [make_task("one", "wanted", received_bytes=1), make_task("two")])
    event = {"event": "download.progress", "task_id": "one"}
    board.take({**event, "received_bytes": 50, "size_bytes": 99, "bytes_per_second": 7}, now=1.0)
    assert (board.speed("one", now=2.0), board.speed("one", now=7.0)) == (7, None)
    assert board.tasks["one"]["received_bytes"] == 50
    assert not board.put(make_task("one", "wanted", received_bytes=3))
    assert (board.tasks["one"]["received_bytes"], board.tasks["one"]["size_bytes"]) == (50, 99)
    assert board.put(make_task("one", "expected"))
    assert board.put(make_task("one", "wanted", received_bytes=3))
    assert board.tasks["one"]["received_bytes"] == 3


def test_moves_are_counted_and_told() -> None:
    """Of everything, also where somebody watches one task only."""
    board = Board(["one"])
    board.load(STATUS, [make_task("one")])
    moved = {"event": "task.moved", "from": "expected", "to": "done"}
    assert board.take({**moved, "task_id": "one"}) == "one"
    assert board.take({**moved, "task_id": "two"}) is None
    assert board.counts == {"expected": 0, "wanted": 1, "done": 2}
    assert not board.stale
    assert board.take({"event": "gate.closed", "gate": "key"}) is None
    assert board.stale


@given(
    st.dictionaries(
        st.sampled_from(["task_id", "from", "to", "received_bytes", "size_bytes", "local_id"]),
        st.none() | st.integers() | st.text(max_size=3) | st.lists(st.none(), max_size=1),
    ),
    st.sampled_from(["task.moved", "download.progress", "admin.acted", "odd"]),
)
def test_no_event_breaks_the_board(event: dict[str, Any], name: str) -> None:
    """Whatever its fields are."""
    board = Board()
    board.load(STATUS, [make_task("1", "wanted")])
    board.take({**event, "event": name})
    board.rows()


def test_what_comes_in_is_shown_first_and_what_ended_not() -> None:
    """Then by deadline; a forgotten task is nobody's wait."""
    board = Board()
    tasks = [
        make_task("late", deadline_at="2030-01-02"),
        make_task("soon", deadline_at="2030-01-01"),
        make_task("busy", "wanted", received_bytes=1, deadline_at="2031-01-01"),
        make_task("over", "done"),
        make_task("seen", forgotten_at="2026-01-01"),
    ]
    assert len(board.load(STATUS, tasks)) == 5
    assert [task["task_id"] for task in board.rows()] == ["busy", "soon", "late"]
    assert not board.load(STATUS, tasks[1:])
    assert board.vanished == ["late"]
    board.retire()
    assert "over" not in board.tasks


def test_a_row_on_a_terminal_has_the_label_and_a_line_in_a_pipe_the_id() -> None:
    """Three songs are told apart by their names; a program looks for the id."""
    song = make_task("3f2c9a", "wanted", label="Rain", size_bytes=4, received_bytes=2)
    assert draw_line(song, 80).startswith("Rain")
    assert draw_line(song).startswith("3f2c9a")
    waiting = make_task("3f2c9a", "expected", label="Rain")
    assert draw_line(waiting, 80).count("Rain") == 1
    # Wide letters would move the columns behind them.
    wide = make_task("3f2c9a", "wanted", label="\u96e8", size_bytes=4, received_bytes=2)
    assert draw_line(wide, 80).startswith("3f2c9a")
