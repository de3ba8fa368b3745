"""How each kind of value is spelled in the configuration.

Rule: a `Spelling` stands beside the type of every key. `read` turns a TOML value into the final one
or raises `ValueError` with what was expected; `write` prints the final one as TOML that `read`
takes. No message repeats a value that may be secret.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, time, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from daemon.config.endpoints import (
    Endpoint,
    format_endpoint,
    format_network,
    is_segment,
    parse_hook_url,
    parse_path,
    parse_target_url,
)
from daemon.config.secret import Secret
from daemon.config.units import (
    format_duration,
    format_mode,
    format_size,
    parse_duration,
    parse_mode,
    parse_size,
)
from daemon.rules.filename import FIELD_LIMIT
from daemon.rules.notification import EVENTS

UNSET: Final = "none"
"""How a key without a value is printed. It is not TOML: leaving the key out says it."""

_NAME_LIMIT = 255
_NAME_SUFFIX = len("-01234567")  # rules/filename.name_beside
_FIELD = re.compile(r"\{(task_id|date|label)\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNPRINTED = re.compile(r"[\x7f-\x9f]")  # what JSON leaves as it is and a terminal obeys
_HEADER_TEXT = re.compile(r"[!-~]+")
_WEBHOOK_SECRET = re.compile(r"whsec_([A-Za-z0-9+/]+)={0,2}")
_WEBHOOK_BYTES = (24, 64)
_URL = "https://hooks.example.com/..."


class WrongType(ValueError):
    """The TOML value is of a type that the key never takes."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """How one key is read from TOML and printed as TOML."""

    read: Callable[[object], Any]
    write: Callable[[Any], str]


def write(value: object) -> str:
    """Print `value` as TOML, a secret masked, None as `UNSET`."""
    match value:
        case None:
            return UNSET
        case bool() | int() | float():
            return json.dumps(value)
        case tuple():
            return f"[{', '.join(map(write, value))}]"
        case timedelta():
            return quote(format_duration(value))
        case IPv4Network() | IPv6Network():
            return quote(format_network(value))
    return quote(str(value))


def quote(value: str) -> str:
    """Print `value` as a TOML basic string; control characters are escaped."""
    escaped = json.dumps(value, ensure_ascii=False)
    return _UNPRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)


def text(parse: Callable[[str], Any], example: str = "...") -> Spelling:
    """Spell a string that `parse` understands; `example` helps who wrote something else."""

    def read(raw: object) -> Any:
        if not isinstance(raw, str):
            raise WrongType(f"expected a string such as {quote(example)}, not {_kind(raw)}")
        return parse(raw)

    return Spelling(read, write)


def each(item: Spelling) -> Spelling:
    """Spell a list of what `item` spells."""

    def read(raw: object) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise WrongType(f'expected a list such as ["..."], not {_kind(raw)}')
        values, mistakes = [], []
        for number, element in enumerate(raw, 1):
            try:
                values.append(item.read(element))
            except ValueError as wrong:
                mistakes.append(f"item {number}: {wrong}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return tuple(values)

    return Spelling(read, write)


def listener(parse: Callable[[str], Endpoint | None]) -> Spelling:
    """Spell where a listener binds; here None has a spelling of its own, ""."""
    return Spelling(
        text(parse, "127.0.0.1:8080").read, lambda endpoint: quote(format_endpoint(endpoint))
    )


def one_of(choice: tuple[str, ...]) -> Spelling:
    """Spell one of a few words."""

    def parse(word: str) -> str:
        if word not in choice:
            raise ValueError(f"expected {' or '.join(map(quote, choice))}, not {quote(word)}")
        return word

    return text(parse, choice[0])


def whole(least: int, most: int | None = None) -> Spelling:
    """Spell an integer of at least `least` and at most `most`."""
    wanted = f"expected a whole number from {least} to {most}"
    if most is None:
        wanted = f"expected a whole number of at least {least}"

    def read(raw: object) -> int:
        if not isinstance(raw, int) or isinstance(raw, bool):
            raise WrongType(f"{wanted}, not {_kind(raw)}")
        if raw < least or (most is not None and raw > most):
            raise ValueError(f"{wanted}, not {raw}")
        return raw

    return Spelling(read, write)


def rate(most: int) -> Spelling:
    """Spell a number above 0 and of at most `most`."""
    wanted = f"expected a number above 0 and at most {most}"

    def read(raw: object) -> float:
        if not isinstance(raw, int | float) or isinstance(raw, bool):
            raise WrongType(f"{wanted}, not {_kind(raw)}")
        if not 0 < raw <= most:
            raise ValueError(f"{wanted}, not {raw}")
        return float(raw)

    return Spelling(read, write)


def _switch(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise WrongType(f"expected true or false, not {_kind(raw)}")
    return raw


def _interval(spelled: str) -> timedelta:
    span = parse_duration(spelled)
    if not span:
        raise ValueError('expected a duration above 0, such as "30s", "15m" or "14d"')
    return span


def size(least: int = 0) -> Spelling:
    """Spell a number of bytes, at least `least`."""

    def read(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise WrongType(f'expected a size such as "64K" or "2G", not {_kind(raw)}')
        size_bytes = parse_size(raw)
        if size_bytes < least:
            raise ValueError(f"expected a size of at least {least} bytes")
        return size_bytes

    return Spelling(read, lambda size_bytes: quote(format_size(size_bytes)))


def mode(owner: int, most: int) -> Spelling:
    """Spell permission bits that hold those in `owner` and none beyond `most`."""

    def parse(spelled: str) -> int:
        bits = parse_mode(spelled)
        if bits & owner != owner or bits & ~most:
            raise ValueError(
                f'expected a mode that holds "{format_mode(owner)}", the owner\'s own access, and '
                f'nothing beyond "{format_mode(most)}"'
            )
        return bits

    return Spelling(text(parse, "0640").read, lambda bits: quote(format_mode(bits)))


def _file_name(template: str) -> str:
    rest, fields = _FIELD.subn("", template)
    if "{task_id}" not in template:
        raise ValueError("expected a name that holds {task_id}: names must not collide")
    if "{" in rest or "}" in rest:
        raise ValueError("expected no braces but {task_id}, {date} and {label}")
    if not template.endswith(".mp4"):
        raise ValueError('expected a name that ends with ".mp4"')
    if "/" in template or template.startswith(".") or _CONTROL.search(template):
        raise ValueError('expected a name without "/", control characters or a dot at its start')
    if len(rest.encode()) + fields * FIELD_LIMIT + _NAME_SUFFIX > _NAME_LIMIT:
        raise ValueError(
            f"expected a shorter name: with its fields it may pass {_NAME_LIMIT} bytes"
        )
    return template


def _token(spelled: str) -> Secret:
    if not is_segment(spelled):
        raise ValueError("expected only letters, digits and . _ ~ -, for it is part of a URL")
    return Secret(spelled)


def _header_text(spelled: str) -> Secret:
    if not _HEADER_TEXT.fullmatch(spelled):
        raise ValueError(
            "expected ASCII without blanks, for it is sent in a header; leave the key out if there "
            "is none"
        )
    return Secret(spelled)


def _signing_key(spelled: str) -> Secret:
    if not spelled:
        raise ValueError("expected a key that is not empty")
    return Secret(spelled)


def _webhook_secret(spelled: str) -> Secret:
    found = _WEBHOOK_SECRET.fullmatch(spelled)
    least, most = _WEBHOOK_BYTES
    try:
        text = found[1] if found else ""
        length = len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except ValueError:
        length = 0
    if not least <= length <= most:
        raise ValueError(
            f'expected "whsec_" and base64 of {least} to {most} random bytes; make one with: '
            'printf "whsec_%s\\n" "$(openssl rand -base64 32)"'
        )
    return Secret(spelled)


def _events(raw: object) -> tuple[str, ...]:
    events: tuple[str, ...] = each(one_of(EVENTS)).read(raw)
    if not events:
        raise ValueError("expected at least one event; leave the key out for all")
    return tuple(dict.fromkeys(events))


def _kind(raw: object) -> str:
    """Name the TOML type of `raw`: a wrong value may be a secret, its type is none."""
    match raw:
        case str():
            return "a string"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "a table"
        case date() | time():
            return "a date or time"
    raise TypeError(f"TOML knows no {type(raw).__name__}")


PATH: Final = text(parse_path)
SWITCH: Final = Spelling(_switch, write)
INTERVAL: Final = text(_interval, "30s")
FILE_NAME: Final = text(_file_name, "video_{task_id}.mp4")
TOKEN: Final = text(_token)
HEADER_TEXT: Final = text(_header_text)
SIGNING_KEY: Final = text(_signing_key)
HOOK_URL: Final = text(lambda spelled: Secret(parse_hook_url(spelled)), _URL)
TARGET_URL: Final = text(lambda spelled: Secret(parse_target_url(spelled)), _URL)
WEBHOOK_SECRET: Final = text(_webhook_secret, "whsec_...")
EVENT_NAMES: Final = Spelling(_events, write)
