"""What the application behind the gateway may ask for, is answered and is told."""

import json
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.outgoing import (
    GIVE_UP_MS,
    RESEND_FIRST_MS,
    RESEND_LIMIT_MS,
    Unfit,
    application_policy,
    envelope,
    find_host,
    plan_resend,
    read_path,
    read_wish,
    write_news,
)
from daemon.rules.submission import Wish

POLICY = application_policy([ip_network("10.1.0.0/16")])
TRACK: dict[str, Any] = {"taskId": "music", "audioId": "audio"}


def read(kind: str = "sunoapi", **fields: object) -> Wish:
    """Read the body of a track with these further fields."""
    return read_wish(kind, json.dumps(TRACK | fields).encode(), POLICY)[0]


def test_a_wish_is_read_whole() -> None:
    """Every documented field arrives, and the provider is given the same again."""
    wish = read(callBackUrl="https://app.example.com/cb?a=%2f", author="A", domainName="d.example")
    assert wish == Wish(
        music_task_id="music",
        audio_id="audio",
        author="A",
        domain_name="d.example",
        application_url="https://app.example.com/cb?a=%2f",
    )
    assert read() == read(author=None, domainName=None, callBackUrl=None)
    assert read().application_url is None


def test_fields_that_nobody_documented_are_named() -> None:
    """Who reads the wish learns what is lost."""
    body = json.dumps({**TRACK, "callbackUrl": "x", "model": 1}).encode()
    assert read_wish("sunoapi", body, POLICY)[1] == {"callbackUrl", "model"}
    assert read_wish("sunoapi", json.dumps(TRACK).encode(), POLICY)[1] == frozenset()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"taskId": 1' + b"0" * 5_000 + b"}"]
)
@pytest.mark.parametrize("kind", ["sunoapi", "apibox", "kie"])
def test_what_is_no_json_is_400_everywhere(kind: str, body: bytes) -> None:
    """All providers say 400 for it."""
    with pytest.raises(Unfit, match="JSON") as unfit:
        read_wish(kind, body, POLICY)
    assert unfit.value.code == 400


WRONG: dict[str, object] = {
    "taskId": ("", " ", None, 1, "a" * 129, "é", "a\n", ["a"]),
    "audioId": ("", "  ", None, {}, "a" * 129, "\x7f"),
    "author": ("a" * 51, 1, "\ud800", "\x00", []),
    "domainName": ("é" * 51, False, "\udfff"),
    "callBackUrl": (
        *("", "ftp://app.example.com/", "app.example.com", 1, "https://", "https://u:p@a.example/"),
        *("http://10.2.0.1/cb", "http://192.168.1.1/cb", "https://8.8.8.8/cb"),
        "https://a.example/" + "a" * 2048,
    ),
}


@pytest.mark.parametrize(("kind", "code"), [("sunoapi", 400), ("apibox", 400), ("kie", 422)])
def test_a_wrong_field_is_named_in_the_providers_code(kind: str, code: int) -> None:
    """The message names the field, so that a person can mend it."""
    for name, values in WRONG.items():
        for value in values:  # type: ignore[attr-defined]
            with pytest.raises(Unfit, match=name) as unfit:
                read(kind, **{name: value})
            assert unfit.value.code == code, (name, value)
    with pytest.raises(Unfit, match="object") as unfit:
        read_wish(kind, b"[]", POLICY)
    assert unfit.value.code == code


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9999/cb",
        "http://127.9.9.9/",
        "http://[::1]:80/cb",
        "HTTP://10.1.2.3/cb",
        "https://app.example.com/two words?q=%zz#f",
        "https://callback.invalid/none",
    ],
)
def test_the_own_application_may_live_on_this_machine(url: str) -> None:
    """Loopback and the configured networks can be called back, and the rest stays as it came."""
    kept = read(callBackUrl=url).application_url
    assert kept is not None
    assert kept.partition("//")[2] == url.partition("//")[2].replace(" ", "%20")


