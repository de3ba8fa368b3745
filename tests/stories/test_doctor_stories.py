"""`doctor`: all is well, and every line that can say something else says what to do."""

import asyncio
import json
import time

import pytest
from aiohttp import web

from daemon.rules.filename import name_partial
from tests.stories.doctors import examine, free_port, proxy, public
from tests.stories.harness import TOKEN, run_on_terminal, run_verb
from tests.stories.stage import Stage, failure, success

ALL_WELL = {
    *("listener", "DNS", "connection", "callbacks", "test callback", "wrong token", "plain GET"),
    *("provider", "credits", "overdue", "interpreter", "unit", "configuration", "daemon", "load"),
    *("clock", "videos' disk", "ledger's disk", "permissions", "ledger", "leftovers", "log"),
}


async def test_all_is_well(stage: Stage) -> None:
    """Every check is made, nothing is a problem, and nothing is left behind."""
    daemon = await stage.daemon(await stage.provider(), callback=public(free_port()))
    found = await examine(daemon)
    assert (found.code, found.bad()) == (0, set())
    assert {one["check"] for one in found.all} == ALL_WELL
    assert {one["group"] for one in found.all} == {
        *("network", "server answer", "generation", "download", "machine"),
    }
    # This machine's own address is the only doubt.
    assert [one["check"] for one in found.all if one["verdict"] == "warning"] == ["DNS"]
    assert list((daemon.videos / ".partial").iterdir()) == []
    assert (
        sorted(path.name for path in (daemon.folder / "state").iterdir() if "doctor" in path.name)
        == []
    )
    assert TOKEN not in json.dumps(found.told)


async def test_people_read_it_in_eighty_columns(stage: Stage) -> None:
    """Headings, marks in words, the mend below its line, and a last line that sums it up."""
    daemon = await stage.daemon(await stage.provider(), callback=public(free_port()))
    text = await asyncio.to_thread(run_on_terminal, daemon, "doctor")
    plain = await daemon.run("doctor")
    for heading in ("network", "server answer", "generation", "download", "machine"):
        assert f"\x1b[1m{heading}\x1b[0m" in text
        assert f"\n{heading}\n" in f"\n{plain.output}"
    assert "\x1b" not in plain.output
    assert "  warning     DNS: 127.0.0.1" in plain.output
    assert "\n              -> callback.public_url needs a name" in plain.output
    assert plain.output.splitlines()[-1] == "no problem, 1 warning in 21 checks"
    # A path is not broken, for it is there to be copied.
    long = [line for line in plain.output.splitlines() if len(line) > 80]
    assert all("/" in line.split()[-1] for line in long), long


async def test_two_doctors_at_once_get_the_same(stage: Stage) -> None:
    """One diagnosis is made at a time, and callbacks are answered meanwhile."""
    daemon = await stage.daemon(await stage.provider(), callback=public(free_port()))
    many = asyncio.gather(*(daemon.get("/v1/diagnosis") for _ in range(8)))
    posted = [await daemon.post(failure(f"t{number}")) for number in range(20)]
    seconds = {one["seconds"] for one in await many}
    assert {one.status for one in posted} == {200}
    assert len(seconds) < 8


async def test_a_wrong_key_is_named(stage: Stage) -> None:
    """Exit 4, and where to put the right one."""
    provider = await stage.provider(api_key="another")
    daemon = await stage.daemon(provider, callback=public(free_port()))
    await daemon.says("gate.closed", gate="key")
    found = await examine(daemon)
    assert (found.code, found.bad()) == (4, {"API key"})
    found.problem("API key", "gate key shut", "provider.api_key")
    assert "gate key is shut" in found.of("provider", "not checked")["measured"]


async def test_no_credits_are_named(stage: Stage) -> None:
    """Exit 4; what was paid for is fetched all the same."""
    provider = await stage.provider(credits=0)
    found = await examine(await stage.daemon(provider, callback=public(free_port())))
    assert (found.code, found.bad()) == (4, {"credits"})
    found.problem("credits", "what was paid for is fetched", "buy credits")


async def test_few_credits_are_a_warning(stage: Stage) -> None:
    """Exit 0: it is not too late."""
    provider = await stage.provider(credits=5)
    daemon = await stage.daemon(
        provider, callback=public(free_port()), provider={"credits_low": 20}
    )
    found = await examine(daemon)
    assert found.code == 0
    found.warning("credits", "5 left, below 20", "buy some")


async def test_a_provider_that_is_down_is_named(stage: Stage) -> None:
    """Exit 6: it may pass, and nothing is lost."""
    found = await examine(await stage.daemon(None, callback=public(free_port())))
    assert (found.code, found.bad()) == (6, {"provider"})
    found.problem("provider", "Nothing is lost", "provider.base_url")


