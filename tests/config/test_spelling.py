"""Each key takes what it says, and tells who wrote something else what it takes."""

import re
import tomllib
from datetime import date

import pytest

from daemon.config.sections import KEYS
from daemon.config.spelling import quote

NO_NUMBER = "expected a number above 0 and at most 1000"
NO_DURATION = 'expected a duration above 0, such as "30s", "15m" or "14d"'
NO_SIZE = 'expected a size such as "64K" or "2G"'
NO_COUNT = "expected a whole number from 1 to 256"
NO_HEADER = "expected ASCII without blanks, for it is sent in a header"


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("state_dir", "", "expected a path that is not empty"),
        ("state_dir", {}, 'expected a string such as "...", not a table'),
        ("disk.min_free", {"a": 1}, f"{NO_SIZE}, not a table"),
        ("disk.min_free", True, f"{NO_SIZE}, not true or false"),
        ("disk.min_free", 1.5, f"{NO_SIZE}, not a number"),
        ("disk.min_free", "1.5G", 'expected a size such as "64K", "8M" or "2G", or a number'),
        ("download.max_size", 0, "expected a size of at least 1 bytes"),
        ("download.concurrency", True, f"{NO_COUNT}, not true or false"),
        ("download.concurrency", 4.0, f"{NO_COUNT}, not a number"),
        ("download.concurrency", 0, f"{NO_COUNT}, not 0"),
        ("download.concurrency", 257, f"{NO_COUNT}, not 257"),
        ("download.allow_http", 1, "expected true or false, not a number"),
        ("download.allowed_hosts", "x.example", 'expected a list such as ["..."], not a string'),
        ("download.allowed_hosts", [[]], 'item 1: expected a string such as "...", not a list'),
        (
            "download.allowed_hosts",
            ["a", "*", "b", ":"],
            'item 2: expected a host such as "example',
        ),
        ("download.connect_timeout", "0", NO_DURATION),
        ("download.connect_timeout", 30, 'expected a string such as "30s", not a number'),
        (
            "download.retry_first",
            date(2024, 1, 1),
            'expected a string such as "30s", not a date or time',
        ),
        ("provider.credits_low", -1, "expected a whole number of at least 0, not -1"),
        ("provider.requests_per_second", 0, f"{NO_NUMBER}, not 0"),
        ("provider.requests_per_second", 1001, f"{NO_NUMBER}, not 1001"),
        ("provider.requests_per_second", float("nan"), f"{NO_NUMBER}, not nan"),
        ("provider.requests_per_second", float("inf"), f"{NO_NUMBER}, not inf"),
        ("provider.requests_per_second", "1", f"{NO_NUMBER}, not a string"),
        ("provider.requests_per_second", True, f"{NO_NUMBER}, not true or false"),
        ("provider.kind", "suno", 'expected "sunoapi" or "apibox" or "kie", not "suno"'),
        ("provider.api_key", "", NO_HEADER),
        ("provider.api_key", "a\nb", NO_HEADER),
        ("admin.token", "ü", NO_HEADER),
        ("admin.hosts", ["a:80"], "item 1: expected a host alone"),
        ("callback.path", "x", 'expected a path such as "/video-callback"'),
        ("callback.tokens", [".."], "item 1: expected only letters, digits and . _ ~ -"),
        ("callback.hmac_keys", [""], "item 1: expected a key that is not empty"),
        ("download.file_mode", "0440", 'expected a mode that holds "0600"'),
        ("download.file_mode", "0750", 'expected a mode that holds "0600"'),
        ("download.file_mode", "2640", 'expected a mode that holds "0600"'),
        ("download.file_mode", 640, 'expected a string such as "0640", not a number'),
        ("download.directory_mode", "0640", 'expected a mode that holds "0700"'),
        ("download.directory_mode", "4750", 'expected a mode that holds "0700"'),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_expected(
    name: str, raw: object, message: str
) -> None:
    """Wrong types and values are refused in the words of the key."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        KEYS[name].spelling.read(raw)


def test_every_item_of_a_list_is_judged() -> None:
    """A list with two mistakes is mended in one go."""
    with pytest.raises(ValueError, match=r"^item 1: .*; item 3: "):
        KEYS["callback.trusted_proxies"].spelling.read(["x", "::1", "y"])


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("provider.requests_per_second", 2, 2.0),
        ("provider.requests_per_second", 1000, 1000.0),
        ("provider.credits_low", 0, 0),
        ("disk.min_free", "0", 0),
        ("download.concurrency", 256, 256),
        ("download.directory_mode", "2770", 0o2770),
        ("download.directory_mode", "1777", 0o1777),
        ("download.file_mode", "0600", 0o600),
        ("download.file_name", "{date}_{label}_{task_id}.mp4", "{date}_{label}_{task_id}.mp4"),
    ],
)
def test_the_edge_of_what_is_allowed_is_taken(name: str, raw: object, value: object) -> None:
    """Limits are inclusive, and the value has the type the program wants."""
    found = KEYS[name].spelling.read(raw)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("video.mp4", "holds {task_id}"),
        ("{task_id}", 'ends with ".mp4"'),
        ("{task_id}.mp4 ", 'ends with ".mp4"'),
        ("{task_id}_{artist}.mp4", "no braces but"),
        ("{task_id!r}{task_id}.mp4", "no braces but"),
        ("{task_id}}.mp4", "no braces but"),
        ("{{task_id}}.mp4", "no braces but"),
        ("a/{task_id}.mp4", 'without "/"'),
        (".{task_id}.mp4", "a dot at its start"),
        ("\n{task_id}.mp4", "control characters"),
        ("x" * 179 + "{task_id}.mp4", "a shorter name"),
        ("é" * 60 + "{task_id}{label}.mp4", "a shorter name"),
    ],
)
def test_a_file_name_that_cannot_hold_is_refused(name: str, words: str) -> None:
    """No template leads out of the folder, hides, collides, breaks or grows too long."""
    with pytest.raises(ValueError, match=f"^expected .*{re.escape(words)}"):
        KEYS["download.file_name"].spelling.read(name)


def test_the_longest_file_name_is_accepted() -> None:
    """The limit is the file system's 255 bytes, with every field and suffix at its longest."""
    name = "x" * (255 - 64 - 9 - 4) + "{task_id}.mp4"
    assert KEYS["download.file_name"].spelling.read(name) == name


@pytest.mark.parametrize("text", ["", 'a "b" \\', "\a\n\x7f\x9b", "grün \U0001f3b5"])
def test_a_quoted_string_is_toml_that_a_terminal_can_show(text: str) -> None:
    """It reads back, and no control character is left in it."""
    quoted = quote(text)
    assert tomllib.loads(f"x = {quoted}") == {"x": text}
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", quoted)


def test_only_toml_is_spelled() -> None:
    """A value that TOML cannot give is a bug of the caller, not a mistake of the owner."""
    with pytest.raises(TypeError, match="TOML knows no bytes"):
        KEYS["state_dir"].spelling.read(b"")
