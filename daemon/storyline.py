"""What the log says, for people: which lines are wanted, and how one reads.

Rule: a line that is not ours never breaks anything: it is shown as it is where nothing was asked
for that it cannot be, and control characters are spelled out always.
"""

import json
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, Final

import msgspec

from daemon.rules.redaction import escape_control
from daemon.wording import size

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
HELD_LIMIT: Final = 20_000
"""Lines kept in case that they turn out to be about the task: its own id comes with an answer."""
VALUE_LIMIT: Final = 2_000
"""Characters of one value, or of a line that is not ours, that are shown."""
_HELD_BYTES: Final = 20_000
_LAST: Final = ("message", "error", "exception", "stacks")
_BEGINNING: Final = ("timestamp", "level", "event", "task_id")
_QUIET: Final = frozenset(" \"'=\t\n\r\\")
_COLOURS: Final = {"debug": "2", "warning": "33", "error": "31", "critical": "1;31"}
_SHORT: Final = {"warning": "warn", "critical": "CRIT", "error": "ERROR"}
_NO_TIME: Final = "--:--:--"

_decode: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log; `fields` is None where it is none of ours."""

    raw: bytes
    fields: Mapping[str, Any] | None = None
    at: datetime | None = None


def read_entry(raw: bytes) -> Entry:
    """Read a line."""
    if not raw.startswith(b"{"):
        return Entry(raw)
    try:
        fields = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # What the standard library writes and msgspec does not read: NaN, lone surrogates.
        try:
            fields = json.loads(raw)
        except (ValueError, RecursionError):
            return Entry(raw)
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        return Entry(raw)
    return Entry(raw, fields, _read_time(fields.get("timestamp")))


def _read_time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines somebody wants to see."""

    events: tuple[str, ...] = ()
    level: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def everything(self) -> bool:
        """Whether a line can be anything."""
        return not (self.events or self.level or self.since or self.until)

    def holds(self, entry: Entry) -> bool:
        """Tell whether a line is wanted; one of which it cannot be known is not."""
        if self.everything:
            return True
        if entry.fields is None:
            return False
        if self.events and not any(is_event(entry.fields["event"], one) for one in self.events):
            return False
        if self.level is not None:
            level = entry.fields.get("level")
            if level not in LEVELS or LEVELS.index(level) < LEVELS.index(self.level):
                return False
        if self.since is None and self.until is None:
            return True
        return (
            entry.at is not None
            and (self.since is None or entry.at >= self.since)
            and (self.until is None or entry.at < self.until)
        )


def is_event(event: str, pattern: str) -> bool:
    """Tell whether an event is meant: by its name, by its first words, or by a pattern."""
    return event == pattern or event.startswith(f"{pattern}.") or fnmatchcase(event, pattern)


class Story:
    """Picks the lines about one task, under the id of the provider and our own before it.

    The answer to a submit connects the two, and what was logged before it is held until then.
    """

    def __init__(self, task_id: str) -> None:
        self.ids = {task_id}
        self._spelled = [task_id.encode()]
        # Of a submit's own id, any task may turn out to be the one; else it is only submits.
        self._candidate = b"task_id" if task_id.startswith("submit-") else b'"submit-'
        self._held: deque[bytes] = deque(maxlen=HELD_LIMIT)

    def choose(self, raw: bytes) -> Iterator[Entry]:
        """Yield what this line adds to the story: itself, and what it explains."""
        if not any(spelled in raw for spelled in self._spelled):
            if self._candidate in raw and len(raw) <= _HELD_BYTES:
                self._held.append(raw)
            return
        entry = read_entry(raw)
        if entry.fields is None or not self.ids & set(_named(entry.fields)):
            return
        for other in _named(entry.fields):
            if other not in self.ids and "local_id" in entry.fields:
                self.ids.add(other)
                self._spelled.append(other.encode())
                yield from self._recall(other)
        yield entry

    def _recall(self, task_id: str) -> Iterator[Entry]:
        spelled = task_id.encode()
        for raw in self._held:
            if spelled in raw:
                entry = read_entry(raw)
                if entry.fields is not None and task_id in _named(entry.fields):
                    yield entry