async def test_no_key_is_a_warning(stage: Stage) -> None:
    """Promise 2 ends where callbacks end, and that is said."""
    daemon = await stage.daemon(None, callback=public(free_port()), provider={"api_key": None})
    found = await examine(daemon)
    assert (found.code, found.bad()) == (0, set())
    found.warning("API key", "a video whose callback does not arrive is lost", "set it")


@pytest.mark.parametrize(("hours", "verdict"), [(2, "problem"), (-2, "problem"), (0.1, "warning")])
async def test_a_wrong_clock_is_named(stage: Stage, hours: float, verdict: str) -> None:
    """By how much, against the provider's, and how to set it."""

    async def answer(_: web.Request) -> web.StreamResponse:
        at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() - hours * 3600))
        body = '{"code":200,"msg":"success","data":100}'
        return web.Response(text=body, headers={"Date": at}, content_type="application/json")

    async with proxy(answer) as port:
        daemon = await stage.daemon(
            None,
            expect_errors=True,
            callback=public(free_port()),
            provider={"base_url": f"http://127.0.0.1:{port}"},
        )
        found = await examine(daemon)
    told = found.of("clock", verdict)
    assert abs(int(told["measured"].split()[0]) - abs(hours) * 3600) < 5
    assert ("ahead of" if hours > 0 else "behind") in told["measured"]
    assert "timedatectl" in told["mend"]
    assert found.code == (1 if verdict == "problem" else 0)


async def test_a_full_disk_is_named(stage: Stage) -> None:
    """Exit 9; nothing is written to try it out."""
    daemon = await stage.daemon(
        await stage.provider(), callback=public(free_port()), disk={"min_free": "999999G"}
    )
    found = await examine(daemon)
    assert (found.code, found.bad()) == (9, {"videos' disk"})
    found.problem("videos' disk", "below disk.min_free", "make room")
    assert (await daemon.get("/v1/diagnosis"))["videos"]["speed"] is None


async def test_a_folder_that_takes_no_file_is_named(stage: Stage) -> None:
    """Exit 9: a file stands where the folder of partial files was."""
    daemon = await stage.daemon(await stage.provider(), callback=public(free_port()))
    partial = daemon.videos / ".partial"
    partial.rmdir()
    partial.write_text("")
    found = await examine(daemon)
    assert (found.code, found.bad()) == (9, {"videos' disk"})
    found.problem("videos' disk", "writing failed: Not a directory", "give the folder")


async def test_modes_that_are_too_wide_are_named(stage: Stage) -> None:
    """Others could read every callback, and the token."""
    daemon = await stage.daemon(await stage.provider(), callback=public(free_port()))
    ledger = daemon.folder / "state" / "ledger.sqlite3"
    ledger.chmod(0o644)
    found = await examine(daemon)
    assert found.code == 0
    found.warning("permissions", f"{ledger} (0644)", f"chmod 0600 {ledger}")


async def test_leftovers_are_counted_and_stay(stage: Stage) -> None:
    """Partial files of nobody, and callbacks that nobody has seen."""
    daemon = await stage.daemon(await stage.provider(), callback=public(free_port()))
    left = daemon.videos / ".partial" / "of-nobody.part"
    left.write_bytes(b"x" * 2048)
    assert (await daemon.post(b"what is this")).status == 200
    found = await examine(daemon)
    found.warning("leftovers", "1 partial files (2.0K)", "/.partial/")
    assert "of-nobody.part" in found.of("leftovers")["measured"]
    found.warning("quarantine", "1 callbacks", "list --state quarantined")
    assert left.exists()


async def test_a_partial_file_of_a_task_is_no_leftover(stage: Stage) -> None:
    """What a task needs is not offered for removal."""
    daemon = await stage.daemon(None, callback=public(free_port()), provider={"api_key": None})
    await daemon.post(success("t1", "http://127.0.0.1:9/a.mp4"))
    await daemon.until("t1", "wanted")

    (daemon.videos / ".partial" / name_partial("t1")).write_bytes(b"x")
    assert (await examine(daemon)).of("leftovers")["verdict"] == "ok"


async def test_rejected_callbacks_are_told_by_cause(stage: Stage) -> None:
    """How many, when the last one came, and from whom; accepted ones too."""
    settings = public(free_port()) | {"hmac_keys": ["the-key-of-this-story"]}
    daemon = await stage.daemon(await stage.provider(), callback=settings)
    await daemon.post(failure("t1"))
    await daemon.post(b"{}", token="wrong")
    await daemon.post(b"x" * 70_000)
    await daemon.post(b"", method="GET")
    found = await examine(daemon)
    assert found.bad() == {"bad signature"}
    found.problem("bad signature", "1 had no good signature", "callback.hmac_keys")
    found.warning("wrong token", "1 had a wrong token", "suno-videod callback-url")
    found.warning("too large", "64 KiB", "see who sends them")
    assert "1 wrong method" in found.of("strangers")["measured"]
    assert "from 127.0.0.1" in found.of("strangers")["measured"]
    # The tests of the first doctor are no rejected callbacks for the second.
    again = await examine(daemon)
    assert "1 had a wrong token" in again.of("wrong token", "warning")["measured"]
    assert "none in 24 hours" in found.of("callbacks")["measured"]


