"""Videos that are submitted here: each is paid for once, told honestly, and never forgotten."""

import asyncio
import random
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from daemon.simulator.faults import ApiFaults, Faults, Reply
from daemon.simulator.music import DEAD_AUDIO, FOREIGN_AUDIO, FOREIGN_MUSIC, UNKNOWN_MUSIC
from daemon.simulator.simulator import Simulator
from daemon.wording import needs_person
from tests.stories.harness import (
    PATIENCE_SECONDS,
    TASK_FIELDS,
    Daemon,
    Ended,
    launch,
    read_lines,
    run_on_terminal,
)
from tests.stories.stage import Stage, check_film, moves, paths

GENERATE = "/api/v1/mp4/generate"
PRICE = 4


async def submit(daemon: Daemon, audio_id: str, *options: str, music: str = "music") -> Ended:
    """Submit one track through the command line."""
    track = ("--task-id", music, "--audio-id", audio_id)
    return await daemon.run("submit", *track, *options)


async def submit_json(daemon: Daemon, audio_id: str, *options: str, code: int = 0) -> Any:
    """Submit one track; return its task and require this exit code."""
    ended = await submit(daemon, audio_id, "--json", *options)
    assert ended.code == code, ended
    (task,) = read_lines(ended.output)
    assert list(task) in (TASK_FIELDS, [*TASK_FIELDS, "history"])
    return task


def begin(daemon: Daemon, audio_id: str, *options: str) -> "subprocess.Popen[str]":
    """Start a submit beside the test."""
    track = ("--task-id", "music", "--audio-id", audio_id)
    pipe = subprocess.PIPE
    command = ("-c", str(daemon.config), "submit", *track, *options)
    return launch(*command, stdout=pipe, stderr=pipe, text=True)


async def finish(process: "subprocess.Popen[str]") -> Ended:
    """Wait for the end of such a submit."""
    output, errors = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)
    return Ended(process.returncode, output, errors)


async def reaches(provider: Simulator, tasks: int) -> None:
    """Wait until the provider has so many tasks; on a busy machine a gate was shut for longer."""
    until = time.monotonic() + 2.5 * PATIENCE_SECONDS
    while len(provider.tasks) < tasks:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


def spent(provider: Simulator) -> float:
    """Return the credits that are gone."""
    return provider.options.credits - provider.credits


