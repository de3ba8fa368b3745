"""The log: one JSON object a line, or coloured text on a terminal.

Rule: no secret, token or signed query ever appears, whoever wrote the line. Foreign loggers go
through the same processors, for aiohttp writes the whole line of a malformed request, with the
token in it.
"""

# mypy: disable-error-code="explicit-override"
# typing.override came with Python 3.12.

import io
import json
import logging
import queue
import sys
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final, TextIO, cast

import msgspec
import structlog
from aiohttp.http_exceptions import HttpProcessingError

from daemon.rules.redaction import cut_secret, escape_control, order_secrets, redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor, WrappedLogger

LINES_LIMIT = 10_000
CLOSE_SECONDS = 2.0
GATHER_SECONDS = 0.01
"""How long the thread rests after it wrote, so that a flood is written many lines at a time: each
time it wakes up it takes the interpreter from the loop."""
_FIRST = ("timestamp", "level", "event")
_NOT_REMEMBERED = frozenset({"rows", "exc_info", "stack_info", "exception", "stacks"})
REMEMBERED_CHARACTERS = 300
_secrets: tuple[str, ...] = ()
_level = logging.INFO
_onlooker: "Callable[[str, str], None] | None" = None
_secrets_in_json: tuple[str, ...] = ()
_trouble: "deque[dict[str, object]]" = deque(maxlen=20)
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_encode_lines: Final = msgspec.json.Encoder().encode_lines
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
"""What both encoders write alike: of bytes, msgspec makes base64, in which no secret is found."""


class Rows(list[dict[str, object]]):
    """What happened many times at once: logged as `rows`, it becomes a line for each.

    What a line costs is its way through the processors, and this is one way for all.
    """


class ThreadedStream(io.TextIOBase):
    """Writes lines on a thread of its own: a reader that stalls or leaves must not stop the loop.

    A text of one or many lines is written at once, and those that come right behind it together.
    While so many lines as the limit says are not written yet, every text is dropped, and its lines
    are counted; their number is told when the reader is back.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        # Two numbers, one for each side, for one that both change would need a lock.
        self._taken_in = 0
        self._written = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def isatty(self) -> bool:
        """Return whether people read it."""
        return self._stream.isatty()

    def write(self, text: str) -> int:
        """Hand over some lines; never waits."""
        lines = text.count("\n")
        if self._taken_in - self._written < LINES_LIMIT:
            self._taken_in += lines
            self._lines.put(text)
        else:
            self._dropped += lines
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread flushes after each write."""

    def close(self) -> None:
        """Write what is left, for at most two seconds."""
        self._lines.put(None)
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while (text := self._gather()) is not None:
            # Nobody reads any more: there is no place to say so.
            with suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()
            self._written += text.count("\n")
            if self._dropped and self._lines.empty():
                dropped, self._dropped = self._dropped, 0
                structlog.get_logger().warning("log.dropped", lines=dropped)
            self._closing.wait(GATHER_SECONDS)

    def _gather(self) -> str | None:
        """Wait for a line, and return it with those that stand behind it; None at the end."""
        gathered, line = [], self._lines.get()
        while line is not None:
            gathered.append(line)
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return "".join(gathered)
        if gathered:
            self._lines.put(None)
        return "".join(gathered) if gathered else None


def hide(secrets: Iterable[str]) -> None:
    """Mask these values as well from now on: a token may be made after the log was set up."""
    global _secrets, _secrets_in_json  # noqa: PLW0603 - structlog's own configuration is one too
    _secrets = order_secrets([*_secrets, *secrets])
    _secrets_in_json = tuple(_encode(secret)[1:-1] for secret in _secrets)


def mask(text: str) -> str:
    """Return `text` as the log would show it, for what is shown elsewhere or kept."""
    return cut_secret(str(redact(text, _secrets)), _secrets)


def show_to(onlooker: "Callable[[str, str], None] | None") -> None:
    """Call `onlooker` from now on with each event of level info and above, and its lines as JSON.

    He is called from whatever thread logs, and must neither wait nor log. None: nobody looks on.
    """
    global _onlooker  # noqa: PLW0603 - likewise
    _onlooker = onlooker
    _filter()


def _filter() -> None:
    """Let through what is to be written, and what is only to be shown."""
    # Where nobody has set the logs up, what is shown is nobody's to decide either.
    if structlog.is_configured():
        least = min(_level, logging.INFO) if _onlooker else _level
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(least))


def recent_trouble() -> list[dict[str, object]]:
    """Return the last 20 warnings and errors since the start, masked, the oldest first."""
    return list(_trouble)


def set_level(level: str) -> None:
    """Say more or less from now on; everything else about the logs stays."""
    global _level  # noqa: PLW0603 - likewise
    number = _level = logging.getLevelNamesMapping()[level.upper()]
    _filter()
    root = logging.getLogger()
    root.setLevel(max(number, logging.WARNING))
    for handler in root.handlers:
        handler.setLevel(number)