def test_the_longest_texts_pass() -> None:
    """The limits belong to what is allowed."""
    wish = read(taskId="~" * 128, author="é" * 50, domainName="")
    assert (wish.music_task_id, wish.author, wish.domain_name) == ("~" * 128, "é" * 50, "")


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/api/v1/mp4/generate", ("api", "v1", "mp4", "generate")),
        ("/api/v1//mp4/generate/", ("api", "v1", "mp4", "generate")),
        ("/api/v1/mp4%2Fgenerate;v=1", ("api", "v1", "mp4", "generate")),
        ("/api/v1/%2567enerate", ("api", "v1", "generate")),
        ("/api/v1/a..b/...", ("api", "v1", "a..b", "...")),
        ("/api/v1/%ff", ("api", "v1", "\udcff")),
    ],
)
def test_a_path_is_read_as_a_server_may_read_it(path: str, segments: tuple[str, ...]) -> None:
    """Other spellings of one place are one place."""
    assert read_path(path) == segments


@pytest.mark.parametrize(
    "tail",
    [
        *("..", ".", "../x", "a/../../x", "%2e%2e/x", "%2E./x", ".%2e", "a%2f..%2fx"),
        *("..\\x", "a\\..\\x", "a%5c..%5cx", "%252e%252e/x", "..;/x", "..;a=b/x", ".;/x"),
    ],
)
def test_no_path_leaves_the_api(tail: str) -> None:
    """A dot segment is found in every spelling."""
    assert read_path(f"/api/v1/{tail}") is None


def test_an_answer_has_the_providers_shape() -> None:
    """Code, msg and data, and data is null where there is none."""
    assert json.loads(envelope(503, "é\ud800")) == {"code": 503, "msg": "é\ud800", "data": None}


@pytest.mark.parametrize("type_", ["task.stored", "task.done"])
def test_a_stored_film_is_told_with_its_place(type_: str) -> None:
    """The provider's link, and where the file is and what it must hash to."""
    body = write_news(type_, "t", reason="x", link="https://f/a", path="/v/a", sha256="00")
    data = {"task_id": "t", "video_url": "https://f/a", "path": "/v/a", "sha256": "00"}
    assert json.loads(body) == {"code": 200, "msg": "success", "data": data}


@pytest.mark.parametrize(
    ("type_", "reason", "message"),
    [
        ("task.failed", "generate_failed", "generate_failed"),
        ("task.lost", "deadline", "deadline"),
        ("task.lost", None, "lost"),
    ],
)
def test_a_failure_is_told_without_a_link(type_: str, reason: str | None, message: str) -> None:
    """An old link of a film that cannot be had is not handed on."""
    body = write_news(type_, "t", reason=reason, link="https://f/a", path="/v/a", sha256="0")
    data = {"task_id": "t", "video_url": None}
    assert json.loads(body) == {"code": 500, "msg": message, "data": data}


def test_a_message_is_sent_again_later_and_later() -> None:
    """From 5 seconds, doubling to an hour, with luck."""
    pauses = [plan_resend(0, tries, 0, 0.5) for tries in (1, 2, 3, 10, 11, 99)]
    ceilings = [RESEND_FIRST_MS << doubling for doubling in (0, 1, 2, 9)]
    assert pauses == [ms // 2 for ms in (*ceilings, RESEND_LIMIT_MS, RESEND_LIMIT_MS)]


@given(st.integers(1, 200), st.integers(0, 2 * GIVE_UP_MS), st.floats(0, 1, exclude_max=True))
def test_the_last_try_is_three_days_after_the_first(tries: int, age: int, luck: float) -> None:
    """Never later than that, never before now, and never again after it."""
    assert plan_resend(0, tries, GIVE_UP_MS - 1, luck) == GIVE_UP_MS
    assert plan_resend(0, tries, GIVE_UP_MS, luck) is None
    due_at = plan_resend(1_000, tries, 1_000 + age, luck)
    if age >= GIVE_UP_MS:
        assert due_at is None
    else:
        assert due_at is not None
        assert 1_000 + age < due_at <= 1_000 + GIVE_UP_MS


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("https://a.example:8443/cb/1?x=/", "https://a.example:8443/"),
        ("http://[::1]/", "http://[::1]/"),
        ("http://a.example", "http://a.example"),
        ("odd", "odd"),
    ],
)
def test_a_receiver_is_known_by_scheme_host_and_port(target: str, host: str) -> None:
    """An address for each order is still one receiver."""
    assert find_host(target) == host
