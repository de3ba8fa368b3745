"""What became of a request for a video, for every answer that a provider may give."""

import json
from dataclasses import replace
from typing import Any

import pytest

from daemon.rules.dialect import DIALECTS, Outcome
from daemon.rules.failure import Reason
from daemon.rules.submission import (
    NOWHERE,
    RESEND_FIRST_MS,
    RESEND_LIMIT_MS,
    Decision,
    Fate,
    Intent,
    Next,
    Receipt,
    Wish,
    judge_receipt,
    read_receipt,
)
from tests.rules.tasks import NOW

TAKEN, EXISTED, REFUSED = Fate.TAKEN, Fate.EXISTED, Fate.REFUSED
DEFERRED, UNKNOWN = Fate.DEFERRED, Fate.UNKNOWN
ANSWERED, ODD, TROUBLE = Outcome.ANSWERED, Outcome.ODD, Outcome.TROUBLE
KEY, CREDITS, RATE = Outcome.KEY, Outcome.CREDITS, Outcome.RATE
PAUSED = Outcome.MAINTENANCE

INTENT = Intent(
    id=1,
    task=7,
    local_id="submit-01",
    music_task_id="music",
    audio_id="audio",
    author=None,
    domain_name=None,
    application_url=None,
    send_at=None,
    calling=1,
    doubts=0,
    unheard=0,
    tries=1,
    created_at=NOW,
    settled_at=None,
)


def tell(code: object, message: object = "said", **more: object) -> bytes:
    """Return an envelope, with `data` null where it is not given."""
    return json.dumps({"code": code, "msg": message, "data": None, **more}).encode()


def test_a_wish_becomes_the_body_of_the_call() -> None:
    """The provider's own names; what nobody asked for is not sent, and no application's URL."""
    wish = Wish(music_task_id="m", audio_id="a", application_url="https://app.example.com")
    least = {"taskId": "m", "audioId": "a", "callBackUrl": NOWHERE}
    assert wish.body(NOWHERE) == least
    dressed = replace(wish, author="Ann", domain_name="ann.example.com")
    assert dressed.body(NOWHERE) == least | {"author": "Ann", "domainName": "ann.example.com"}
    assert replace(wish, author="").body(NOWHERE) == least | {"author": ""}


def test_an_intent_knows_what_is_wanted() -> None:
    """A resend after a restart asks for the same as the first call."""
    words = {"author": "Ann", "domain_name": "d", "application_url": "https://app.example.com"}
    wanted = Wish(music_task_id="music", audio_id="audio", **words)
    assert replace(INTENT, **words).wish() == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_taken_request_names_its_task(kind: str) -> None:
    """Whoever spells the id, and whether or not there is a code."""
    for body in (
        tell(200, data={"taskId": "v1"}),
        tell(0, data={"task_id": "v1"}),
        tell("200", data={"taskId": "", "task_id": "v1"}),
        tell(200, data={"taskId": None, "task_id": "v1"}),
        b'{"data": {"taskId": "v1"}}',
        b"\xef\xbb\xbf" + tell(200, data={"taskId": "v1"}),
    ):
        receipt = read_receipt(kind, 200, body)
        assert (receipt.fate, receipt.task_id, receipt.outcome) == (TAKEN, "v1", ANSWERED)
        assert receipt.reason is None


@pytest.mark.parametrize(
    "task_id",
    [7.5, True, "", " ", "a b", "-a", "submit-1", "a" * 129, ["v1"], {"id": "v1"}, "é"],
)
def test_an_odd_id_is_none(task_id: object) -> None:
    """It was taken and is paid for; the id is kept for a person to search for; the API lives."""
    receipt = read_receipt("sunoapi", 200, tell(200, data={"taskId": task_id}))
    assert (receipt.fate, receipt.task_id, receipt.outcome) == (TAKEN, None, ODD)
    assert repr(task_id)[:100] in receipt.message
    duplicate = read_receipt("sunoapi", 200, tell(409, data={"taskId": task_id}))
    assert (duplicate.fate, duplicate.task_id) == (EXISTED, None)


def test_a_number_is_an_id_too() -> None:
    """A provider that counts its tasks is not paid twice for it."""
    assert read_receipt("sunoapi", 200, tell(200, data={"taskId": 12345})).task_id == "12345"
    nothing = read_receipt("sunoapi", 200, tell(200, data={"taskId": None}))
    assert (nothing.fate, nothing.task_id) == (UNKNOWN, None)


