"""What the owner asks of the ledger: adopt, acknowledge, try again, report, take it along."""

import asyncio
import json
import re
import sqlite3  # noqa: TID251 - a state is planted while nobody runs
import time
from contextlib import closing
from typing import Any, Final

import pytest

from daemon.simulator.faults import Faults
from daemon.simulator.simulator import Simulator
from tests.stories.harness import (
    API_KEY,
    TASK_FIELDS,
    TOKEN,
    Daemon,
    Ended,
    read_lines,
    run_on_terminal,
    started,
)
from tests.stories.stage import Stage, check_film, failure, questions, success

STATES: Final = ("expected", "wanted", "verified", "stored", "done", "failed", "lost", "pruned")
FORGETTABLE: Final = {"expected", "failed", "lost"}
WHOLE: Final = {
    "link": "https://files.example.com/a.mp4",
    "fetch_at": 1 << 45,
    "stored_at": 1,
    "size_bytes": 1,
    "sha256": "00",
}
NASTY: Final = (
    f"\x1b]0;owned\x07\x1b[31mred\u202etxt\u2066\u009b1m {TOKEN} {API_KEY} "
    "https://files.example.com/a.mp4?sign=signed-query"
)


def plant(daemon: Daemon, **states: str) -> None:
    """Put tasks into the ledger of a daemon that does not run, as id=state."""
    file = daemon.folder / "state" / "ledger.sqlite3"
    now = time.time_ns() // 1_000_000
    with closing(sqlite3.connect(file)) as ledger, ledger:
        for task_id, state in states.items():
            row: dict[str, Any] = {
                **({} if state == "expected" else WHOLE | {"path": f"/gone/{task_id}.mp4"}),
                "task_id": task_id,
                "state": state,
                "cause": "adopted",
                "source": "track",
                "created_at": now,
                "updated_at": now,
                "deadline_at": now + 86_400_000,
            }
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            insert = f"INSERT INTO task ({names}) VALUES ({marks})"  # noqa: S608 - own names
            ledger.execute(insert, list(row.values()))


async def unsafe(daemon: Daemon) -> dict[str, str]:
    """Return what `check` names, and see that its two faces and its exit code agree."""
    told, shown = await asyncio.gather(daemon.run("check", "--json"), daemon.run("check"))
    (answer,) = read_lines(told.output)
    named = {one["id"]: one["state"] for one in answer["unsafe"]}
    assert answer["safe"] is (not named)
    assert told.code == shown.code == (1 if named else 0)
    rows = [row for row in shown.output.splitlines()[1:] if not row.startswith("gate shut:")]
    assert {row.split()[0] for row in rows} == set(named)
    return named


async def test_thousands_of_ids_are_adopted_within_the_rate(stage: Stage) -> None:
    """3,000 ids with 300 labels go in at once, bad lines aside; asking keeps to its pace."""
    provider = await stage.provider()
    limits = {"requests_per_second": 20}
    daemon = await stage.daemon(provider, provider=limits, log={"level": "info"})
    labels = [f"batch {number}" for number in range(300)]
    lines = [f"id-{number}\t{labels[number % 300]}" for number in range(3_000)]
    bad = ["a/b", "x" * 2_000_000, "\udcff\udcfe", "😀" * 9_000, "a b\tfine"]
    lines[1_500:1_500] = [*bad, "odd-1\ttwo\x1blines", f"odd-2\t{'l' * 2_000_000}"]
    stdin = "\n".join(lines)
    began = time.monotonic()
    first = await asyncio.to_thread(daemon.verb, "track", "-", stdin=stdin)
    seconds = time.monotonic() - began
    asked = len(provider.requests)
    assert first.code == 5
    assert first.errors.splitlines()[-1] == "3000 tracked, 7 rejected"
    assert "Traceback" not in first.errors
    assert len(first.errors) < 50_000
    assert seconds < 10
    assert asked <= 6 + 21 * seconds
    tasks = await daemon.tasks()
    assert {name: task["label"] for name, task in tasks.items()} == {
        line.partition("\t")[0]: line.partition("\t")[2] for line in lines if line[:3] == "id-"
    }
    again = await asyncio.to_thread(daemon.verb, "track", "-", "--json", stdin=stdin)
    assert (again.code, len(read_lines(again.output))) == (5, 3_000)
    newest = await daemon.tasks()
    assert newest.keys() == tasks.keys()
    born = {name: task["created_at"] for name, task in tasks.items()}
    assert born == {name: task["created_at"] for name, task in newest.items()}


