"""The fast way to read a callback's JSON: it reads what the slow one reads, and as it does.

Rule: there is nothing that one of them refuses and the other takes, but for the depth at which the
interpreter gives up, where some levels more or less are no callback's matter.
"""

import json
import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.callback import parse
from daemon.rules.notice import decode
from tests.stations.listening import open_desk, success

BODIES = [
    *(b"", b"nul", b"[1,]", b'{"a"}', b"01", b"1.", b'"abc', b"{}\0", b"\x0b1", b"1 \x0c", b" 1\n"),
    *(b'{"a": 1, "a": 2}', b'{"a": {"b": 1}, "a": {"c": 2}}', b"\xef\xbb\xbf{}", b"\xef\xbb\xbf"),
    *(
        b"NaN",
        b"[Infinity, -Infinity]",
        b"1e400",
        b"-1e400",
        b"1.7976931348623159e308",
        b"4.9e-324",
    ),
    *(b"-0", b"-0.0", b"1E5", b"200.0", b"0.1000000000000000055511151231257827", b"true"),
    *(b"18446744073709551616", b"-9223372036854775809", b"1" * 400, b"1" * 5000, b"1" * 60_000),
    *(
        b'"\xff"',
        b'{"msg": "\xe9", "code": 200}',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        b'"\xf4\x90\x80\x80"',
    ),
    *(b'"\\ud800"', b'"\\udc00x"', b'"\\ud83d\\ude00"', b'{"\\ud800": 1}', b'"\\u0000"', b'"\\/"'),
    *(b'"\x01"', b'"\n"', b'"\x7f\xc2\x85\xe2\x80\xa8"', b'"\\x"', b'"\\u12"', b'"\0"'),
    *(b"[" * 500 + b"]" * 500, b"[" * 30_000 + b"]" * 30_000, b'{"a":' * 10_000),
    *(text.encode("utf-16") for text in ("{}", '{"code": 200}')),
]


def told(read: object, body: bytes) -> str:
    """Return what one of both makes of a body; their reasons for a refusal are the same ones."""
    assert callable(read)
    try:
        return repr(read(body))
    except (ValueError, RecursionError) as error:
        return type(error).__name__


@pytest.mark.parametrize("body", BODIES, ids=lambda body: ascii(body[:20]))
def test_strange_json_is_read_alike(body: bytes) -> None:
    """Twice the same name, no UTF-8, half a pair, endless numbers, and a depth without end."""
    assert told(parse, body) == told(decode, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=12,
)


@given(document=JSON, ascii_only=st.booleans())
@example(document=[10**30, "\ud800", float("nan")], ascii_only=False)
def test_any_json_is_read_alike(*, document: object, ascii_only: bool) -> None:
    """Whatever Python can write."""
    body = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert told(parse, body) == told(decode, body)


def test_damaged_callbacks_are_read_alike() -> None:
    """Bytes of a callback fall out, are doubled or become others."""
    luck = random.Random(20)
    whole = json.dumps({**success("t1"), "msg": "\u97f3 \\ud83d", "n": [1e5, -0.5, None]}).encode()
    refused = 0
    for _ in range(5000):
        body = bytearray(whole)
        for _ in range(luck.randint(1, 3)):
            at = luck.randrange(len(body))
            match luck.randrange(3):
                case 0:
                    del body[at]
                case 1:
                    body.insert(at, body[luck.randrange(len(body))])
                case _:
                    body[at] = luck.randrange(256)
        shown = told(decode, bytes(body))
        assert told(parse, bytes(body)) == shown, bytes(body)
        refused += shown.endswith("Error")
    assert 500 < refused < 4500


@pytest.mark.parametrize(
    "change",
    [
        (b"{", b"\xef\xbb\xbf{"),
        (b'"code"', b'"other": NaN, "code"'),
        (b'"code"', b'"other": "\xff", "code"'),
        (b'"code"', b'"other": "\\ud83d", "code"'),
        (b'"code"', b'"other": 1e999, "code"'),
    ],
    ids=lambda change: ascii(change[1]),
)
async def test_what_the_fast_way_refuses_is_received(
    tmp_path: Path, change: tuple[bytes, bytes]
) -> None:
    """An oddity beside the fields that count costs no callback."""
    body = json.dumps(success("t1")).encode().replace(*change, 1)
    async with open_desk(tmp_path) as desk:
        assert (await desk.post(body))[0] == 200
        task = await desk.store.task("t1")
    assert task is not None