# By code: fate, reason, outcome. What a kind does not document is what its siblings mean by it.
Row = tuple[Fate, Reason | None, Outcome]
COMMON: dict[int, Row] = {
    200: (UNKNOWN, None, ODD),
    400: (REFUSED, Reason.BAD_REQUEST, ODD),
    401: (REFUSED, Reason.UNAUTHORIZED, KEY),
    403: (REFUSED, Reason.UNAUTHORIZED, KEY),
    404: (DEFERRED, None, ODD),
    408: (UNKNOWN, Reason.PROVIDER_ERROR, ODD),
    409: (EXISTED, None, ANSWERED),
    413: (REFUSED, Reason.BAD_REQUEST, ODD),
    418: (REFUSED, Reason.PROVIDER_ERROR, ODD),
    422: (REFUSED, Reason.BAD_REQUEST, ODD),
    430: (DEFERRED, None, RATE),
    451: (REFUSED, Reason.SOURCE_AUDIO, ODD),
    455: (DEFERRED, None, PAUSED),
    500: (UNKNOWN, Reason.PROVIDER_ERROR, TROUBLE),
    501: (REFUSED, Reason.GENERATE_FAILED, ODD),
    505: (REFUSED, Reason.PROVIDER_ERROR, ODD),
    531: (REFUSED, Reason.GENERATE_FAILED, ODD),
    599: (UNKNOWN, Reason.PROVIDER_ERROR, TROUBLE),
    100: (UNKNOWN, None, ODD),
}
SUNOAPI = {
    402: (REFUSED, Reason.PROVIDER_ERROR, ODD),
    405: (DEFERRED, None, RATE),
    429: (REFUSED, Reason.OUT_OF_CREDITS, CREDITS),
}
KIE = {
    402: (REFUSED, Reason.OUT_OF_CREDITS, CREDITS),
    405: (REFUSED, Reason.PROVIDER_ERROR, ODD),
    429: (DEFERRED, None, RATE),
}
TABLES: dict[str, dict[int, Row]] = {
    "sunoapi": COMMON | SUNOAPI,
    "apibox": COMMON | SUNOAPI,
    "kie": COMMON | KIE,
}


@pytest.mark.parametrize(
    ("kind", "code"), [(kind, code) for kind, table in TABLES.items() for code in table]
)
def test_every_code_of_the_tables(kind: str, code: int) -> None:
    """The code in the body decides, as a number or as a text, whatever the HTTP status is."""
    fate, reason, outcome = TABLES[kind][code]
    for spelled in (code, str(code), float(code)):
        found = read_receipt(kind, 200, tell(spelled))
        assert (found.fate, found.reason, found.outcome) == (fate, reason, outcome)
        assert (found.code, found.task_id) == (code, None)
    if code not in {100, 200}:
        by_status = read_receipt(kind, code, tell(code))
        assert (by_status.fate, by_status.reason) == (fate, reason)


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize(
    "message", ["Mp4 record already exists", "ALREADY  EXIST", "it already exists."]
)
def test_a_duplicate_is_told_by_409_or_in_words(kind: str, message: str) -> None:
    """With the id where the provider tells it; the words alone, with another code, say nothing."""
    for code in (409, 422):
        named = read_receipt(kind, 200, tell(code, message, data={"taskId": "v1"}))
        assert (named.fate, named.task_id, named.outcome) == (EXISTED, "v1", ANSWERED)
        for body in (tell(code, message), json.dumps({"code": code, "msg": message}).encode()):
            bare = read_receipt(kind, 200, body)
            assert (bare.fate, bare.task_id, bare.code) == (EXISTED, None, code)
    assert read_receipt(kind, 200, tell(400, message)).fate is REFUSED
    assert read_receipt(kind, 200, tell(422, "it exists: already told")).fate is REFUSED


def test_a_message_cut_within_a_character_hides_no_id() -> None:
    """The id of a duplicate is worth a video, whatever bytes stand beside it."""
    body = tell(409, "MARK", data={"taskId": "v1"}).replace(b"MARK", b"\xe5\xb7")
    assert read_receipt("sunoapi", 200, body).task_id == "v1"
    assert read_receipt("sunoapi", 200, body.replace(b"409", b"400")).task_id == "v1"


