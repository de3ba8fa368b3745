"""The log: its form, and that no secret passes, whoever writes."""

import io
import json
import logging
import threading
import time
from base64 import b64encode
from pathlib import PurePosixPath
from typing import Any

import pytest
import structlog

from daemon.logs import LINES_LIMIT, Rows, ThreadedStream, hide, set_up_logs


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return what was logged."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_the_three_first(stream: io.StringIO) -> None:
    """Time, level and event come first, then the context."""
    set_up_logs(level="info", form="json", secrets=[], stream=stream)
    with structlog.contextvars.bound_contextvars(task_id="t1"):
        structlog.get_logger().info("task.moved", to="done")
    structlog.get_logger().debug("poll.asked")
    (line,) = lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    assert {key: line[key] for key in ("level", "event", "task_id", "to")} == {
        "level": "info",
        "event": "task.moved",
        "task_id": "t1",
        "to": "done",
    }


def test_secrets_and_signed_queries_are_masked_everywhere(stream: io.StringIO) -> None:
    """In texts, lists, mappings, tracebacks and in what a library writes; also later secrets."""
    set_up_logs(level="info", form="json", secrets=["the-api-key"], stream=stream)
    hide(["the-late-token"])
    log = structlog.get_logger()
    log.info("x", message="key the-api-key", many=["the-late-token"], deep={"k": b"the-api-key"})
    log.info("x", link="https://host.example/v.mp4?Signature=abc&Expires=1")
    try:
        int("the-api-key")
    except ValueError:
        log.exception("x")
    logging.getLogger("aiohttp.server").error("POST /video-callback/the-late-token HTTP/9")
    text = stream.getvalue()
    assert len(lines(stream)) == 4
    assert "the-api-key" not in text
    assert "the-late-token" not in text
    assert "Signature" not in text
    assert text.count("***") >= 5
    assert lines(stream)[-1]["event"] == "library.message"
    assert lines(stream)[-1]["logger"] == "aiohttp.server"


def test_a_traceback_shows_no_local_variables(stream: io.StringIO) -> None:
    """A secret in a local variable is not printed with the traceback."""
    set_up_logs(level="info", form="json", secrets=[], stream=stream)
    local_value = "only-in-a-local"
    try:
        [][len(local_value)]
    except IndexError:
        structlog.get_logger().exception("x")
    assert "Traceback" in lines(stream)[0]["exception"]
    assert "'only-in-a-local'" not in stream.getvalue()


def test_a_terminal_gets_text_without_control_characters(stream: io.StringIO) -> None:
    """What a stranger sends cannot colour the terminal or turn its lines around."""
    set_up_logs(level="info", form="console", secrets=["the-api-key"], stream=stream)
    structlog.get_logger().info("callback.received", message="\x1b[31mred\u202e the-api-key")
    text = stream.getvalue()
    assert "callback.received" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "the-api-key" not in text