async def test_only_what_is_open_can_be_forgotten(stage: Stage) -> None:
    """Each state, unknown ids and the quarantine, once and twice; `check` follows."""
    daemon = await stage.daemon(None, provider={"api_key": None})
    await daemon.post(b"not json")
    await daemon.stop()
    plant(daemon, **{state: state for state in STATES})
    await daemon.restart()
    held = read_lines((await daemon.run("list", "--json", "--state", "quarantined")).output)
    (held_id,) = [one["id"] for one in held]
    assert set(await unsafe(daemon)) == {"expected", "wanted", "verified", "lost", held_id}
    every = await asyncio.gather(*(daemon.run("forget", state) for state in STATES))
    for state, ended in zip(STATES, every, strict=True):
        assert ended.code == (0 if state in FORGETTABLE else 7), state
        assert f"{len({state} & FORGETTABLE)} forgotten" in ended.errors
        assert ended.output == ""
    mixed = await daemon.run("forget", "--json", "nobody", "done", held_id, "lost", "", "a/b")
    assert mixed.code == 7
    assert [one.get("task_id", one.get("id")) for one in read_lines(mixed.output)] == [
        held_id,
        "lost",
    ]
    assert (await daemon.run("forget", "nobody", "quarantine-0")).code == 5
    assert set(await unsafe(daemon)) == {"wanted", "verified"}
    before = (await daemon.task("lost"))["forgotten_at"]
    assert (await daemon.run("forget", "lost", held_id)).code == 0
    assert (await daemon.task("lost"))["forgotten_at"] == before
    assert "somebody has seen it" in (await daemon.run("show", "lost")).output
    await daemon.post(b"not json")
    assert held_id not in await unsafe(daemon)


async def test_a_forgotten_task_rests_until_a_film_comes(stage: Stage) -> None:
    """Nobody is asked about it, whatever restarts; a link in a callback, or `retry`, revives it."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    ids = [provider.add_task(Faults(callbacks=()), finished=False) for _ in range(2)]
    await daemon.track(*ids, label="mine")
    await asyncio.gather(*(asked_about(provider, task_id) for task_id in ids))
    assert (await daemon.run("forget", *ids)).code == 0
    await asyncio.sleep(0.3)
    before = [questions(provider, task_id) for task_id in ids]
    await daemon.stop()
    await daemon.restart()
    await asyncio.sleep(0.7)
    assert [questions(provider, task_id) for task_id in ids] == before
    assert await unsafe(daemon) == {}
    for task_id in ids:
        provider.finish(task_id)
    called, retried = ids
    await daemon.post(success(called, provider.tasks[called].video_url))
    assert (await daemon.run("retry", retried)).code == 0
    for task_id in ids:
        task = await daemon.until(task_id, label="mine")
        assert task["forgotten_at"] is None
        check_film(daemon, provider, task_id)


async def asked_about(provider: Simulator, task_id: str) -> None:
    """Wait until a question about a task came."""
    async with asyncio.timeout(10):
        while not questions(provider, task_id):  # noqa: ASYNC110 - a deque has no event
            await asyncio.sleep(0.02)


async def test_what_was_pruned_comes_back_by_force(stage: Stage) -> None:
    """`retry` is 7 for it without `--force`; what is done is safe; `--failed` takes the failed."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    kept, gone = (provider.add_task(Faults(callbacks=())) for _ in range(2))
    failed = provider.add_task(Faults(outcome="GENERATE_MP4_FAILED", callbacks=()))
    await daemon.track(kept, failed)
    await daemon.until(kept)
    await daemon.until(failed, "failed")
    await daemon.stop()
    plant(daemon, **{gone: "pruned"})
    await daemon.restart()
    refused = await daemon.run("retry", gone, kept)
    assert refused.code == 7
    assert "--force" in refused.errors
    assert f"{kept}: already safe" in refused.errors
    assert (await daemon.run("retry", "--force", gone)).code == 0
    await daemon.until(gone)
    check_film(daemon, provider, gone)
    (task,) = read_lines((await daemon.run("retry", "--failed", "--json")).output)
    assert (task["task_id"], list(task)) == (failed, TASK_FIELDS)
    await daemon.until(failed, "failed")
    assert (await daemon.run("retry", "--failed", "--force")).code == 0