@pytest.mark.parametrize(
    ("status", "fate", "reason", "outcome"),
    [
        (200, UNKNOWN, None, TROUBLE),
        (204, UNKNOWN, None, TROUBLE),
        (400, DEFERRED, None, TROUBLE),
        (401, REFUSED, Reason.UNAUTHORIZED, KEY),
        (403, DEFERRED, None, TROUBLE),
        (404, DEFERRED, None, TROUBLE),
        (405, DEFERRED, None, TROUBLE),
        (408, UNKNOWN, None, TROUBLE),
        (413, DEFERRED, None, TROUBLE),
        (429, DEFERRED, None, RATE),
        (451, DEFERRED, None, TROUBLE),
        (500, UNKNOWN, None, TROUBLE),
        (502, UNKNOWN, None, TROUBLE),
        (505, UNKNOWN, None, TROUBLE),
        (524, UNKNOWN, None, TROUBLE),
    ],
)
@pytest.mark.parametrize("kind", DIALECTS)
def test_a_status_without_a_readable_code_may_be_a_proxy(
    kind: str, status: int, fate: Fate, reason: Reason | None, outcome: Outcome
) -> None:
    """It never refuses for good, but for the key; a server error leaves it open what happened."""
    bodies = [
        *(b"<html>", b"", b"[]", b"\xff\xfe", b"[" * 100_000, b"null", b'{"status": 1}'),
        *(b'{"code": null}', b'{"code": "E_BUSY"}', b'{"code": true}'),
        b'{"code":' + b"[" * 900 + b"]" * 900 + b"}",
    ]
    if status not in {200, 204}:
        # A code of success beside an HTTP error is no code of that error.
        bodies += [tell(200), b'{"data": null}']
    for body in bodies:
        found = read_receipt(kind, status, body)
        assert (found.fate, found.reason, found.outcome) == (fate, reason, outcome), body
        assert found.task_id is None


@pytest.mark.parametrize("status", [200, 303, 400, 403, 404, 413, 451, 500, 502])
@pytest.mark.parametrize("code", [200, 400, 404, 408, 422, 500, 501])
@pytest.mark.parametrize("kind", DIALECTS)
def test_whoever_names_a_task_is_believed(kind: str, status: int, code: int) -> None:
    """Asking about it is free; a video that was paid for beside an odd code is not."""
    found = read_receipt(kind, status, tell(code, data={"taskId": "v1"}))
    assert (found.fate, found.task_id, found.reason) == (TAKEN, "v1", None)


@pytest.mark.parametrize("code", [401, 429, 455])
@pytest.mark.parametrize("kind", DIALECTS)
def test_a_refused_account_takes_nothing(kind: str, code: int) -> None:
    """What holds for all calls holds whatever stands beside it."""
    found = read_receipt(kind, 200, tell(code, data={"taskId": "v1"}))
    assert found.task_id is None
    assert found.outcome in {KEY, Outcome.CREDITS, RATE, Outcome.MAINTENANCE}


@pytest.mark.parametrize("data", [None, 5, "v1", [], ["v1"], True])
def test_a_success_without_an_id_is_unknown(data: object) -> None:
    """It may have been taken: so it is asked again, and not failed."""
    found = read_receipt("kie", 200, tell(200, data=data))
    assert (found.fate, found.message) == (UNKNOWN, "the answer names no task")
    bare = read_receipt("kie", 200, b'{"code": 200}')
    assert (bare.fate, bare.outcome) == (UNKNOWN, ODD)


def judge(
    fate: Fate,
    *,
    luck: float = 0.5,
    patient: bool = True,
    task_id: str | None = None,
    **fields: Any,
) -> Decision:
    """Judge a receipt for an intent with these fields; `reason` goes to the receipt."""
    reason = fields.pop("reason", None)
    receipt = Receipt(fate=fate, outcome=ODD, task_id=task_id, reason=reason, message="told")
    return judge_receipt(replace(INTENT, **fields), receipt, NOW, luck, patient=patient)


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("fate", [TAKEN, EXISTED])
def test_an_id_is_taken_over(fate: Fate, *, patient: bool) -> None:
    """Nothing else is looked at: the task is known."""
    found = judge(fate, task_id="v1", patient=patient, doubts=1, unheard=1)
    assert found == Decision(next=Next.NAME, doubts=1, unheard=1)


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("doubts", [0, 1])
def test_a_duplicate_without_an_id_waits_for_a_person(doubts: int, *, patient: bool) -> None:
    """There is a video, paid for: neither failed nor sent a third time."""
    found = judge(EXISTED, patient=patient, doubts=doubts, unheard=doubts)
    assert (found.next, found.send_at, found.reason) == (Next.LEAVE_OPEN, None, None)
    assert (found.doubts, found.unheard) == (doubts, doubts)
    assert found.message == (
        "the provider has a video of this track already, and did not say its id: told"
    )


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("reason", [Reason.BAD_REQUEST, Reason.UNAUTHORIZED, Reason.SOURCE_AUDIO])
def test_a_refusal_fails(reason: Reason, *, patient: bool) -> None:
    """The same request would be refused again."""
    found = judge(REFUSED, reason=reason, patient=patient)
    assert (found.next, found.reason, found.message) == (Next.FAIL, reason, "told")
    assert found.send_at is None