async def test_a_video_is_made_and_named(stage: Stage) -> None:
    """Exit 0 once the provider took it; the local id, the words and the label stay with it."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    words = ("--author", "A" * 50, "--domain-name", "D" * 50, "--label", "mine")
    task = await submit_json(daemon, "audio", *words)
    assert (task["state"], task["source"], task["label"]) == ("expected", "submit", "mine")
    assert (task["music_task_id"], task["audio_id"]) == ("music", "audio")
    assert list(provider.tasks) == [task["task_id"]]
    assert moves(await daemon.until(task["task_id"]))[-1] == "done"
    check_film(daemon, provider, task["task_id"])
    local_id = daemon.log("submit.recorded")[0]["task_id"]
    assert local_id.startswith("submit-")
    assert (await daemon.task(local_id))["task_id"] == task["task_id"]
    again = await submit_json(daemon, "audio", "--wait")
    assert (again["task_id"], again["state"]) == (task["task_id"], "done")
    assert len(await daemon.tasks()) == 1
    assert spent(provider) == PRICE
    human = await submit(daemon, "other")
    assert (human.code, human.errors) == (0, "")
    assert human.output.split()[:6] == ["TASK", "STATE", "SIZE", "ADOPTED", "LABEL", "REASON"]


async def test_waiting_ends_with_the_film(stage: Stage) -> None:
    """`--wait` is 0 with a file, 5 with a refusal; a terminal sees bars and no pipe does."""
    provider = await stage.provider(render_seconds=0.5, bytes_per_second=400_000)
    daemon = await stage.daemon(provider)
    on_screen = ("submit", "--wait", "--task-id", "m", "--audio-id", "screen")
    piped, screen, failed = await asyncio.gather(
        submit(daemon, "piped", "--wait"),
        asyncio.to_thread(run_on_terminal, daemon, *on_screen),
        submit(daemon, "sim-failure", "--wait", "--json"),
    )
    assert (piped.code, "done" in piped.output) == (0, True)
    assert "\x1b" not in piped.output + piped.errors
    assert "expected" in piped.errors.splitlines()[0]
    assert "\r\x1b[2K" in screen
    assert "[####" in screen
    assert screen.splitlines()[-1].split()[1] == "done"
    assert failed.code == 5
    (task,) = read_lines(failed.output)
    assert (task["state"], task["reason"]) == ("failed", "generate_failed")


async def test_an_account_in_trouble_is_exit_4(stage: Stage) -> None:
    """No key, a wrong key, no credits: nothing is made; mended, the same command works."""
    provider = await stage.provider(credits=PRICE)
    keyless, daemon = await asyncio.gather(
        stage.daemon(provider, name="keyless", provider={"api_key": None}),
        stage.daemon(provider),
    )
    ended = await submit(keyless, "audio")
    assert (ended.code, ended.output) == (4, "")
    assert "provider.api_key" in ended.errors
    assert await keyless.tasks() == {}
    provider.credits = 0
    ended = await submit(daemon, "audio", "--wait")
    assert ended.code == 4
    assert ended.errors.startswith("Insufficient credits\nnothing was submitted or paid for")
    assert await daemon.gates() == ["credits"]
    assert (await daemon.run("check")).code == 0
    provider.credits = PRICE
    await submit_json(daemon, "audio", "--wait")
    assert await daemon.gates() == []
    options = provider.options
    provider.options = replace(options, api_key="another-key")
    ended = await submit(daemon, "second")
    assert (ended.code, ended.output) == (4, "")
    assert await daemon.gates() == ["key"]
    refused = await submit(daemon, "third", "--no-check", "--json")
    assert (refused.code, refused.output) == (4, "")
    provider.options, provider.credits = options, PRICE
    task = await submit_json(daemon, "second", "--no-check")
    assert (await daemon.run("retry", task["task_id"])).code == 0
    await daemon.until(task["task_id"])
    assert await daemon.gates() == []
    reasons = {task["reason"] for task in (await daemon.tasks()).values()}
    assert reasons == {None, "unauthorized", "out_of_credits"}
    assert (await daemon.run("check")).code == 0


async def test_what_passes_is_sent_later_by_itself(stage: Stage) -> None:
    """Rate, maintenance, nobody there: exit 6, and the same command need not be typed again."""
    limited, mended, late = [await stage.provider() for _ in range(3)]
    for provider, code in ((limited, 430), (mended, 455)):
        provider.script_api(ApiFaults(codes=(Reply(code=code, retry_after="4"),), path=GENERATE))
    absent = Simulator(late.options, refuse_post)
    async with absent.serve() as base_url:
        port = int(base_url.rpartition(":")[2])
    daemons = [
        await stage.daemon(limited, name="rate"),
        await stage.daemon(mended, name="maintenance"),
        await stage.daemon(limited, name="down", provider={"base_url": base_url}),
    ]
    gates: tuple[list[str], ...] = (["rate"], ["maintenance"], [])
    tasks = await asyncio.gather(
        *(deferred(daemon, shut) for daemon, shut in zip(daemons, gates, strict=True))
    )
    async with absent.serve(port=port):
        for daemon, task, provider in zip(daemons, tasks, (limited, mended, absent), strict=True):
            await named(daemon, task["task_id"], provider)
            assert (await daemon.run("check")).code == 0


async def deferred(daemon: Daemon, gates: list[str]) -> Any:
    """Submit what cannot be sent now; return its task."""
    task = await submit_json(daemon, "audio", "--no-check", code=6)
    assert (task["state"], task["task_id"][:7]) == ("expected", "submit-")
    assert task["next_attempt_at"] is not None
    assert await daemon.gates() == gates
    assert (await daemon.run("check")).code == 1
    assert "goes on by itself" in (await daemon.run("show", task["task_id"])).output
    return task


async def named(daemon: Daemon, local_id: str, provider: Simulator) -> None:
    """Wait until a submit has the provider's id and its film."""
    await reaches(provider, 1)
    (task_id,) = provider.tasks
    await daemon.until(task_id)
    assert (await daemon.task(local_id))["task_id"] == task_id
    assert spent(provider) == PRICE