async def test_a_report_names_all_that_support_asks_for(stage: Stage) -> None:
    """Made, failed, lost and open with ids and messages; credits before and after; a span."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    for audio_id in ("any", "sim-failure"):
        track = ("--task-id", "music", "--audio-id", audio_id)
        await daemon.run("submit", *track, "--wait", "--label", audio_id)
    await daemon.stop()
    plant(daemon, gone="lost", waits="expected")
    await daemon.restart()
    await asyncio.sleep(0.3)
    ended = await daemon.run("report", "--json")
    (report,) = read_lines(ended.output)
    chapters = {
        name: [task["task_id"] for task in report[name]] for name in report if name in STORY
    }
    by_label = {task["label"]: name for name, task in (await daemon.tasks()).items()}
    assert chapters == {
        "made": [by_label["any"]],
        "failed": [by_label["sim-failure"]],
        "lost": ["gone"],
        "open": ["waits"],
    }
    assert (report["credits_before"], report["credits_after"]) == (1000, 992)
    shown = await daemon.run("report", "--since", "1h")
    assert (shown.code, shown.errors) == (0, "")
    for words in (
        *("credits: 1000 before, 992 after", "1 made (195.3K), 1 failed, 1 lost, 1 open"),
        *(by_label["any"], by_label["sim-failure"], "music", "generate_failed", "500"),
    ):
        assert words in shown.output
    (row,) = [line for line in shown.output.splitlines() if line.startswith("waits ")]
    assert len(re.findall(r"T[0-9:.]+Z", row)) == 1  # It was adopted, and has not ended.
    (none,) = read_lines((await daemon.run("report", "--json", "--since", "0")).output)
    assert [none[name] for name in STORY] == [[], [], [], []]
    nonsense = ("yesterday", "", "-1d", "99999999d", "\udcff")
    for wrong in await asyncio.gather(*(daemon.run("report", "--since", age) for age in nonsense)):
        assert (wrong.code, wrong.output) == (2, ""), wrong
        assert "--since" in wrong.errors
    assert (await daemon.run("report", "--since", "36500d")).code == 0


STORY: Final = ("made", "failed", "lost", "open")


async def test_the_ledger_can_be_taken_along(stage: Stage) -> None:
    """`export` is every task with its history over several pages, and `head` may leave."""
    daemon = await stage.daemon(None, provider={"api_key": None}, log={"level": "info"})
    ids = [f"task-{number}" for number in range(1_200)]
    assert daemon.verb("track", "-", stdin="\n".join(ids)).code == 0
    for task_id in ids[::100]:
        await daemon.post(failure(task_id))
    ended = await daemon.run("export")
    assert (ended.code, ended.errors) == (0, "")
    on_terminal = await asyncio.to_thread(run_on_terminal, daemon, "export")
    assert on_terminal == ended.output
    lines = read_lines(ended.output)
    assert [line["task_id"] for line in lines] == ids[::-1]
    assert all(list(line) == [*TASK_FIELDS, "history"] for line in lines)
    assert lines[-1] == await daemon.task(ids[0])
    assert [step["to"] for step in lines[-1]["history"]] == ["expected", "failed"]
    for verb in (["export"], ["report"], ["check"]):
        with started("-c", str(daemon.config), *verb) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert (await asyncio.to_thread(process.wait, 20), process.stderr.read()) == (0, "")


@pytest.mark.parametrize("kind", ["task", "quarantine"])
async def test_text_from_outside_is_harmless_in_every_verb(stage: Stage, kind: str) -> None:
    """Control characters and bidi marks are spelled out; no key and no signed link is shown."""
    daemon = await stage.daemon(None, callback={"trust": "callback"})
    if kind == "task":
        body = {"code": 501, "msg": NASTY, "data": {"task_id": "nasty", "video_url": None}}
        await daemon.post(body, headers={"Content-Type": "a/b"})
        shown_id, verbs = "nasty", [["list"], ["report"], ["check"]]
    else:
        await daemon.post(
            f"<p>{NASTY}\n\r{NASTY}\x85</p>".encode(), headers={"Content-Type": "x/\x9b"}
        )
        (held,) = (await daemon.get("/v1/quarantine"))["quarantine"]
        shown_id, verbs = held["id"], [["list", "--state", "quarantined"], ["check"]]
    await daemon.track("nasty")
    every = [["show", shown_id], *verbs]
    endings = await asyncio.gather(
        *(daemon.run(*verb) for verb in every), *(daemon.run(*verb, "--json") for verb in every)
    )
    on_terminal = await asyncio.to_thread(run_on_terminal, daemon, "show", shown_id)
    endings.append(Ended(0, on_terminal, ""))
    for ended in endings:
        text = ended.output + ended.errors
        assert "Traceback" not in text
        for sign in ("\x1b", "\x07", "\u202e", "\u2066", "\u009b", "\x85", "\r", "signed-query"):
            assert sign not in text, (sign, ended)
        assert TOKEN not in text
        assert API_KEY not in text
    assert "\\x1b]0;owned\\x07" in endings[0].output
    exported = (await daemon.run("export")).output
    assert "signed-query" not in exported + json.dumps(daemon.log())


async def test_what_names_nothing_is_said_so(stage: Stage) -> None:
    """Odd arguments are exit 5 or 2 with a sentence, never a traceback, a hang or another's id."""
    daemon = await stage.daemon(None)
    odd = ("", ".", "..", "a/b", "%2e", "\udcff", "é", "x" * 100_000, "quarantine-\udcff", "a\nb")
    verbs = [("show", given) for given in odd]
    verbs += [(verb, given) for verb in ("retry", "forget") for given in odd[::5]]
    for verb, ended in zip(
        verbs, await asyncio.gather(*(daemon.run(*v) for v in verbs)), strict=True
    ):
        assert (ended.code, ended.output) == (5, ""), (verb, ended)
        assert "Traceback" not in ended.errors
        assert re.search(r"ledger has no|quarantine has no|empty id", ended.errors), (verb, ended)
    for arguments in (["list", "--state", "\udcff"], ["track", "ok", "--label", "\udcff\udcfe"]):
        ended = await daemon.run(*arguments)
        assert (ended.code, ended.output) == (2, ""), ended
    mixed = await daemon.run("track", "good", "\udcff", "x" * 100_000)
    assert (mixed.code, mixed.errors.splitlines()[-1]) == (5, "1 tracked, 2 rejected")
    assert list(await daemon.tasks()) == ["good"]