@pytest.mark.parametrize(
    ("reason", "after"),
    [
        (Reason.OUT_OF_CREDITS, Next.RESEND),
        (Reason.UNAUTHORIZED, Next.RESEND),
    ],
)
@pytest.mark.parametrize("patient", [True, False])
def test_the_account_says_nothing_of_a_call_before(
    reason: Reason, after: Next, *, patient: bool
) -> None:
    """The first call may have spent the last credits."""
    for doubts, unheard in ((1, 1), (1, 0), (0, 1)):
        found = judge(
            REFUSED, reason=reason, patient=patient, doubts=doubts, unheard=unheard, tries=2
        )
        assert found.next is after
        assert found.send_at == NOW + RESEND_FIRST_MS
        assert (found.doubts, found.unheard, found.reason) == (doubts, unheard, None)


@pytest.mark.parametrize("patient", [True, False])
def test_a_refusal_says_nothing_of_a_call_that_nobody_heard_of(*, patient: bool) -> None:
    """It may have been accepted all the same: a person looks. A readable error made nothing."""
    found = judge(REFUSED, reason=Reason.BAD_REQUEST, patient=patient, doubts=1, unheard=1)
    assert (found.next, found.reason, found.send_at) == (Next.LEAVE_OPEN, None, None)
    assert found.message == "refused now, but an earlier call may have been accepted: told"
    found = judge(REFUSED, reason=Reason.BAD_REQUEST, patient=patient, doubts=1)
    assert (found.next, found.reason) == (Next.FAIL, Reason.BAD_REQUEST)


@pytest.mark.parametrize("patient", [True, False])
def test_what_was_taken_without_an_id_waits_for_a_person(*, patient: bool) -> None:
    """It is paid for, so it is not sent again."""
    found = judge(TAKEN, patient=patient)
    assert (found.next, found.send_at, found.message) == (Next.LEAVE_OPEN, None, "told")


@pytest.mark.parametrize("tries", [1, 2, 5, 99])
@pytest.mark.parametrize("doubts", [0, 1, 2])
def test_a_deferral_is_sent_again_with_growing_pauses(tries: int, doubts: int) -> None:
    """Nothing happened, so it raises no doubt and never ends."""
    found = judge(DEFERRED, tries=tries, doubts=doubts, luck=0.999)
    assert (found.next, found.doubts, found.message) == (Next.RESEND, doubts, "told")
    ceiling = min(RESEND_LIMIT_MS, RESEND_FIRST_MS << (tries - 1))
    assert found.send_at == NOW + int(ceiling * 0.999)
    assert judge(DEFERRED, tries=tries, luck=0.0).send_at == NOW + RESEND_FIRST_MS // 2


def test_who_hears_that_it_was_deferred_decides_alone() -> None:
    """Unless an earlier call may have been accepted: that one is looked after."""
    found = judge(DEFERRED, patient=False)
    assert (found.next, found.reason, found.message) == (Next.FAIL, Reason.PROVIDER_ERROR, "told")
    for doubts, unheard in ((1, 1), (1, 0), (0, 1)):
        assert judge(DEFERRED, patient=False, doubts=doubts, unheard=unheard).next is Next.RESEND


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("reason", [None, Reason.PROVIDER_ERROR])
def test_the_first_doubt_is_sent_again_at_once(reason: Reason | None, *, patient: bool) -> None:
    """The provider's answer to the second call tells what became of the first."""
    found = judge(UNKNOWN, reason=reason, patient=patient)
    assert (found.next, found.send_at) == (Next.RESEND, NOW)
    assert (found.doubts, found.unheard) == (1, int(reason is None))


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize(
    ("reason", "unheard", "after"),
    [
        (Reason.PROVIDER_ERROR, 0, Next.FAIL),
        (Reason.PROVIDER_ERROR, 1, Next.LEAVE_OPEN),
        (None, 0, Next.LEAVE_OPEN),
        (None, 1, Next.LEAVE_OPEN),
    ],
)
def test_the_second_doubt_ends_the_calls(
    reason: Reason | None, unheard: int, after: Next, *, patient: bool
) -> None:
    """Two readable server errors made no video; after a cut nobody knows, so a person looks."""
    found = judge(UNKNOWN, reason=reason, doubts=1, unheard=unheard, patient=patient)
    assert (found.next, found.doubts, found.send_at) == (after, 2, None)
    if after is Next.FAIL:
        assert (found.reason, found.message) == (reason, "told")
    else:
        assert (found.message, found.reason) == ("told", None)
