"""No secret and no signed query is ever read in any output."""

import json
import time
from collections.abc import Callable
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.redaction import MASK, cut_secret, escape_control, order_secrets, redact

SECRETS = order_secrets(["token-0123456789", "token-0123456789-long", "api-key", "schlüssel"])


def read(value: object) -> str:
    """Return what of a value would be printed, masked."""
    return str(redact(value, SECRETS))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda secret: secret,
        lambda secret: f"POST /video-callback/{secret} HTTP/1.1",
        lambda secret: f"{secret}{secret}",
        lambda secret: ["x", {"deep": (secret,)}],
        lambda secret: {secret: 1},
        lambda secret: {("key", secret): 1},
        lambda secret: {secret},
        lambda secret: secret.encode(),
        lambda secret: b"\xff" + secret.encode(),
        lambda secret: PurePosixPath("/srv") / secret,
        lambda secret: ValueError(f"no {secret}"),
        lambda secret: [[[[secret]]]],
    ],
)
def test_secrets_are_masked_everywhere(secret: str, wrap: Callable[[str], object]) -> None:
    """In texts, bytes, keys, nested values and whatever else can be printed."""
    printed = read(wrap(secret))
    assert MASK in printed
    assert not any(known in printed for known in SECRETS)


def test_a_secret_within_another() -> None:
    """The longer one goes first, so that nothing of it stays behind."""
    assert read("token-0123456789-long!") == f"{MASK}!"
    assert redact("abcd", order_secrets(["b", "bc", "abc"])) == f"{MASK}d"


def test_no_empty_secret() -> None:
    """An empty secret is none: it would stand between all letters."""
    assert order_secrets(["", "b", "", "b"]) == ("b",)
    assert redact("abc", order_secrets([""])) == "abc"


@given(st.lists(st.text(min_size=1, max_size=6), max_size=6), st.text(max_size=30))
def test_any_secrets(secrets: list[str], text: str) -> None:
    """Whatever the secrets are, none of them stays readable."""
    masked = str(redact(" ".join([text, *secrets]), order_secrets(secrets)))
    for secret in secrets:
        if not any(letter in MASK + " " for letter in secret):
            assert secret not in masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://h.example.org/a.mp4?Signature=x", f"https://h.example.org/a.mp4?{MASK}"),
        ("HTTP://H/a?b", f"HTTP://H/a?{MASK}"),
        ("ftp://h/a?b", f"ftp://h/a?{MASK}"),
        ("got https://h/a?s=1&t=2 and more", f"got https://h/a?{MASK} and more"),
        ("'https://h/a?s=1', next", f"'https://h/a?{MASK}', next"),
        ("<https://h/a?s=1>", f"<https://h/a?{MASK}>"),
        ("https://h/a?s=1?t=2#part", f"https://h/a?{MASK}"),
        ("https://h/My Song.mp4?Signature=x", f"https://h/My Song.mp4?{MASK}"),
        ("https://a/?s=1 https://b/?s=2", f"https://a/?{MASK} https://b/?{MASK}"),
        ("https://h/a?", f"https://h/a?{MASK}"),
        ("https://h/a.mp4", "https://h/a.mp4"),
        ("https://h/a#part", "https://h/a#part"),
        ("what? no link", "what? no link"),
        ("see https://h/a\nwhat? no link", "see https://h/a\nwhat? no link"),
    ],
)
def test_links_lose_their_query(text: str, masked: str) -> None:
    """The query is where file hosts put their signatures; the rest stays readable."""
    assert redact(text, ()) == masked
    assert redact({"deep": [text, (text,)]}, ()) == {"deep": [masked, (masked,)]}


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "text", "", [], {}, ["a", 1], {"a": None}])
def test_what_holds_no_secret_stays(value: object) -> None:
    """Everything else is logged as it was."""
    assert redact(value, SECRETS) == value


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=9,
)


@given(values)
def test_json_stays_json(value: object) -> None:
    """What could be written as a line of the log still can, in the same shape."""
    assert json.loads(json.dumps(redact(value, ()))) == json.loads(json.dumps(value))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, 音乐 ä", "plain text, 音乐 ä"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202egpm.4pm", "\\u202egpm.4pm"),
        ("\u061c\u200b\u200f\u2028\u2066\ufeff", "\\u061c\\u200b\\u200f\\u2028\\u2066\\ufeff"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    """A terminal is never steered by text from outside."""
    assert escape_control(text) == shown


@given(st.text(st.characters()))
def test_whatever_is_shown_is_harmless(text: str) -> None:
    """Nothing stays that moves a cursor, turns the direction, or cannot be written."""
    shown = escape_control(text)
    shown.encode()
    assert not any(letter < " " or "\x7f" <= letter <= "\x9f" for letter in shown)


def test_a_link_with_escaped_slashes_loses_its_query_too() -> None:
    """Quarantined JSON may write them so."""
    told = redact(r'{"video_url":"https:\/\/f.example\/a.mp4?X-Amz-Signature=abc"}', ())
    assert told == r'{"video_url":"https:\/\/f.example\/a.mp4?***"}'


def test_a_row_of_schemes_takes_no_longer_than_other_text() -> None:
    """Read to the row's end from each scheme, 64 KiB of them would take a processor for seconds."""
    row = "http://" * 9400
    began = time.process_time()
    assert redact(row, ()) == row
    assert redact(f"{row}?secret=1 http://b.example/?secret=2", ()) == (
        f"{row}?*** http://b.example/?***"
    )
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the key is sentinel-of-the", "the key is ***"),
        ("sentinel-", "***"),
        ("sentine", "sentine"),
        ("sentinel-of-the-key is not at the end", "sentinel-of-the-key is not at the end"),
        ("", ""),
    ],
)
def test_the_beginning_of_a_secret_at_the_end_is_one_too(text: str, shown: str) -> None:
    """Texts are cut before they are kept, and a whole secret is looked for in vain then."""
    assert cut_secret(text, ("sentinel-of-the-key-of-this-test",)) == shown
