"""The gateway: a video is recorded before it is asked for, and the answer relayed."""

import json
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from daemon.gates import Gates
from daemon.provider import Reply
from daemon.rules.dialect import Outcome
from daemon.rules.lifecycle import State
from daemon.rules.submission import Decision, Fate, Next, Receipt, Wish
from daemon.rules.task import Task
from daemon.store import Store, StoreFailed
from tests.stations.desk import (
    NAMED,
    TAKEN,
    TRACK,
    Now,
    Open,
    Plant,
    Submitted,
    make_desks,
    reply,
    say,
)


@pytest.fixture
def open_desk(store: Store, gates: Gates, now: Now, plant: Plant) -> Open:
    """Open a gateway, as (kind, path of base_url)."""
    return make_desks(store, gates, now, plant)


def answered(task: Task, receipt: Receipt, decision: Decision, said: Reply | None) -> Submitted:
    """Return what the submitter says about a call."""
    return Submitted(task, receipt, said, decision)


async def test_a_wish_is_handed_over_and_the_answer_relayed(open_desk: Open, plant: Plant) -> None:
    """As it came: status, content type, Retry-After and every byte, whatever it says."""
    async with open_desk() as desk:
        task = await plant("t")
        body = b'{ "code":455, "msg":"maintenance" }\n'
        desk.outcome = answered(task, TAKEN, NAMED, reply(body, 503, 12.2))
        given = {**TRACK, "callBackUrl": "http://127.0.0.1:1/cb", "author": "A", "domainName": "D"}
        sent = await desk.ask("POST", "/api/v1/mp4/generate", json.dumps(given).encode())
        status, headers, answer = sent
        assert (status, answer) == (503, body)
        assert headers["Content-Type"] == "application/json;charset=UTF-8"
        assert headers["Retry-After"] == "13"
        wish = Wish(
            music_task_id="music",
            audio_id="audio",
            author="A",
            domain_name="D",
            application_url="http://127.0.0.1:1/cb",
        )
        assert desk.wishes == [(wish, "gateway", None, False)]
        assert desk.upstream.requests == []


@pytest.mark.parametrize(
    "path",
    [
        *("/api/v1/mp4/generate/", "/api/v1/mp4//generate", "/api/v1/mp4/gener%61te?x=1"),
        *("/api/v1/mp4/generate;a=b", "/api/v1/mp4%2Fgenerate", "/api/v1/mp4%5cgenerate"),
    ],
)
async def test_no_spelling_of_generate_slips_by(open_desk: Open, path: str) -> None:
    """What a lenient server would take for it is recorded as well, or refused."""
    async with open_desk() as desk:
        desk.outcome = say(desk, reply())
        status, _, _ = await desk.ask("POST", path, json.dumps(TRACK).encode())
        assert status == 200
        assert len(desk.wishes) == 1
        assert desk.upstream.requests == []


@pytest.mark.parametrize("kind", ["sunoapi", "kie"])
async def test_exists_already_after_a_doubt_is_the_first_calls_success(
    open_desk: Open, kind: str
) -> None:
    """The application asked once, so it hears that once; without a doubt it was asked twice."""
    refusal = b'{"code":409,"msg":"Mp4 record already exists","data":{"taskId":"video"}}'
    async with open_desk(kind) as desk:
        for doubts, task_id, expected in (
            (1, "video", {"code": 200, "msg": "success", "data": {"taskId": "video"}}),
            (0, "video", json.loads(refusal)),
            (1, None, json.loads(refusal)),
        ):
            desk.outcome = say(desk, reply(refusal), fate=Fate.EXISTED, task_id=task_id)
            desk.outcome.decision = Decision(next=Next.NAME, doubts=doubts)
            status, _, answer = await desk.generate(TRACK)
            assert (status, answer) == (200, expected)
        desk.outcome = say(desk, reply(b'{"code":200}'))
        desk.outcome.decision = Decision(next=Next.NAME, doubts=1)
        assert (await desk.generate(TRACK))[2] == {"code": 200}


@pytest.mark.parametrize(("kind", "code"), [("sunoapi", 400), ("apibox", 400), ("kie", 422)])
async def test_a_wrong_body_is_refused_as_the_provider_would(
    open_desk: Open, kind: str, code: int
) -> None:
    """Nothing is recorded and nothing sent for it."""
    async with open_desk(kind) as desk:
        for body, expected, words in (
            (b"", 400, "JSON"),
            ([], code, "object"),
            ({"audioId": "a"}, code, "taskId"),
            ({**TRACK, "callBackUrl": "ftp://x"}, code, "callBackUrl"),
            ({**TRACK, "author": "a" * 51}, code, "author"),
        ):
            status, headers, answer = await desk.generate(body)
            assert (status, answer["code"], answer["data"]) == (200, expected, None)
            assert words in answer["msg"]
            assert headers["Content-Type"].startswith("application/json")
        assert desk.wishes == []
        assert desk.upstream.requests == []