async def test_accepted_callbacks_are_counted_over_a_restart(stage: Stage) -> None:
    """A polite stop writes the counts."""
    daemon = await stage.daemon(None, callback=public(free_port()))
    await daemon.post(failure("t1"))
    assert await daemon.stop() == 0
    await daemon.restart()
    assert "1 accepted in 24 hours" in (await examine(daemon)).of("callbacks")["measured"]


async def test_without_a_daemon_the_rest_is_looked_at(stage: Stage) -> None:
    """Exit 6, how to start it, and what nobody could check."""
    daemon = await stage.daemon(None, start=False, callback=public(free_port()))
    (daemon.folder / "state").mkdir()
    found = await examine(daemon)
    assert (found.code, found.bad()) == (6, {"daemon", "connection"})
    found.problem("daemon", "nothing answers on", "suno-videod serve")
    found.problem("connection", "Connection refused", "start what is to listen")
    skipped = [one for one in found.all if one["verdict"] == "not checked"]
    assert {"generation", "download", "server answer"} <= {one["group"] for one in skipped}
    assert "free in" in found.of("ledger's disk")["measured"]


async def test_all_mistakes_of_the_configuration_are_lines(stage: Stage) -> None:
    """Exit 3, before anything else."""
    daemon = await stage.daemon(None, start=False, log={"level": "loud", "odd": 1})
    found = await examine(daemon)
    assert found.code == 3
    told = [one for one in found.all if one["check"] == "configuration"]
    assert len(told) == 2
    assert {"log.level" in one["measured"] for one in told} == {True, False}
    assert all("config check" in one["mend"] for one in told)


async def test_a_doubtful_setting_is_a_warning(stage: Stage) -> None:
    """What `config check` warns of stands here too."""
    settings = public(free_port()) | {"tokens": ["short"]}
    found = await examine(await stage.daemon(await stage.provider(), callback=settings))
    found.warning("configuration", "can be guessed", "reload")


async def test_the_last_errors_are_told_without_secrets(stage: Stage) -> None:
    """Masked as the log is."""
    daemon = await stage.daemon(await stage.provider(), callback=public(free_port()))
    daemon.expect_errors = True
    daemon.config.write_text(f'[callback]\ntokens = "{TOKEN}"\nodd = 1\n')
    daemon.process.send_signal(1)
    await daemon.says("config.rejected")
    told = await daemon.get("/v1/diagnosis")
    assert [one["event"] for one in told["trouble"]] == ["config.rejected"]
    assert TOKEN not in json.dumps(told)


async def test_one_task_from_its_record_to_its_deadline(stage: Stage) -> None:
    """A finished one, one that failed, one that nobody knows."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    made = provider.add_task()
    await daemon.track(made, "nobodys")
    await daemon.until(made)
    good = await examine(daemon, made)
    assert (good.code, good.bad()) == (0, set())
    assert "it has the video" in good.of("provider")["measured"]
    assert f"{made} is done" in good.of("ledger")["measured"]
    assert f"video_{made}.mp4" in good.of("file")["measured"]
    unknown = await examine(daemon, "nobodys")
    assert unknown.code == 5
    unknown.problem("provider", "it knows no such task", "forget nobodys")
    assert "deletes it" in unknown.of("deadline")["measured"]
    ended = await daemon.run("doctor", "never-heard-of")
    assert (ended.code, ended.output) == (5, "")
    assert "never-heard-of" in ended.errors


async def test_the_song_of_a_task_is_looked_at(stage: Stage) -> None:
    """Whether it belongs to the music task, and how long the words on the film are."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    options = ("--task-id", "music", "--audio-id", "track", "--author", "Ann", "--json")
    ended = await daemon.run("submit", *options)
    task_id = json.loads(ended.output)["task_id"]
    found = await examine(daemon, task_id)
    assert "belongs to music task music" in found.of("song")["measured"]
    assert "3 of 50" in found.of("author")["measured"]


async def test_doctor_ends_in_time_when_the_daemon_hangs(stage: Stage) -> None:
    """A stopped process is said to hang, and everything else is looked at."""
    # At an address that nobody serves: else each of its questions has its own time as well.
    nowhere = f"http://127.0.0.1:{free_port()}/video-callback"
    daemon = await stage.daemon(await stage.provider(), callback={"public_url": nowhere})
    daemon.process.send_signal(19)
    began = time.monotonic()
    try:
        found = await examine(daemon)
    finally:
        daemon.process.send_signal(18)
    assert time.monotonic() - began < 60
    assert found.code == 6
    found.problem("daemon", "the daemon hangs", "journalctl")


def test_help_tells_the_exit_codes() -> None:
    """A script can rely on them."""
    told = run_verb("doctor", "--help").output
    assert "3 the configuration" in told
    assert "Warnings alone are 0" in told
