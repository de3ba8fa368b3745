"""The benchmarks count right: their arithmetic, their table, their callers and their ledger.

Rule: nothing here is held against a clock; whether a goal is met is for `make bench` to say.
"""

import asyncio
import re
import sqlite3  # noqa: TID251 - looks at the ledger from outside
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from daemon.rules.lifecycle import TRANSITIONS, Cause, State
from daemon.store import open_store
from tests.benchmarks import bench, caller, filehost, ledger
from tests.benchmarks.ours import fetch, our_daemon
from tests.benchmarks.programs import PACKAGES, Missing, find, lacks
from tests.benchmarks.table import HEAD, Goal, Row, compare, judge, quantile, skip, write
from tests.benchmarks.usage import cpu_seconds, memory_bytes
from tests.stories.harness import Daemon

TASKS = 400


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A load that weighs on both sides of a round does not change it."""
    row = compare("rate", [200.0, 20.0, 30.0], [100.0, 10.0, 10.0], "/s", "them", Goal(">=", 2.0))
    assert row == Row("rate", "30.0 /s", "10.0 /s them", "2.00", ">= 2.00 x", "yes")
    with pytest.raises(ValueError, match="zip"):
        compare("rate", [1.0], [1.0, 2.0], "/s", "them")


@pytest.mark.parametrize(
    ("goal", "met", "missed", "text"),
    [
        (Goal(">=", 2.0), 2.0, 1.99, ">= 2.00 x"),
        (Goal("<=", 1.05), 1.05, 1.06, "<= 1.05 x"),
        (Goal("<=", 128.0, "MiB"), 128.0, 128.1, "<= 128 MiB"),
    ],
)
def test_a_goal_is_met_or_missed(goal: Goal, met: float, missed: float, text: str) -> None:
    """The limit itself is good enough, and the table says which it is."""
    assert str(goal) == text
    assert judge("a", [met], "", goal).met == "yes"
    assert judge("a", [missed], "", goal).met == "**no**"
    assert judge("a", [missed], "").met == ""


def test_the_table_is_markdown() -> None:
    """Every line has the cells of the head, and a figure no more digits than mean something."""
    rows = [judge("a", [1.0, 2.0, 30.0], "s"), skip("b", "needs the package curl")]
    assert {line.count("|") for line in [*HEAD.splitlines(), *map(str, rows)]} == {7}
    assert str(rows[0]) == "| a | 2.00 s |  |  |  |  |"
    assert rows[1].met == "skipped: needs the package curl"
    assert [write(value, "") for value in (0.05, 2.345, 23.45, 23_456.7)] == [
        *("0.0500", "2.35", "23.4", "23,457"),
    ]


def test_a_quantile_is_a_value_that_was_measured() -> None:
    """Of a hundred values, the 99th percentile leaves one above it at most."""
    values = [float(number) for number in range(100, 0, -1)]
    assert quantile(values, 0.99) == 100.0
    assert quantile(values, 0.5) == 51.0
    assert quantile([7.0], 0.99) == 7.0


def test_every_row_can_be_named() -> None:
    """Each is a module of its own that measures into a folder."""
    for name in bench.ROWS:
        assert (Path(bench.__file__).parent / f"{name}.py").is_file()
    assert set(bench.SIZED) <= set(bench.ROWS)


def test_a_row_that_breaks_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a line of the table, with what happened."""
    (tmp_path / "modules").mkdir()
    for name, act in (("breaks", "1 / 0"), ("works", "yield 'figures'")):
        module = tmp_path / "modules" / f"bench_{name}.py"
        module.write_text(f"def run(folder):\n    {act}\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(bench, "PACKAGE", "bench_")
    found = bench.run(("breaks", "works"), tmp_path, None)
    assert [str(row) for row in found[1:]] == ["figures"]
    assert found[0].met.startswith("broken: ZeroDivisionError")
    assert not (tmp_path / "works").exists()


def test_who_lacks_a_program_is_told_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is skipped with the words that other tests use."""
    monkeypatch.setitem(PACKAGES, "no-such-program", "needs the package no-such-program")
    with pytest.raises(Missing, match="needs the package no-such-program"):
        find("no-such-program")
    row = lacks("no-such-program", what="a")
    assert row is not None
    assert row.met == "skipped: needs the package no-such-program"
    assert lacks("sh", what="a") is None


def test_the_usage_of_a_process_is_read() -> None:
    """Processor time grows with work, that of children included, and memory is there."""
    work = [sys.executable, "-c", "sum(range(10**7)); print(); input()"]
    parent = ["sh", "-c", '"$0" "$@"; true', *work]
    pipe = subprocess.PIPE
    with subprocess.Popen(parent, stdin=pipe, stdout=pipe) as process:  # noqa: S603 - our own
        assert process.stdout is not None
        process.stdout.readline()
        assert cpu_seconds(process.pid) > 0.05
        assert 0 < memory_bytes(process.pid, "VmRSS") <= memory_bytes(process.pid)
        process.communicate(b"\n")


def test_only_answers_of_200_are_counted(tmp_path: Path) -> None:
    """What the callers counted is in the ledger, and a wrong token is an error."""
    with our_daemon(tmp_path / "ours") as daemon:
        heard = caller.call(daemon.url, caller.failures(daemon.url, "a", 9_999), 4, 0.3)
        assert heard.seconds < 3
        # The first one teaches what an answer looks like, and is not timed.
        assert _counted(daemon, "a-") == len(heard.waits) + 1 > 4
        few = caller.call(daemon.url, caller.failures(daemon.url, "b", 20), 4, pause_seconds=0.01)
        assert len(few.waits) == 19
        assert _counted(daemon, "b-") == 20
        assert 0 < few.p99_ms / 1000 <= few.seconds < few.seconds * few.per_second
        wrong = f"{daemon.callback}/not-the-token"
        refused = caller.failures(wrong, "c", 2)
        for requests in (refused, [*caller.failures(daemon.url, "d", 2), *refused]):
            with pytest.raises(caller.WrongAnswer, match="404"):
                caller.call(daemon.url, requests, 1)


def _counted(daemon: Daemon, prefix: str) -> int:
    return sum(task["task_id"].startswith(prefix) for task in daemon.client.tasks())


def test_a_film_of_the_file_host_is_stored(tmp_path: Path) -> None:
    """The daemon takes it for whole, over TLS too, and the figure is a time."""
    missing = lacks("nginx", what="")
    if missing is not None:
        pytest.skip("needs the package nginx")
    with (
        filehost.file_host(tmp_path) as host,
        our_daemon(tmp_path / "ours", environ={"SSL_CERT_FILE": str(host.authority)}) as daemon,
    ):
        film = host.film(300_000)
        began = time.perf_counter()
        took = fetch(daemon, {"a": f"{host.http}/{film}", "b": f"{host.https}/many/7/{film}"}, 20)
        assert 0 < took <= time.perf_counter() - began
        assert {task["size_bytes"] for task in daemon.client.tasks()} == {300_000}


def test_the_ledger_is_one_of_the_daemon(tmp_path: Path) -> None:
    """It opens it, reads it, and goes on with it; twice the same number gives the same rows."""
    now = 1_790_000_000_000
    for name in ("a", "b"):
        ledger.fill(tmp_path / name, TASKS, now)
    asyncio.run(_read(tmp_path / "a", now))
    asyncio.run(_open(tmp_path / "new"))
    schemas, rows = zip(*(_shape(tmp_path / name) for name in ("a", "b", "new")), strict=True)
    assert schemas[0] == schemas[1] == schemas[2]
    assert rows[0] == rows[1]


async def _open(state_dir: Path) -> None:
    async with open_store(state_dir):
        pass


async def _read(state_dir: Path, now: int) -> None:
    async with open_store(state_dir) as store:
        counts = await store.counts()
        assert sum(counts.values()) == TASKS
        assert counts["expected"] == counts["wanted"] == TASKS // 10
        assert min(counts[state] for state in ("done", "failed", "lost", "pruned")) > 0
        tasks = await store.tasks(limit=TASKS)
        histories = await store.histories([task.task_id for task in tasks])
        for task in tasks:
            _check_history(
                [(step.before, step.after, step.cause) for step in histories[task.task_id]]
            )
        assert await store.due_downloads(now, 9, freshest=False) == []
        due = await store.due_downloads(now + 2 * ledger.LATER_MS, 9, freshest=False)
        assert len(due) == 9
        assert await store.claim(due[0].task_id, now + 2 * ledger.LATER_MS) is not None


def _check_history(steps: list[tuple[str | None, str, str]]) -> None:
    state = None
    for before, after, cause in steps:
        assert before == state
        assert TRANSITIONS[Cause(cause)][State(before) if before else None] == after
        state = after


def _shape(folder: Path) -> tuple[list[object], list[object]]:
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as connection:
        schema = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
        rows = connection.execute("SELECT task_id, link, path FROM task ORDER BY id").fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", row[0]) for row in rows)
    return schema, rows