async def refuse_post(_url: str, _body: bytes, _headers: Mapping[str, str]) -> int:
    """Be an application that cannot be called back."""
    raise ConnectionRefusedError


async def test_a_cut_answer_is_asked_for_once_more(stage: Stage) -> None:
    """The provider's "exists already" names the task: exit 0, one film, paid for once."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task = await submit_json(daemon, "sim-lost-answer", "--wait")
    assert (task["task_id"], task["state"]) == (*provider.tasks, "done")
    assert (paths(provider)[GENERATE], spent(provider)) == (2, PRICE)
    assert len(await daemon.tasks()) == 1


async def test_what_nobody_knows_waits_for_a_person(stage: Stage) -> None:
    """kie.ai names no task: exit 6, `check` is 1, `show` says what to do, and both ways end it."""
    provider = await stage.provider(kind="kie")
    daemon = await stage.daemon(provider, provider={"kind": "kie"})
    provider.next_faults = Faults(answer_lost=True)
    task = await submit_json(daemon, "audio", "--wait", code=6)
    local_id = task["task_id"]
    assert (local_id[:7], task["state"], task["next_attempt_at"]) == ("submit-", "expected", None)
    checked = await daemon.run("check")
    assert (checked.code, checked.output.count("already exists")) == (1, 1)
    shown = await daemon.run("show", local_id)
    for words in (f"forget {local_id}", f"retry {local_id}", "already exists"):
        assert words in shown.output
    (task_id,) = provider.tasks
    assert (await daemon.run("track", task_id)).code == 0
    assert (await daemon.run("forget", local_id)).code == 0
    await daemon.until(task_id)
    assert (await daemon.run("check")).code == 0
    again = await submit_json(daemon, "audio", code=6)
    del provider.tasks[task_id]
    assert (await daemon.run("retry", again["task_id"])).code == 0
    await reaches(provider, 1)
    (second_id,) = provider.tasks
    await daemon.until(second_id)
    assert (await daemon.run("check")).code == 0
    assert paths(provider)[GENERATE] == 4


async def test_what_cannot_be_made_is_not_asked_for(stage: Stage) -> None:
    """A failed pre-flight is 7, a text that is too long 2; nothing is recorded or sent."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    impossible = (
        (UNKNOWN_MUSIC, "audio", "no such music task"),
        (FOREIGN_MUSIC, "audio", FOREIGN_AUDIO),
        (FOREIGN_MUSIC, DEAD_AUDIO, "HTTP 404"),
        ("sim-failed-music", "audio", "failed"),
    )
    tried = (submit(daemon, audio_id, music=music) for music, audio_id, _ in impossible)
    for ended, (*_, why) in zip(await asyncio.gather(*tried), impossible, strict=True):
        assert (ended.code, ended.output) == (7, ""), why
        assert why in ended.errors
    senseless: tuple[tuple[str, ...], ...] = (
        ("audio", "--author", "x" * 51),
        ("audio", "--domain-name", "x" * 51),
        ("audio", "--label", "two\nlines"),
        *(("",), ("a b",), ("é",)),
    )
    for ended in await asyncio.gather(*(submit(daemon, *given) for given in senseless)):
        assert (ended.code, ended.output) == (2, "")
        assert ("51 characters" in ended.errors) == ("provider takes" in ended.errors)
        assert "characters" in ended.errors
    assert GENERATE not in paths(provider)
    assert await daemon.tasks() == {}
    await submit_json(daemon, "audio", "--no-check", "--wait", code=0)
    refused = Reply(code=451)
    provider.script_api(ApiFaults(codes=(refused,), path=GENERATE))
    assert (await submit(daemon, "deaf")).code == 5
    assert spent(provider) == PRICE