def _named(fields: Mapping[str, Any]) -> list[str]:
    found = (fields.get("task_id"), fields.get("local_id"))
    return [name for name in found if isinstance(name, str)]


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Return lines by their time: several processes may have written between one another."""
    return sorted(entries, key=lambda entry: entry.at or datetime.min.replace(tzinfo=UTC))


class Narrator:
    """Writes lines for people, in local time, with a line for each new day.

    `alone` are the ids of the one task that all is about: they need not be said in every line.
    """

    def __init__(self, *, colours: bool, alone: Container[str] = ()) -> None:
        self._colours = colours
        self._alone = alone
        self._second: tuple[int, str, str] = (-1, "", "")
        self._day = ""

    def tell(self, entry: Entry) -> str:
        """Return one line as text; behind it those of a traceback, and before it the day's."""
        if entry.fields is None:
            return _shorten_raw(entry.raw)
        clock, day = self._read_clock(entry.at)
        fields = entry.fields
        level = str(fields.get("level", ""))
        words = [clock, self._paint(_level(level), _COLOURS.get(level, ""))]
        event = escape_control(fields["event"])
        words.append(self._paint(f"{event:<19}", "1"))
        words += self._say(fields)
        line = " ".join(words).rstrip()
        below = "".join(
            f"\n    {_shorten(escape_control(part))}"
            for name in ("exception", "stacks")
            if isinstance(fields.get(name), str)
            for part in fields[name].splitlines()
        )
        if day in {"", self._day}:
            return line + below
        self._day = day
        return f"{self._paint(day, '1')}\n{line}{below}"

    def _say(self, fields: Mapping[str, Any]) -> Iterator[str]:
        task_id = fields.get("task_id")
        if task_id is not None and (task_id not in self._alone or "local_id" in fields):
            yield self._paint(_value("task_id", task_id), "36")
        if fields["event"] == "task.moved" and "to" in fields:
            yield f"{_value('from', fields.get('from') or '(new)')} -> {_value('to', fields['to'])}"
        moved = ("from", "to") if fields["event"] == "task.moved" and "to" in fields else ()
        for name, value in fields.items():
            if name in _BEGINNING or name in _LAST or name in moved or value is None:
                continue
            key = escape_control(name)
            yield f"{self._paint(f'{key}=', '2')}{_value(name, value)}"
        for name in ("error", "message"):
            value = fields.get(name)
            if isinstance(value, str):
                yield _shorten(escape_control(value))
            elif value is not None:
                yield f"{name}={_value(name, value)}"
        for name in ("exception", "stacks"):
            if name in fields and not isinstance(fields[name], str):
                yield f"{name}={_value(name, fields[name])}"

    def _read_clock(self, at: datetime | None) -> tuple[str, str]:
        if at is None:
            return _NO_TIME, ""
        # A log has many lines a second, and asking the time zone costs more than all else.
        stamp = int(at.timestamp())
        if stamp != self._second[0]:
            try:
                local = at.astimezone()
            except (OverflowError, OSError, ValueError):
                local = at
            self._second = stamp, f"{local:%H:%M:%S}", f"{local:%A %Y-%m-%d}"
        return self._second[1], self._second[2]

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours and code else text


def _level(level: str) -> str:
    return f"{_SHORT.get(level, _shorten(escape_control(level), 8)):<5}"


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _value(name: str, value: object) -> str:
    """Return a value as people read it: sizes and long spans in units, odd texts in quotes."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return _number(name, value)
    if not isinstance(value, str):
        return _shorten(escape_control(json.dumps(value, ensure_ascii=False, default=str)))
    if value and _QUIET.isdisjoint(value):
        return _shorten(escape_control(value))
    return _shorten(escape_control(json.dumps(value, ensure_ascii=False)))


def _number(name: str, value: float) -> str:
    if name == "bytes" or name.endswith("_bytes"):
        try:
            return size(int(value))
        except (OverflowError, ValueError):
            return str(value)
    if name == "bytes_per_second":
        return f"{_number('bytes', value)}/s"
    if name == "seconds" or name.endswith("_seconds"):
        return _span(value)
    return str(value)


def _span(seconds: float) -> str:
    if not 60 <= seconds < 1e9:  # noqa: PLR2004 - shorter, or no span of a person's life
        return f"{seconds:.3g}s" if abs(seconds) < 60 else f"{seconds}s"  # noqa: PLR2004
    whole = round(seconds)
    if whole < 3600:  # noqa: PLR2004 - an hour
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 172_800:  # noqa: PLR2004 - two days
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86_400}d{whole // 3600 % 24:02}h"


def _spell(raw: bytes) -> str:
    return escape_control(raw.decode("utf-8", "backslashreplace"))


def _shorten_raw(raw: bytes) -> str:
    """Spell out no more than is shown: of a line of 16 MiB each byte may become four letters."""
    if len(raw) <= VALUE_LIMIT:
        return _shorten(_spell(raw))
    shown = _spell(raw[:VALUE_LIMIT])[:VALUE_LIMIT]
    return f"{shown}... ({len(raw) - VALUE_LIMIT} more characters)"


def _shorten(text: str, limit: int = VALUE_LIMIT) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... ({len(text) - limit} more characters)"


def select(
    batches: Iterable[list[bytes]], wanted: Wanted, story: Story | None
) -> Iterator[list[Entry]]:
    """Yield the lines that are wanted, as they come in, and an empty list where none was."""
    quick = _quick_look(wanted)
    for lines in batches:
        if story is not None:
            read: Iterable[Entry] = chain.from_iterable(map(story.choose, lines))
        else:
            read = map(read_entry, filter(quick, lines) if quick else lines)
        yield [entry for entry in read if wanted.holds(entry)]


def _quick_look(wanted: Wanted) -> Callable[[bytes], bool] | None:
    """Return a look at the bytes that leaves most lines out unread, where there is one."""
    names = [one.encode() for one in wanted.events]
    if not names or any(set(one) & set(b'*?[]\\"') or not one.isascii() for one in names):
        return None
    return lambda line: any(name in line for name in names)
