"""The simulated file host: serves films like a good host, or with one fault.

Rule: a fault changes what is sent, never what a film is. The answer is decided before its first
byte, by a pure function; only cuts, stalls and pace happen under way.

Source: RFC 9110 sections 13.1.5 (If-Range) and 14 (Range).
"""

import asyncio
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate

import msgspec
from aiohttp import hdrs, web

from daemon.simulator.faults import FileFault
from daemon.simulator.films import BLOCK_BYTES, Film

_HTML = b"<!doctype html><title>Error</title><p>The file cannot be shown right now.</p>\n"

_LINGER_NEVER = struct.pack("ii", 1, 0)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


def parse_range(header: str | None, size_bytes: int) -> range | None:
    """Return the bytes that a Range header asks for, empty when there are none of them.

    None means that the header is to be ignored: absent, of another unit, malformed, or a list
    (RFC 9110, 14.2 allows a server to ignore any).
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size_bytes - int(last)), size_bytes)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size_bytes) if last else size_bytes)


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """What a request for a film is answered: `span` of `film`, or `text` where that is None."""

    status: int
    headers: Mapping[str, str]
    film: Film
    span: range | None = None
    text: bytes = b""


def answer_file(
    method: str, headers: Mapping[str, str], film: Film, modified_at: float, fault: FileFault
) -> FileAnswer:
    """Decide how a GET or HEAD is answered under `fault`."""
    if fault.status is not None:
        wait: dict[str, str] = {}
        if fault.retry_after is not None:
            wait[hdrs.RETRY_AFTER] = fault.retry_after
        return FileAnswer(fault.status, wait, film, text=b"Refused by the simulator.\n")
    if fault.redirect_to is not None:
        return FileAnswer(302, {hdrs.LOCATION: fault.redirect_to}, film)
    if fault.html:
        return FileAnswer(200, {hdrs.CONTENT_TYPE: "text/html"}, film, text=_HTML)
    return _answer_film(method, headers, film, modified_at, fault)


def _answer_film(
    method: str, headers: Mapping[str, str], film: Film, modified_at: float, fault: FileFault
) -> FileAnswer:
    if fault.other_film:
        film = replace(film, seed=f"{film.seed} again")
    size_bytes = film.size_bytes
    if fault.truncate_to_bytes is not None:
        size_bytes = min(size_bytes, fault.truncate_to_bytes)
    etag = film.etag if fault.etag is msgspec.UNSET else fault.etag
    modified = formatdate(modified_at, usegmt=True)
    answer: dict[str, str] = {hdrs.CONTENT_TYPE: "video/mp4", hdrs.LAST_MODIFIED: modified}
    if etag is not None:
        answer[hdrs.ETAG] = etag
    span = None
    if not fault.ignore_ranges:
        answer[hdrs.ACCEPT_RANGES] = "bytes"
        # Range has a meaning for GET alone: RFC 9110, 14.2.
        if method == hdrs.METH_GET and _holds(headers.get(hdrs.IF_RANGE), etag, modified):
            span = parse_range(headers.get(hdrs.RANGE), size_bytes)
    if span is not None and not span:
        refusal: dict[str, str] = {
            hdrs.CONTENT_RANGE: f"bytes */{size_bytes}",
            hdrs.ACCEPT_RANGES: "bytes",
        }
        return FileAnswer(416, refusal, film)
    status = 200
    if span is None:
        span = range(size_bytes)
    else:
        status = 206
        answer[hdrs.CONTENT_RANGE] = f"bytes {span.start}-{span.stop - 1}/{size_bytes}"
    if fault.framing == "length":
        answer[hdrs.CONTENT_LENGTH] = str(len(span))
    return FileAnswer(status, answer, film, span)


def _holds(if_range: str | None, etag: str | None, modified: str) -> bool:
    """Return whether a Range may be honoured; a weak ETag never matches (RFC 9110, 13.1.5)."""
    if if_range is None:
        return True
    return if_range == modified or (if_range == etag and not if_range.startswith("W/"))


def shows(fault: FileFault, answer: FileAnswer) -> bool:
    """Return whether a client can notice `fault` by `answer`: a later cut is not noticed."""
    points = [at for at in (fault.cut_after_bytes, fault.stall_after_bytes) if at is not None]
    length = len(answer.span or ())
    return not points or any(at < length for at in points)


class _Unframed(web.StreamResponse):
    # aiohttp turns a body of unknown length into chunks; a body that only the end of the
    # connection ends is what its WebSocket response asks for in this way.
    _length_check = False


async def send_file(
    request: web.Request, answer: FileAnswer, fault: FileFault
) -> web.StreamResponse:
    """Send `answer`, and do under way what `fault` says. A stall lasts until it is cancelled."""
    if answer.span is None:
        return web.Response(status=answer.status, headers=answer.headers, body=answer.text)
    response_class = _Unframed if fault.framing == "close" else web.StreamResponse
    response = response_class(status=answer.status, headers=answer.headers)
    if fault.framing == "close":
        response.force_close()
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    lengths = (len(answer.span), fault.cut_after_bytes, fault.stall_after_bytes)
    end = answer.span.start + min(length for length in lengths if length is not None)
    await _send_bytes(response, answer.film, range(answer.span.start, end), fault)
    if end < answer.span.stop:
        if end - answer.span.start == fault.stall_after_bytes:
            await asyncio.Event().wait()
        close_connection(request, reset=fault.reset)
    return response


async def _send_bytes(
    response: web.StreamResponse, film: Film, span: range, fault: FileFault
) -> None:
    pace = fault.bytes_per_second
    clock = asyncio.get_running_loop().time
    began = clock()
    position = span.start
    # A tenth of a second at a time is even enough for a client that watches its speed.
    block_bytes = BLOCK_BYTES if pace is None else max(1, min(BLOCK_BYTES, pace // 10))
    for block in film.read(span.start, span.stop, block_bytes):
        if pace is not None:
            await asyncio.sleep(began + (position + len(block) - span.start) / pace - clock())
        if fault.flip_at_byte is not None and 0 <= fault.flip_at_byte - position < len(block):
            damaged = bytearray(block)
            damaged[fault.flip_at_byte - position] ^= 0xFF
            await response.write(damaged)
        else:
            await response.write(block)
        position += len(block)


def close_connection(request: web.Request, *, reset: bool) -> None:
    """Close the connection under an answer: in order, or by a TCP reset."""
    transport = request.transport
    if transport is None:
        return
    if reset:
        # Without linger the kernel drops what is unsent and sends RST in place of FIN.
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NEVER
        )
        transport.abort()
    else:
        transport.close()
