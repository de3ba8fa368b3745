"""A callback is read completely or refused, whatever the bytes are."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.rules.address import AddressPolicy, check_link
from daemon.rules.failure import Reason
from daemon.rules.notice import (
    LINK_LIMIT,
    MESSAGE_LIMIT,
    TASK_ID,
    Evidence,
    Notice,
    Unreadable,
    read_callback,
)

SAMPLES = Path(__file__).parent.parent / "samples"
ID = "e7a6b9f3d91c93282a5bb2e610520e7f"
LINK = "https://tempfile.aiquickdraw.com/r/0b1c2d3e4f.mp4"

texts = st.text(st.characters(), max_size=20)
names = st.sampled_from(
    ("code", "msg", "data", "task_id", "taskId", "video_url", "videoUrl", "callbackType", "images")
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.sampled_from((ID, LINK, 0, 200, "200", 500)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | texts, inner, max_size=5),
    max_leaves=12,
)


def write(code: object = 200, link: object = LINK, msg: object = "said", **data: object) -> bytes:
    """Return the body of a callback."""
    inner = {"task_id": ID, "video_url": link, **data}
    return json.dumps({"code": code, "msg": msg, "data": inner}).encode()


def samples() -> list[Path]:
    """Return the folders with a callback in them."""
    return sorted(path.parent for path in SAMPLES.glob("*/*/callback.json"))


@pytest.mark.parametrize("case", samples(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_samples(case: Path) -> None:
    """What the providers are known to send is read as what they mean by it."""
    body = (case / "callback.json").read_bytes()
    expected = json.loads((case / "expected.json").read_text())
    if "unreadable" in expected:
        with pytest.raises(Unreadable, match=expected["unreadable"]) as refused:
            read_callback(body)
        assert refused.value.signed_id == expected["signed_id"]
        return
    notice = read_callback(body)
    assert notice.evidence.name.lower() == expected.pop("evidence")
    for name, value in expected.items():
        assert getattr(notice, name) == value, name


def test_there_are_samples() -> None:
    """The folder of samples was found, with every kind in it."""
    kinds = {path.parent.name for path in samples()}
    assert kinds == {"sunoapi", "apibox", "kie", "odd", "other", "unreadable"}


DOCUMENTED = [
    ("sunoapi", 200, Evidence.SUCCESS, None),
    ("sunoapi", 400, Evidence.FAILURE, Reason.BAD_REQUEST),
    ("sunoapi", 451, Evidence.FAILURE, Reason.SOURCE_AUDIO),
    ("sunoapi", 500, Evidence.FAILURE, Reason.PROVIDER_ERROR),
    ("apibox", 200, Evidence.SUCCESS, None),
    ("apibox", 400, Evidence.FAILURE, Reason.BAD_REQUEST),
    ("apibox", 401, Evidence.FAILURE, Reason.UNAUTHORIZED),
    ("apibox", 429, Evidence.FAILURE, Reason.OUT_OF_CREDITS),
    ("apibox", 500, Evidence.FAILURE, Reason.PROVIDER_ERROR),
    ("kie", 0, Evidence.SUCCESS, None),
    ("kie", 200, Evidence.SUCCESS, None),
    ("kie", 500, Evidence.FAILURE, Reason.PROVIDER_ERROR),
    ("sibling", 501, Evidence.FAILURE, Reason.GENERATE_FAILED),
    ("sibling", 531, Evidence.FAILURE, Reason.GENERATE_FAILED),
    ("sibling", 408, Evidence.NONE, None),
    ("sibling", 413, Evidence.NONE, None),
]


@pytest.mark.parametrize(("kind", "code", "evidence", "reason"), DOCUMENTED)
def test_documented_codes(kind: str, code: int, evidence: Evidence, reason: Reason | None) -> None:
    """Every code that a page names proves what the page says."""
    link = LINK if evidence is Evidence.SUCCESS else None
    notice = read_callback(write(code, link))
    assert (notice.evidence, notice.reason, notice.code) == (evidence, reason, code), kind


@pytest.mark.parametrize("link", [LINK, None])
def test_every_code(link: str | None) -> None:
    """0 and 2xx with a link succeed, five codes and 5xx fail, all others prove nothing."""
    failures = {400, 401, 429, 451, *range(500, 600)}
    successes = {0, *range(200, 300)} if link else set()
    for code in range(1100):
        evidence = read_callback(write(code, link)).evidence
        assert (evidence is Evidence.SUCCESS) == (code in successes), code
        assert (evidence is Evidence.FAILURE) == (code in failures), code
        assert evidence is not Evidence.PENDING


@pytest.mark.parametrize("code", ["200", " 200 ", 200.0])
def test_codes_in_other_clothes(code: object) -> None:
    """A code may be a string of digits, or a float without a fraction."""
    assert read_callback(write(code)).code == 200


@pytest.mark.parametrize(
    "code", [None, True, "OK", "2OO", "٢٠٠", "-200", "", -1, 200.5, 1e300, 10**6, "1234567", [], {}]
)
def test_odd_codes_prove_nothing(code: object) -> None:
    """A code that is none is no reason to lose the callback; it only makes us ask."""
    notice = read_callback(write(code))
    assert (notice.evidence, notice.code, notice.link) == (Evidence.NONE, None, LINK)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(literal: str) -> None:
    """What Python reads as a number beyond JSON is no code."""
    body = write().replace(b'"code": 200', f'"code": {literal}'.encode())
    assert read_callback(body).code is None


@pytest.mark.parametrize(
    "document",
    [
        {"code": 500, "data": {"task_id": ID}},
        {"code": 500, "data": {"taskId": ID}},
        {"code": 500, "task_id": ID},
        {"code": 500, "taskId": ID},
        {"code": 500, "data": {"task_id": None, "taskId": ID}},
        {"code": 500, "data": {"task_id": 17}, "taskId": ID},
        {"code": 500, "data": {"task_id": "not an id"}, "task_id": ID},
        {"code": 500, "data": {"task_id": ID, "taskId": "other"}, "taskId": "third"},
    ],
)
def test_four_places_of_the_id(document: dict[str, object]) -> None:
    """The id is found in all four places; the first usable one counts."""
    assert read_callback(json.dumps(document).encode()).task_id == ID


@pytest.mark.parametrize("data", [None, [], [{"task_id": "inner"}], "text", 7, True])
def test_data_of_another_shape(data: object) -> None:
    """Without an object in `data` the id on top still counts, and there is no link."""
    notice = read_callback(json.dumps({"code": 200, "taskId": ID, "data": data}).encode())
    assert (notice.task_id, notice.link, notice.evidence) == (ID, None, Evidence.NONE)


@pytest.mark.parametrize("data", [None, [], "text", {}])
def test_no_id_anywhere(data: object) -> None:
    """A body without an id is refused, and there is nothing that a signature could cover."""
    with pytest.raises(Unreadable, match="no task id") as refused:
        read_callback(json.dumps({"code": 200, "data": data}).encode())
    assert refused.value.signed_id is None


@pytest.mark.parametrize("task_id", ["a", "_", "0", "a" * 128, "taskId_774b9aa0422f", "a.b:c-d"])
def test_good_ids(task_id: str) -> None:
    """Every id of the documented alphabet and length passes unchanged."""
    assert read_callback(write(task_id=task_id)).task_id == task_id


@pytest.mark.parametrize(
    "task_id",
    ["", "-rf", ".hidden", ":x", "a" * 129, "a b", "a/b", "a\n", "ä", "\u0663", "a\x00", "\ud800"],
)
def test_bad_ids(task_id: str) -> None:
    """Another id is refused, and kept apart for the signature that covers it."""
    with pytest.raises(Unreadable, match="characters that no provider uses") as refused:
        read_callback(write(task_id=task_id))
    assert refused.value.signed_id == task_id


@pytest.mark.parametrize(
    "link",
    [
        None,
        7,
        True,
        [LINK],
        {"url": LINK},
        "",
        "https://",
        "ftp://files.example.com/a.mp4",
        "file:///etc/passwd",
        "//tempfile.aiquickdraw.com/a.mp4",
        "tempfile.aiquickdraw.com/a.mp4",
        f"x{LINK}",
        f"{LINK}\n",
        f"{LINK}\x00",
        f"{LINK}\x7f",
        f"{LINK}\ud800",
        f"\t{LINK}",
        f"{LINK}?{'x' * LINK_LIMIT}",
    ],
)
def test_odd_links_are_none(link: object) -> None:
    """An odd `video_url` is no link and no reason for quarantine."""
    notice = read_callback(write(link=link))
    assert (notice.link, notice.evidence) == (None, Evidence.NONE)


def test_the_second_spelling_serves_where_the_first_is_odd() -> None:
    """`videoUrl` is looked at when `video_url` holds no link."""
    assert read_callback(write(link=None, videoUrl=LINK)).link == LINK


@pytest.mark.parametrize(
    ("link", "kept"),
    [
        ("HTTPS://Host.Example.org/A", "HTTPS://Host.Example.org/A"),
        ("http://host.example.org/a", "http://host.example.org/a"),
        (f"{LINK}?Signature=a%2Fb~c&x='\"<>#part", f"{LINK}?Signature=a%2Fb~c&x='\"<>#part"),
        ("https://h.example.org/音乐.mp4", "https://h.example.org/音乐.mp4"),
        (f" {LINK}  ", LINK),
        ("https://h.example.org/My Song.mp4", "https://h.example.org/My%20Song.mp4"),
    ],
)
def test_links_stay_as_they_are(link: str, kept: str) -> None:
    """A link passes byte for byte, for tidying breaks signatures; only raw spaces are escaped."""
    assert read_callback(write(link=link)).link == kept


@pytest.mark.parametrize("length", [LINK_LIMIT, LINK_LIMIT + 1])
def test_no_link_is_kept_that_cannot_be_dialled(length: int) -> None:
    """A link is kept up to the very length that the address rules dial."""
    link = f"https://files.aiquickdraw.com/{' ' * 10}".ljust(length - 20, "x")
    kept = read_callback(write(link=link)).link
    assert (kept is not None) == (length == LINK_LIMIT)
    if kept is not None:
        check_link(kept, AddressPolicy())


@pytest.mark.parametrize("msg", [None, 7, [], {"en": "text"}])
def test_odd_messages_are_empty(msg: object) -> None:
    """An odd `msg` is empty and no reason for quarantine."""
    assert read_callback(write(msg=msg)).message == ""


def test_messages_are_cut() -> None:
    """No provider fills our database with text."""
    assert read_callback(write(msg="x" * 5000)).message == "x" * MESSAGE_LIMIT


@given(texts)
@example("before\x00after")
@example("\ud800")
def test_messages_can_be_stored(msg: str) -> None:
    """What is kept of a text is valid UTF-8 without NUL, and as long as it was."""
    message = read_callback(write(msg=msg)).message
    assert "\x00" not in message
    assert len(message.encode().decode()) == len(msg)


def test_a_broken_byte_spoils_its_field_only() -> None:
    """Bytes that are no UTF-8 make a link or an id useless and leave the rest readable."""
    notice = read_callback(write().replace(b"0b1c2d3e4f", b"\xff"))
    assert (notice.task_id, notice.link, notice.message) == (ID, None, "said")
    with pytest.raises(Unreadable, match="characters"):
        read_callback(write().replace(ID.encode(), b"\xff"))


@pytest.mark.parametrize(
    "name",
    [
        "callbackType",
        "audioWavUrl",
        "audio_wav_url",
        "vocal_removal_info",
        "vocal_separation_info",
        "images",
        "instruments",
        "voiceId",
        "resultJson",
    ],
)
def test_other_products(name: str) -> None:
    """The callback of another product is refused, unless it names a video all the same."""
    for document in (
        {"code": 200, "data": {"task_id": ID, name: None}},
        {"code": 200, name: None, "data": {"task_id": ID}},
    ):
        with pytest.raises(Unreadable, match=name) as refused:
            read_callback(json.dumps(document).encode())
        assert refused.value.signed_id == ID
    assert read_callback(write(**{name: "x"})).link == LINK


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"a":' * 50_000)
@example(b"1" * 5_000)
@example(b'"\\ud800"')
@example(b"\x00")
@example(b"\xff\xfe{\x00}\x00")
def test_any_bytes(body: bytes) -> None:
    """Bytes give a notice or `Unreadable`, never another exception."""
    check(body)


@given(values)
def test_any_json(document: object) -> None:
    """JSON with the names of the protocol in any place gives a notice or `Unreadable`."""
    check(json.dumps(document).encode())


def check(body: bytes) -> None:
    """Read a body; what comes out keeps its promises."""
    try:
        notice = read_callback(body)
    except Unreadable:
        return
    assert isinstance(notice, Notice)
    assert TASK_ID.fullmatch(notice.task_id)
    assert (notice.evidence is Evidence.FAILURE) == (notice.reason is not None)
    assert notice.link is not None or notice.evidence is not Evidence.SUCCESS
    json.dumps([notice.link, notice.message]).encode().decode()