async def test_a_foreign_field_is_said_once(open_desk: Open) -> None:
    """And never for more names than a log can bear."""
    async with open_desk() as desk:
        desk.outcome = say(desk, reply())
        with capture_logs() as lines:
            for _ in range(3):
                await desk.generate({**TRACK, "callbackUrl": "x", "a" * 100: 1})
            await desk.generate({**TRACK, **{f"f{number}": 1 for number in range(500)}})
        dropped = [line for line in lines if line["event"] == "gateway.field_dropped"]
        assert len(dropped) == 100
        assert [line["field"] for line in dropped[:2]] == ["a" * 64, "callbackUrl"]
        assert {line["log_level"] for line in dropped} == {"warning"}
        assert len(desk.wishes) == 4


UNREACHED = Receipt(fate=Fate.DEFERRED, outcome=Outcome.TROUBLE, message="cannot be connected")
UNKNOWN = Receipt(fate=Fate.UNKNOWN, outcome=Outcome.TROUBLE, message="went silent")
FAILED = Decision(next=Next.FAIL, doubts=0)
OPEN = Decision(next=Next.LEAVE_OPEN, doubts=2)


@pytest.mark.parametrize(
    ("state", "receipt", "decision", "words"),
    [
        (State.FAILED, None, None, "Nothing was sent: the provider did not answer in time"),
        (State.EXPECTED, None, None, "It may have been accepted"),
        (State.FAILED, UNREACHED, FAILED, "Nothing was sent: cannot be connected"),
        (State.EXPECTED, UNREACHED, replace(FAILED, doubts=1), "It may have been accepted"),
        (State.EXPECTED, UNKNOWN, OPEN, "It may have been accepted, and is looked after: went"),
        (State.EXPECTED, UNKNOWN, replace(OPEN, doubts=0), "It may have been accepted"),
    ],
)
async def test_silence_is_explained(
    open_desk: Open,
    plant: Plant,
    state: State,
    receipt: Receipt | None,
    decision: Decision | None,
    words: str,
) -> None:
    """Whoever pays has to know whether to ask again."""
    async with open_desk() as desk:
        desk.outcome = Submitted(await plant("t", state), receipt, None, decision)
        status, headers, answer = await desk.generate(TRACK)
        assert (status, answer["code"], answer["data"]) == (503, 503, None)
        assert words in answer["msg"]
        # Nobody is asked to repeat what may have been paid for.
        assert ("Retry-After" in headers) == words.startswith("Nothing")


@pytest.mark.parametrize(
    ("decision", "status"),
    [
        (Decision(next=Next.LEAVE_OPEN, doubts=1), 503),
        (Decision(next=Next.RESEND, doubts=1, send_at=1), 503),
        (Decision(next=Next.LEAVE_OPEN, doubts=0), 200),
        (Decision(next=Next.FAIL, doubts=2), 200),
    ],
)
async def test_a_doubt_that_stays_is_said(open_desk: Open, decision: Decision, status: int) -> None:
    """The last answer alone would hide that an earlier call may have been accepted."""
    async with open_desk("kie") as desk:
        said = reply(b'{"code":422,"msg":"Mp4 record already exists","data":null}')
        desk.outcome = say(desk, said, fate=Fate.EXISTED, task_id=None, message="exists")
        desk.outcome.decision = decision
        answered_with, _, answer = await desk.generate(TRACK)
        assert answered_with == status
        told = "It may have been accepted, and is looked after: exists."
        assert answer["msg"] == (told if status == 503 else "Mp4 record already exists")


async def test_a_ledger_that_takes_nothing_is_503(open_desk: Open) -> None:
    """Nothing was sent then, and the answer says so."""
    async with open_desk() as desk:
        desk.outcome = StoreFailed("the disk is full")
        status, headers, answer = await desk.generate(TRACK)
        assert (status, answer["code"]) == (503, 503)
        assert "Nothing was sent" in answer["msg"]
        assert "the disk is full" in answer["msg"]
        assert headers["Retry-After"] == "30"


async def test_without_a_key_nothing_is_asked(open_desk: Open) -> None:
    """The answer names the setting that is missing."""
    async with open_desk() as desk:
        desk.key = None
        for method, path in (("POST", "mp4/generate"), ("GET", "generate/credit")):
            status, _, answer = await desk.ask(method, f"/api/v1/{path}", b"{}")
            assert status == 503
            assert json.loads(answer)["code"] == 503
            assert "provider.api_key" in json.loads(answer)["msg"]
        assert desk.upstream.requests == []
        assert desk.wishes == []
