"""S1-11 to S1-13: what DNS answers, which hosts the owner allows, and what a stranger learns."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.outbound import file_session, get_file
from daemon.rules.address import AddressRefused, check_link, next_link
from daemon.rules.failure import Reason, Refused, StepFailed, Trouble, Unreached
from daemon.rules.lifecycle import State, move
from daemon.rules.verdict import judge_failure
from tests.rules.tasks import NOW, TERMS, WANTED, apply
from tests.security.door import STRICT, Door, Names, try_chain
from tests.stories.stage import Stage, success

CDN = "https://cdn.provider-files.com/v.mp4"


@pytest.mark.parametrize("told", [{}, {"*": []}])
async def test_s1_11_a_name_without_an_answer_is_tried_again(
    told: Mapping[str, Sequence[str]],
) -> None:
    """Nothing is dialled, the link is not blamed, and the attempt costs a pause."""
    door, failure = await try_chain([CDN], STRICT, Names(told))
    assert not door.dialled
    assert isinstance(failure, Unreached)
    keeps_on(failure)


async def test_s1_11_a_resolver_that_is_silent_is_left() -> None:
    """The C library's own patience is minutes."""
    names = Names({"*": ["never"]})
    opened = file_session(lambda: STRICT, 0.2, 30, 1, resolver=names)
    with pytest.raises(Unreached) as caught:
        async with asyncio.timeout(5), opened as session, get_file(session, CDN, STRICT, {}):
            pass
    keeps_on(caught.value)


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        ["93.184.215.14", "127.0.0.1"],
        ["::1", "93.184.215.14"],
        ["93.184.215.14", "2606:4700::6810:84e5", "64:ff9b::7f00:1"],
        ["93.184.215.14", "no address"],
    ],
)
async def test_s1_11_one_bad_answer_refuses_the_name_and_no_task_is_burnt(
    answers: list[str],
) -> None:
    """Good answers beside it change nothing; the task stays wanted and is tried again."""
    door, failure = await try_chain([CDN], STRICT, Names({"*": answers}))
    assert not door.dialled
    assert isinstance(failure, AddressRefused)
    keeps_on(failure)


def keeps_on(failure: StepFailed) -> None:
    """Hold that a failure, however often it comes, leaves a task alive, with a next try."""
    task = WANTED
    for _ in range(50):
        verdict = judge_failure(task, failure, NOW, TERMS, 0.5)
        after = (
            State(task.state) if verdict.cause is None else move(State(task.state), verdict.cause)
        )
        assert after in {State.WANTED, State.EXPECTED}
        task = apply(task, verdict)
        task = replace(task, state=State.WANTED, link=WANTED.link)
        due = [at for at in (task.fetch_at, task.ask_at) if at is not None]
        assert due
        assert min(due) < NOW + 86_400_000


async def test_s1_11_the_next_try_asks_again() -> None:
    """A refusal is not remembered: the name may have moved back."""
    names, door = Names({"*": ["10.0.0.1"]}), Door(1, {})
    opened = file_session(lambda: STRICT, 1, 1, 1, resolver=names, open_socket=door.open_socket)
    async with opened as session:
        for answers, kind in ((["10.0.0.1"], Refused), ([], Trouble), (["93.184.215.14"], Trouble)):
            names.answers["*"] = answers
            with pytest.raises(kind):
                async with get_file(session, CDN, STRICT, {}):
                    pass
    assert door.dialled == [("93.184.215.14", 443)]


ALLOWED = replace(STRICT, allowed_hosts=("*.CDN.com", "files.example.org"))


@pytest.mark.parametrize(
    "host",
    [
        *("evilcdn.com", "cdn.com.evil.net", "xcdn.com", "cdn.com", "a.xcdn.com", "a.cdn.com.net"),
        *("cdn.comx", "a.cdn.org", "xfiles.example.org", "a.files.example.org", "example.org"),
        *("a-cdn.com", "a.cdn_com.net", "93.184.215.14", "com"),
    ],
)
async def test_s1_12_a_host_that_is_not_on_the_list_is_not_asked_for(host: str) -> None:
    """Labels are compared, never beginnings or parts; and it holds for every hop."""
    names = Names({"*": ["93.184.215.14"]})
    door, failure = await try_chain([f"https://{host}/v"], ALLOWED, names)
    assert isinstance(failure, AddressRefused)
    assert not names.asked
    assert not door.dialled
    with pytest.raises(AddressRefused):
        next_link(check_link("https://a.cdn.com/", ALLOWED), f"https://{host}/v", ALLOWED)