async def test_nobody_who_waits_is_needed(stage: Stage) -> None:
    """Ctrl-C is 8 and the daemon goes on; a restart of it is waited for; `forget` ends waiting."""
    provider = await stage.provider(render_seconds=600)
    daemon = await stage.daemon(provider)
    waiting = {name: begin(daemon, name, "--wait") for name in ("left", "stays", "dropped")}
    await reaches(provider, 3)
    ids = {task.track[1]: task.task_id for task in provider.tasks.values()}
    for name in waiting:
        await daemon.until(ids[name], "expected")
    await asyncio.sleep(0.5)
    waiting["left"].send_signal(signal.SIGINT)
    left = await finish(waiting["left"])
    assert (left.code, left.output) == (8, "")
    assert f"the daemon goes on with it: suno-videod show {ids['left']}" in left.errors
    provider.next_faults = Faults(answer_delay_seconds=2)
    hasty = begin(daemon, "hasty", "--no-check")
    await reaches(provider, 4)
    hasty.send_signal(signal.SIGINT)
    early = await finish(hasty)
    assert (early.code, early.output) == (8, "")
    assert "the daemon may have it already" in early.errors
    assert (await daemon.run("forget", ids["dropped"])).code == 0
    dropped = await finish(waiting["dropped"])
    assert (dropped.code, "expected" in dropped.output) == (6, True)
    await daemon.stop()
    await asyncio.sleep(0.5)
    await daemon.restart()
    for name in ("left", "stays"):
        provider.finish(ids[name])
    stays = await finish(waiting["stays"])
    assert stays.code == 0
    assert "waiting for the daemon to come back" in stays.errors
    await daemon.until(ids["left"])
    assert spent(provider) == 4 * PRICE


async def test_a_kill_between_intent_and_answer_loses_nothing(stage: Stage) -> None:
    """The next process asks once more: paid once, known by both ids, done."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    provider.next_faults = Faults(answer_delay_seconds=30)
    waiting = begin(daemon, "audio", "--no-check")
    await reaches(provider, 1)
    recorded = await daemon.says("submit.recorded")
    daemon.kill()
    ended = await finish(waiting)
    assert (ended.code, ended.output) == (6, "")
    await daemon.restart()
    await named(daemon, recorded["task_id"], provider)
    assert len(await daemon.tasks()) == 1
    assert paths(provider)[GENERATE] == 2


async def resting(daemon: Daemon) -> list[Any]:
    """Wait until everything is done or needs a person; return what needs one."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            tasks = (await daemon.tasks()).values()
            open_ones = [task for task in tasks if task["state"] != "done"]
            if all(needs_person(task) for task in open_ones):
                return open_ones
            await asyncio.sleep(0.1)


async def test_kills_at_any_moment_lose_no_submit(stage: Stage) -> None:
    """Six kills under load: every film that was paid for is on the disk, each under both ids."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    luck, promised = random.Random(20_261_122), set[str]()

    async def order(number: int) -> None:
        provider.next_faults = Faults(answer_delay_seconds=luck.random() / 5)
        wish = {"music_task_id": "m", "audio_id": f"a{number}", "check": False}
        try:
            task = await asyncio.to_thread(daemon.client.submit, wish)
        except Exception:  # noqa: BLE001 - the daemon may be killed in the midst of anything
            return
        promised.add(task["task_id"])

    orders: list[asyncio.Task[None]] = []
    for kill in range(6):
        for number in range(4):
            orders.append(asyncio.create_task(order(4 * kill + number)))
            await asyncio.sleep(luck.random() / 20)
        await asyncio.sleep(luck.random() / 4)
        daemon.kill()
        await daemon.restart()
    await asyncio.gather(*orders)
    for task in await resting(daemon):
        # Two kills during its two calls: from here on a person decides.
        await daemon.retry(task["task_id"])
    assert await resting(daemon) == []
    made = set(provider.tasks)
    found = await daemon.until_all(made)
    assert promised <= set(found) | {line["task_id"] for line in daemon.history("submit.recorded")}
    for task_id in made:
        check_film(daemon, provider, task_id)
    for recorded in daemon.history("submit.recorded"):
        assert (await daemon.task(recorded["task_id"]))["task_id"] in made
    assert spent(provider) == PRICE * len(made)
    assert (await daemon.run("check")).code == 0
