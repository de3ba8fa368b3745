"""S2: machine-made callbacks, signatures and tokens: each is answered, and none is believed.

More of them: `FUZZ_EXAMPLES=20000 .venv/bin/pytest --timeout 0` with this file.
"""

import asyncio
import json
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config import environment
from daemon.rules.notice import (
    TASK_ID,
    Evidence,
    Notice,
    Unreadable,
    check_signature,
    check_token,
    read_callback,
    sign,
)
from tests.security.wire import request, say
from tests.stations.listening import TOKEN, open_desk

EXAMPLES = int(environment().get("FUZZ_EXAMPLES", "300"))
MANY = settings(max_examples=EXAMPLES)

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["200", "0", "t1", "https://a.example/v.mp4", "\ud800", "a/b", "\x00"])
)
_NAMES = st.sampled_from(
    ["code", "msg", "data", "task_id", "taskId", "video_url", "videoUrl", "callbackType", "x"]
)
_DOCUMENTS = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)
_CALLBACKS = st.fixed_dictionaries(
    {"code": _LEAVES, "data": st.dictionaries(_NAMES, _LEAVES, max_size=5) | _LEAVES},
    optional={"msg": _LEAVES, "task_id": _LEAVES},
)
_BODIES = (
    st.binary(max_size=60)
    | (_DOCUMENTS | _CALLBACKS).map(lambda document: json.dumps(document).encode())
    | st.text(max_size=40).map(lambda text: text.encode("utf-16", "surrogatepass"))
)


def read(body: bytes) -> Notice | None:
    """Read a body; None is one for the quarantine."""
    try:
        return read_callback(body)
    except Unreadable:
        return None


@MANY
@given(_BODIES)
def test_s2_05_any_bytes_are_a_notice_or_for_the_quarantine(body: bytes) -> None:
    """What comes out is whole: an id that can be stored, texts that can be kept, one evidence."""
    notice = read(body)
    if notice is None:
        return
    assert TASK_ID.fullmatch(notice.task_id)
    assert isinstance(notice.evidence, Evidence)
    assert len(notice.message) <= 2048
    for text in (notice.message, notice.link or "", notice.task_id):
        text.encode("utf-8")
    if notice.evidence is Evidence.SUCCESS:
        assert notice.link
        assert isinstance(notice.link, str)
    assert notice.code is None or type(notice.code) is int


@MANY
@given(st.text(st.characters(), max_size=60), st.text(st.characters(), max_size=60), st.floats())
def test_s2_03_no_made_up_signature_is_genuine(timestamp: str, signature: str, now: float) -> None:
    """And none raises, whatever bytes stand in the headers."""
    assert not check_signature(["a-key-of-this-test"], "t1", timestamp, signature, now)


@MANY
@given(st.integers(0, 10**12 - 1), st.integers(-400, 400), st.text(max_size=20))
def test_s2_03_a_signature_is_good_within_its_window_only(
    at: int, drift: int, task_id: str
) -> None:
    """For the id and the moment that it was made for."""
    good = sign("a-key-of-this-test", task_id, at)
    genuine = check_signature(["x", "a-key-of-this-test"], task_id, str(at), good, at + drift)
    assert genuine == (abs(drift) <= 300)
    assert not check_signature(["a-key-of-this-test"], task_id + "x", str(at), good, at)


@MANY
@given(st.text(st.characters(), max_size=60))
def test_s2_02_no_made_up_token_opens(token: str) -> None:
    """Nor raises."""
    assert not check_token(token, [TOKEN])


async def test_s2_05_no_body_over_the_wire_is_an_error_of_ours(tmp_path: Path) -> None:
    """Hundreds of them, over real connections, in batches as they come."""
    bodies: list[bytes] = []

    @settings(max_examples=200, database=None)
    @given(_BODIES)
    def gather(body: bytes) -> None:
        bodies.append(body)

    gather()
    began = time.monotonic()
    async with open_desk(tmp_path) as desk:
        for start in range(0, len(bodies), 20):
            batch = bodies[start : start + 20]
            line = f"POST /video-callback/{TOKEN}"
            raw = [
                request(line, "Connection: close", f"Content-Length: {len(body)}", framed=False)
                + body
                for body in batch
            ]
            heard = await asyncio.gather(*(say(desk.url, one) for one in raw))
            assert {one.status for one in heard} == {200}
        taken = sum((await desk.store.counts()).values())
        tasks = await desk.store.tasks((), 999, None)
    assert taken == len(tasks)
    assert all(TASK_ID.fullmatch(task.task_id) for task in tasks)
    assert time.monotonic() - began < 60
