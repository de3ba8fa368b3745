"""An answer of the provider is read completely, or is trouble of the call."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.rules.dialect import DIALECTS, Outcome
from daemon.rules.failure import Reason
from daemon.rules.notice import Answer, Evidence, read_answer, read_credits

SAMPLES = Path(__file__).parent.parent / "samples"
ID = "e7a6b9f3d91c93282a5bb2e610520e7f"
LINK = "https://tempfile.aiquickdraw.com/r/0b1c2d3e4f.mp4"
KINDS = ("sunoapi", "apibox", "kie")


def ask(data: object, *, code: object = 200, status: int = 200, kind: str = "kie") -> Answer:
    """Read an answer of record-info that holds `data`."""
    body = json.dumps({"code": code, "msg": "said", "data": data}).encode()
    return read_answer(kind, status, body, ID)


def judge(flag: object, link: object = None) -> tuple[Evidence, Reason | None]:
    """Return what a record with this flag and link proves."""
    answer = ask({"taskId": ID, "successFlag": flag, "response": {"videoUrl": link}})
    assert answer.outcome is Outcome.ANSWERED
    assert answer.notice is not None
    return answer.notice.evidence, answer.notice.reason


def samples(name: str) -> list[Path]:
    """Return the folders that hold this file."""
    return sorted(path.parent for path in SAMPLES.glob(f"*/*/{name}"))


@pytest.mark.parametrize(
    "case", samples("record_info.json"), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_samples_of_record_info(case: Path) -> None:
    """What the providers are known to answer is read as what they mean by it."""
    expected = json.loads((case / "expected.json").read_text())
    body = (case / "record_info.json").read_bytes()
    told = expected["notice"]
    task_id = told["task_id"] if told else ID
    answer = read_answer(case.parent.name, expected["status"], body, task_id)
    assert (answer.outcome.value, answer.code) == (expected["outcome"], expected["code"])
    assert answer.message == expected.get("message", answer.message)
    assert (answer.notice is None) == (told is None)
    if answer.notice is not None:
        assert answer.notice.evidence.name.lower() == told.pop("evidence")
        for name, value in told.items():
            assert getattr(answer.notice, name) == value, name


@pytest.mark.parametrize(
    "case", samples("credits.json"), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_samples_of_credits(case: Path) -> None:
    """The balance is a number, whole or not; without one the answer says why."""
    expected = json.loads((case / "expected.json").read_text())
    body = (case / "credits.json").read_bytes()
    answer = read_credits(case.parent.name, expected["status"], body)
    if isinstance(answer, Answer):
        assert answer.outcome.value == expected["outcome"]
    else:
        assert answer == expected["credits"]


def test_there_are_samples() -> None:
    """The samples of answers were found, for every kind."""
    assert {path.parent.name for path in samples("record_info.json")} == set(KINDS)
    assert len(samples("credits.json")) == 5


# 429 is "insufficient credits" at sunoapi.org and api.box and "too fast" at kie.ai.
SUNOAPI = {401: "key", 405: "rate", 429: "credits", 430: "rate", 455: "maintenance"}
KIE = {401: "key", 402: "credits", 429: "rate", 430: "rate", 455: "maintenance"}


@pytest.mark.parametrize(
    ("kind", "gates"), [("sunoapi", SUNOAPI), ("apibox", SUNOAPI), ("kie", KIE)]
)
def test_every_code_of_every_kind(kind: str, gates: dict[int, str]) -> None:
    """A code shuts the gate that its provider means by it; others are odd, or trouble from 500."""
    for code in range(300, 1000):
        answer = ask(None, code=code, kind=kind)
        expected = {**gates, 403: "key"}.get(code, "odd" if code < 500 else "trouble")
        assert (answer.outcome.value, answer.code) == (expected, code), code
    assert set(DIALECTS) == set(KINDS)


@pytest.mark.parametrize("code", [0, 200, 201, "200", None])
def test_codes_of_success(code: object) -> None:
    """A code of the success class, or none, lets the data speak."""
    answer = ask({"taskId": ID, "successFlag": "PENDING"}, code=code)
    assert answer.outcome is Outcome.ANSWERED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (429, "rate"),
        (401, "key"),
        *((status, "trouble") for status in (200, 301, 400, 402, 403, 404, 405, 430, 455)),
        *((status, "trouble") for status in (500, 502, 503, 504, 522)),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"msg": "said"}'])
def test_status_without_a_code(kind: str, status: int, outcome: str, body: bytes) -> None:
    """Where the body has no code, the HTTP status speaks: 429 and 401 are plain enough."""
    answer = read_answer(kind, status, body, ID)
    assert answer.outcome.value == outcome
    assert answer.message


@pytest.mark.parametrize("status", [301, 400, 404, 410, 500, 503])
@pytest.mark.parametrize("code", [0, 200, None])
@pytest.mark.parametrize(
    "data", [None, {"taskId": ID, "successFlag": "GENERATE_MP4_FAILED"}, {"videoUrl": LINK}]
)
def test_an_http_error_is_no_answer(status: int, code: int | None, data: object) -> None:
    """A 404 ends nothing, whatever its body says, and neither does another HTTP error."""
    answer = ask(data, code=code, status=status)
    assert (answer.outcome, answer.notice) == (Outcome.TROUBLE, None)
    assert str(status) in answer.message or answer.message == "said"


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_is_code_200_with_null(kind: str) -> None:
    """Only `data` null beside code 200 says that there is no such task."""
    assert ask(None, kind=kind).outcome is Outcome.UNKNOWN
    for code in (0, 201, 404, 422):
        assert ask(None, kind=kind, code=code).outcome is Outcome.ODD, code
    assert ask(None, kind=kind, code=None).outcome is Outcome.TROUBLE
    assert ask(None, kind=kind, code=500).outcome is Outcome.TROUBLE
    missing = read_answer(kind, 200, b'{"code": 200, "msg": "success"}', ID)
    assert missing.outcome is Outcome.ODD


@pytest.mark.parametrize("data", [[], [{"taskId": ID}], "text", 7, True])
def test_data_of_another_shape(data: object) -> None:
    """A `data` that is no object is trouble of the call, and proves nothing about the task."""
    assert ask(data).outcome is Outcome.ODD


@pytest.mark.parametrize("name", ["taskId", "task_id"])
def test_an_answer_about_another_task(name: str) -> None:
    """A record of another task never speaks for this one."""
    data = {name: "other", "successFlag": "SUCCESS", "response": {"videoUrl": LINK}}
    assert ask(data).outcome is Outcome.ODD


@pytest.mark.parametrize("named", [None, "", 7, []])
def test_an_answer_that_names_no_task(named: object) -> None:
    """We asked about one task: an answer without an id is about it."""
    answer = ask({"taskId": named, "response": {"videoUrl": LINK}})
    assert answer.notice is not None
    assert (answer.notice.task_id, answer.notice.link) == (ID, LINK)


@pytest.mark.parametrize(
    ("flag", "evidence", "reason"),
    [
        ("PENDING", Evidence.PENDING, None),
        ("PENDING-Waiting for execution", Evidence.PENDING, None),
        ("SUCCESS", Evidence.PENDING, None),
        ("CALLBACK_EXCEPTION", Evidence.PENDING, None),
        ("CREATE_TASK_FAILED", Evidence.FAILURE, Reason.CREATE_FAILED),
        ("create_task_failed", Evidence.FAILURE, Reason.CREATE_FAILED),
        (" GENERATE_MP4_FAILED ", Evidence.FAILURE, Reason.GENERATE_FAILED),
        ("GENERATE_MP4_FAILED-Rendering failed", Evidence.FAILURE, Reason.GENERATE_FAILED),
        ("SOMETHING_NEW_FAILED", Evidence.FAILURE, Reason.PROVIDER_ERROR),
        ("FAILED_BEFORE", Evidence.PENDING, None),
        ("SENSITIVE_WORD_ERROR", Evidence.PENDING, None),
        (3, Evidence.FAILURE, Reason.GENERATE_FAILED),
        ("3", Evidence.FAILURE, Reason.GENERATE_FAILED),
        (0, Evidence.PENDING, None),
        (1, Evidence.PENDING, None),
        (2, Evidence.PENDING, None),
        (-3, Evidence.PENDING, None),
        (True, Evidence.PENDING, None),
        (3.0, Evidence.PENDING, None),
        (None, Evidence.PENDING, None),
        ("", Evidence.PENDING, None),
        ([], Evidence.PENDING, None),
    ],
)
def test_flags(flag: object, evidence: Evidence, reason: Reason | None) -> None:
    """Only the named failures fail a task; an unknown flag means "not final".

    A link means success beside every one of them.
    """
    assert judge(flag) == (evidence, reason)
    assert judge(flag, LINK) == (Evidence.SUCCESS, None)


@pytest.mark.parametrize(
    "data",
    [
        {"response": {"videoUrl": LINK}},
        {"response": {"video_url": LINK}},
        {"response": {"videoUrl": "", "video_url": LINK}},
        {"response": None, "videoUrl": LINK},
        {"response": [], "video_url": LINK},
    ],
)
def test_places_of_the_link(data: dict[str, object]) -> None:
    """The link is found under all the names that were seen."""
    answer = ask(data)
    assert answer.notice is not None
    assert (answer.notice.link, answer.notice.evidence) == (LINK, Evidence.SUCCESS)


@pytest.mark.parametrize("response", [None, [], "text", {}, {"videoUrl": None}])
def test_no_response_is_not_final(response: object) -> None:
    """SUCCESS without a link is a video that cannot be fetched yet, not a failure."""
    answer = ask({"successFlag": "SUCCESS", "response": response})
    assert answer.notice is not None
    assert (answer.notice.evidence, answer.notice.link) == (Evidence.PENDING, None)


def test_status_in_place_of_the_flag() -> None:
    """`status` is what the sibling endpoints call the flag."""
    answer = ask({"status": "GENERATE_MP4_FAILED"})
    assert answer.notice is not None
    assert answer.notice.reason is Reason.GENERATE_FAILED


@pytest.mark.parametrize("error_code", [200, 500, None, "500"])
def test_an_error_code_alone_is_no_failure(error_code: object) -> None:
    """kie.ai sends `errorCode` 200 with success: the flag and the link decide."""
    answer = ask({"successFlag": "SUCCESS", "errorCode": error_code, "videoUrl": LINK})
    assert answer.notice is not None
    assert (answer.notice.evidence, answer.notice.code) == (Evidence.SUCCESS, 200)


@pytest.mark.parametrize(
    ("data", "audio_id"),
    [
        ({"audioId": "track-1", "musicId": "track-2"}, "track-1"),
        ({"musicId": "track-2"}, "track-2"),
        ({"audioId": "../x", "musicId": 7}, None),
        ({}, None),
    ],
)
def test_audio_id(data: dict[str, object], audio_id: str | None) -> None:
    """The track's id is kept where there is a sound one."""
    answer = ask(data)
    assert answer.notice is not None
    assert answer.notice.audio_id == audio_id