def test_auto_is_json_where_there_is_no_terminal(stream: io.StringIO) -> None:
    """A pipe, the journal and a file get JSON."""
    set_up_logs(level="warning", form="auto", secrets=[], stream=stream)
    structlog.get_logger().info("too.quiet")
    structlog.get_logger().warning("loud.enough")
    assert [line["event"] for line in lines(stream)] == ["loud.enough"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_rows_are_a_line_each_as_if_they_were_logged_alone(stream: io.StringIO, form: str) -> None:
    """In their order, with what all have in common, and no secret passes in any of them."""
    set_up_logs(level="info", form=form, secrets=["the-api-key"], stream=stream)
    log = structlog.get_logger()
    rows = [
        dict[str, object](task_id=f"t{number}", to=f"a the-api-key {number}") for number in range(3)
    ]
    with structlog.contextvars.bound_contextvars(who="somebody"):
        log.info("task.moved", rows=Rows(rows))
        for row in rows:
            log.info("task.moved", **row)
    log.info("task.moved", rows=Rows())
    found = stream.getvalue()
    assert "the-api-key" not in found
    together, alone = found.splitlines()[:3], found.splitlines()[3:]
    assert len(alone) == 3
    if form == "json":
        shown = [[*map(json.loads, half)] for half in (together, alone)]
        for line in (*shown[0], *shown[1]):
            assert line.pop("timestamp").endswith("Z")
        assert shown[0] == shown[1]
        assert [line["task_id"] for line in shown[0]] == ["t0", "t1", "t2"]
    else:
        assert [line.split()[1:] for line in together] == [line.split()[1:] for line in alone]


@pytest.mark.parametrize(
    "secret",
    [
        'quo"te-secret',
        "back\\slash-secret",
        "\u97f3\u4e50-\U0001f3b5-secret",
        "tab\tsecret",
        "a/b?c",
    ],
)
def test_a_secret_that_json_writes_otherwise_is_masked_too(
    stream: io.StringIO, secret: str
) -> None:
    """A line is searched as it is written, where quotes and other scripts are spelled out."""
    set_up_logs(level="info", form="json", secrets=[secret], stream=stream)
    structlog.get_logger().info("x", message=f"it is {secret}!", deep=[{secret: 1}])
    (line,) = lines(stream)
    assert line["message"] == "it is ***!"
    assert line["deep"] == [{"***": 1}]


def test_a_secret_is_found_whatever_characters_it_has(stream: io.StringIO) -> None:
    """Whichever of two encoders writes the line, a character is looked for as it is written."""
    secrets = [
        f"{character}-secret-{number}" for number, character in enumerate(map(chr, range(256)))
    ]
    set_up_logs(level="info", form="json", secrets=secrets, stream=stream)
    for secret in secrets:
        structlog.get_logger().info("x", message=f"it is {secret}!")
    assert [line["message"] for line in lines(stream)] == ["it is ***!"] * 256


STRANGE: list[object] = [
    *("\u2028\u2029\x85", "\x1b[31m\x7f\x00", "\ud800", "\u202e\u97f3\U0001f3b5", 'a\nb\r\\"c'),
    *(2**64, -(2**70), 1.5, True, None, "", float("1e300")),
    *([1, {"a": "\u2028"}], {"k": None}),
]


@pytest.mark.parametrize("value", STRANGE, ids=ascii)
def test_a_line_is_one_line_of_plain_ascii_whatever_is_in_it(
    stream: io.StringIO, value: object
) -> None:
    """No end of a line that only some readers know, nothing a terminal obeys, no value changed."""
    set_up_logs(level="info", form="json", secrets=[], stream=stream)
    structlog.get_logger().info("x", value=value)
    structlog.get_logger().info("x", rows=Rows([{"value": 1}, {"value": value}, {"value": 2}]))
    text = stream.getvalue()
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    assert [line["value"] for line in lines(stream)] == [value, 1, value, 2]


def test_bytes_and_paths_are_written_as_text_that_is_masked(stream: io.StringIO) -> None:
    """Nothing is spelled in a way in which a secret would not be found again."""
    set_up_logs(level="info", form="json", secrets=["the-api-key"], stream=stream)
    strange: list[object] = [
        *(b"the-api-key", bytearray(b"the-api-key"), PurePosixPath("/the-api-key")),
        *([b"the-api-key"], {"k": memoryview(b"x"), "l": b"the-api-key"}, {b"the-api-key"}),
    ]
    for value in strange:
        structlog.get_logger().info("x", value=value)
        structlog.get_logger().info("x", rows=Rows([{"value": value}]))
    assert len(lines(stream)) == 2 * len(strange)
    assert stream.getvalue().count("***") == 2 * len(strange)
    assert "the-api-key" not in stream.getvalue()
    assert b64encode(b"the-api-key").decode() not in stream.getvalue()


class _Counting(io.StringIO):
    """A stream that counts the writes, and lets the first one wait."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.open = threading.Event()

    def write(self, text: str) -> int:  # type: ignore[explicit-override] # it came with 3.12
        """Write, once somebody reads."""
        self.open.wait(5)
        self.writes += 1
        return super().write(text)


def test_lines_that_wait_are_written_together_and_in_order() -> None:
    """A flood takes few writes, and closing leaves nothing behind."""
    sink = _Counting()
    stream = ThreadedStream(sink)
    for number in range(2000):
        stream.write(f"{number}\n")
    sink.open.set()
    stream.close()
    assert sink.getvalue().splitlines() == [str(number) for number in range(2000)]
    assert sink.writes <= 3


@pytest.mark.usefixtures("stream")
def test_the_limit_of_the_log_counts_lines() -> None:
    """Rows of one event are as many lines: a reader that stalls costs the memory of so many."""
    sink, texts, rows = _Counting(), 100, 256
    threaded = ThreadedStream(sink)
    set_up_logs(level="info", form="json", secrets=[], stream=threaded)
    try:
        for _ in range(texts):
            structlog.get_logger().info("x", rows=Rows([{"row": row} for row in range(rows)]))
    finally:
        sink.open.set()
    until = time.monotonic() + 5
    while "log.dropped" not in sink.getvalue() and time.monotonic() < until:
        time.sleep(0.01)
    threaded.close()
    *kept, told = lines(sink)
    assert LINES_LIMIT <= len(kept) < LINES_LIMIT + rows
    assert (told["event"], told["lines"]) == ("log.dropped", texts * rows - len(kept))