def set_up_logs(
    *, level: str, form: str, secrets: Iterable[str], stream: TextIO | io.TextIOBase = sys.stdout
) -> None:
    """Send all logs to `stream`, as `json`, as `console`, or (`auto`) as the stream suggests."""
    hide(secrets)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    console = form == "console" or (form == "auto" and stream.isatty())
    ending: list[Processor] = [_remember] + (
        [
            structlog.processors.format_exc_info,
            _each(
                _console(
                    structlog.dev.ConsoleRenderer(
                        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
                    )
                )
            ),
        ]
        if console
        # Without locals: a token in a local variable would be printed with the traceback.
        else [
            structlog.processors.format_exc_info,
            _each(_render_json),
        ]
    )
    structlog.configure(
        processors=[*shared, *ending],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", stream)),
        cache_logger_on_first_use=False,
    )
    foreign = logging.StreamHandler(stream)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _name_foreign],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    foreign.addFilter(_blame_sender)
    foreign.addFilter(lambda record: record.levelno >= foreign.level)
    logging.getLogger().handlers[:] = [foreign]
    set_level(level)
    logging.captureWarnings(capture=True)


def _blame_sender(record: logging.LogRecord) -> bool:
    """Malformed HTTP is no error of ours: scanners send it all day, and one short line will do."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", ()
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.exc_info = record.exc_text = None
    return True


def _remember(_: "WrappedLogger", __: str, event: "EventDict") -> "EventDict":
    """Keep what went wrong, for who asks what it was; tracebacks stay in the log."""
    if event.get("level") in {"warning", "error", "critical"}:
        kept = {key: value for key, value in event.items() if key not in _NOT_REMEMBERED}
        _trouble.append(
            {
                key: value[:REMEMBERED_CHARACTERS] if isinstance(value, str) else value
                for key, value in _mask(kept).items()
                if key[:1] != "_"
            }
        )
    return event


def _mask(event: "EventDict") -> "EventDict":
    return {key: redact(value, _secrets) for key, value in event.items()}


def _each(render: "Callable[[list[EventDict]], str]") -> "Processor":
    """Return a processor that makes the lines of an event with `Rows`, or the one of any other."""

    def render_each(_: "WrappedLogger", __: str, event: "EventDict") -> str:
        rows = event.pop("rows", None)
        ordered = {**{key: event[key] for key in _FIRST if key in event}, **event}
        events: list[EventDict] = (
            [ordered] if rows is None else [{**ordered, **row} for row in rows]
        )
        if not events:
            raise structlog.DropEvent
        number = logging.getLevelNamesMapping()[event["level"].upper()] if _onlooker else _level
        text = render(events) if number >= _level else ""
        if _onlooker and number >= logging.INFO:
            shown = text if text and render is _render_json else _render_json(events)
            _onlooker(ordered["event"], shown)
        if not text:
            raise structlog.DropEvent
        return text

    return render_each


def _render_json(events: "list[EventDict]") -> str:
    return _render_plain(events) or "\n".join(map(_render_any, events))


def _render_plain(events: "list[EventDict]") -> str | None:
    """Return the lines of events that have nothing special in them, as nearly all; else None."""
    if not _PLAIN.issuperset(map(type, chain.from_iterable(event.values() for event in events))):
        return None
    try:
        text = _encode_lines(events)[:-1].decode("ascii")
    except (UnicodeError, OverflowError):
        # Other scripts, which a terminal may take for orders, and numbers beyond 64 bits.
        return None
    # DEL is the one character of ASCII that the other encoder writes in another way.
    return None if "\x7f" in text or _is_to_mask(text) else text


def _render_any(event: "EventDict") -> str:
    try:
        line = _encode(event)
    except TypeError:
        # A path or the like, which masking turns into text.
        return _encode(_mask(event))
    return _encode(_mask(event)) if _is_to_mask(line) else line


def _is_to_mask(text: str) -> bool:
    """Most lines have nothing to hide, and one look at the whole shows it.

    A character is written in JSON as it is written elsewhere in JSON, and no link is cut that has
    no question mark.
    """
    return "?" in text or any(secret in text for secret in _secrets_in_json)


def _console(renderer: "structlog.dev.ConsoleRenderer") -> "Callable[[list[EventDict]], str]":
    return lambda events: "\n".join(renderer(None, "", _escape(_mask(one))) for one in events)


def _escape(event: "EventDict") -> "EventDict":
    return {
        key: escape_control(value) if isinstance(value, str) and key != "exception" else value
        for key, value in event.items()
    }


def _name_foreign(_: "WrappedLogger", __: str, event: "EventDict") -> "EventDict":
    """A library's sentence is no event name: it becomes the message of one."""
    record = event.get("_record")
    source = record.name if isinstance(record, logging.LogRecord) else "unknown"
    return {**event, "message": event.get("event"), "event": "library.message", "logger": source}