@pytest.mark.parametrize(
    ("data", "balance"),
    [("0", 0.0), ("12", 12.0), ("-3", -3.0), ("5916.25", 5916.25), ('{"credits": 7}', 7.0)],
)
def test_balances(data: str, balance: float) -> None:
    """A balance is any number, also nothing or less."""
    assert read_credits("kie", 200, f'{{"code": 200, "data": {data}}}'.encode()) == balance


@pytest.mark.parametrize(
    "data",
    [
        "null",
        "true",
        '"100"',
        "[]",
        "{}",
        '{"credits": null}',
        '{"credits": true}',
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "1e15",
        "9" * 400,
    ],
)
def test_what_is_no_balance(data: str) -> None:
    """Anything else is trouble of the call, also numbers that no account holds."""
    answer = read_credits("kie", 200, f'{{"code": 200, "data": {data}}}'.encode())
    assert isinstance(answer, Answer)
    assert answer.outcome is Outcome.ODD


@given(st.sampled_from(KINDS), st.integers(100, 599), st.binary(max_size=100))
@example("kie", 200, b"[" * 100_000)
@example("kie", 200, b"1" * 5_000)
def test_any_bytes(kind: str, status: int, body: bytes) -> None:
    """Whatever the bytes are, there is an answer."""
    assert read_answer(kind, status, body, ID).outcome in Outcome
    read_credits(kind, status, body)


members = st.sampled_from(
    (
        *("code", "msg", "data", "taskId", "response", "videoUrl", "successFlag", "status"),
        *("errorCode", "errorMessage", "audioId", "credits"),
    )
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9)
)
known = st.sampled_from((ID, LINK, 0, 200, "200", 429, "GENERATE_MP4_FAILED"))


@given(
    st.sampled_from(KINDS),
    st.dictionaries(
        members,
        st.recursive(
            scalars | known,
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(members, inner, max_size=6),
            max_leaves=10,
        ),
    ),
)
def test_any_json(kind: str, document: dict[str, object]) -> None:
    """JSON with the names of the protocol in any place gives an answer that can be stored."""
    body = json.dumps(document).encode()
    answer = read_answer(kind, 200, body, ID)
    assert (answer.notice is not None) == (answer.outcome is Outcome.ANSWERED)
    if answer.notice is not None:
        notice = answer.notice
        assert (notice.evidence is Evidence.SUCCESS) == (notice.link is not None)
        assert (notice.evidence is Evidence.FAILURE) == (notice.reason is not None)
        notice.message.encode()
    answer.message.encode()
    read_credits(kind, 200, body)