@pytest.mark.parametrize(
    "host", ["a.cdn.com", "A.B.Cdn.Com", "files.example.org", "FILES.example.org"]
)
async def test_s1_12_a_host_on_the_list_is_dialled(host: str) -> None:
    """In any case, at any depth below the star; where it leads is judged as ever."""
    door, _ = await try_chain([f"https://{host}/v"], ALLOWED, Names({"*": ["93.184.215.14"]}))
    assert door.reached
    door, failure = await try_chain([f"https://{host}/v"], ALLOWED, Names({"*": ["10.0.0.1"]}))
    assert isinstance(failure, AddressRefused)


LINKS = {
    "inner": "https://127.0.0.1/v.mp4?sig=SECRET",
    "local": "https://localhost/v.mp4?sig=SECRET",
    "odd": "https://2130706433/v.mp4?sig=SECRET",
    "port": "https://cdn.provider-files.com:22/v.mp4?sig=SECRET",
    "user": "https://me:SECRET@10.0.0.1/v.mp4?sig=SECRET",
    "plain": "http://10.0.0.1/v.mp4?sig=SECRET#SECRET",
    "file": "file:///etc/passwd?SECRET",
    "list": ["https://127.0.0.1/?SECRET"],
}
"""What a stranger would try, in order to learn what is where."""
TOLD = {"inner": "127.0.0.1", "local": "localhost", "odd": "2130706433", "port": "port 22"}


async def test_s1_13_a_callback_tells_nothing_and_the_owner_is_told_all_but_the_query(
    tmp_path: Path,
) -> None:
    """One answer for every link; the reason stands in the log and in the admin API."""
    async with AsyncExitStack() as stack:
        daemon = await Stage(tmp_path, stack).daemon(
            None,
            provider={"api_key": None},
            callback={"trust": "callback"},
            download={"allow_http": False, "allow_private": []},
        )
        heard = []
        for task_id, link in LINKS.items():
            answered = await daemon.post(success(task_id, link))  # type: ignore[arg-type] # odd on purpose
            gone = {name: value for name, value in answered.headers.items() if name != "Date"}
            heard.append((answered.status, gone, answered.body))
        assert heard == [heard[0]] * len(LINKS)
        for task_id, told in TOLD.items():
            line = await daemon.says("download.failed", task_id=task_id)
            assert (line["reason"], line["level"]) == (Reason.ADDRESS_REFUSED, "warning")
            task = await daemon.get(f"/v1/tasks/{task_id}")
            assert task["reason"] == Reason.ADDRESS_REFUSED
            assert told in line["message"]
            assert told in task["message"]
        for task_id in ("user", "plain"):
            await daemon.says("download.failed", task_id=task_id)
        shown = json.dumps([await daemon.get("/v1/tasks"), daemon.log()])
        again = await daemon.post(success("inner", LINKS["inner"]))  # type: ignore[arg-type] # a text
        assert (again.status, again.body) == (heard[0][0], heard[0][2])
    assert "SECRET" not in shown


async def test_s1_13_a_refused_name_is_told_with_its_address() -> None:
    """Host and address, so that the owner sees who tried what; nothing behind the host."""
    names = Names({"*": ["93.184.215.14", "10.1.2.3"]})
    _, failure = await try_chain([f"{CDN}?sig=SECRET"], STRICT, names)
    assert failure.message == "cdn.provider-files.com: 10.1.2.3 is not a public address"
    names = Names({"*": ["198.44.10.9"]})
    _, failure = await try_chain([f"{CDN}?sig=SECRET"], STRICT, names)
    assert failure.message == "cdn.provider-files.com: 198.44.10.9 is our own address"
