"""A test callback is known by its own member alone, and never taken for a message of a provider."""

import json

import pytest

from daemon.rules.notice import Unreadable, read_callback
from daemon.rules.rehearsal import MEMBER, make_body, read_nonce

NONCE = "0123456789abcdef" * 2


def refuse(body: dict[str, object]) -> Unreadable:
    """Return why a body is no video callback."""
    with pytest.raises(Unreadable) as refused:
        read_callback(json.dumps(body).encode())
    return refused.value


def test_a_test_is_recognised_and_its_signature_covers_the_nonce() -> None:
    """What is sent is what is recognised."""
    refused = refuse(json.loads(make_body(NONCE)))
    assert (refused.nonce, refused.signed_id) == (NONCE, NONCE)


@pytest.mark.parametrize(
    "body",
    [
        {"code": 200, "data": None},
        {"code": 200, MEMBER: NONCE},
        {"code": 200, "data": {}, MEMBER: NONCE},
        {"code": 200, "data": {"video_url": "https://x.example/a.mp4"}, MEMBER: NONCE},
        {"code": 200, "data": None, MEMBER: NONCE.upper()},
        {"code": 200, "data": None, MEMBER: NONCE[:-1]},
        {"code": 200, "data": None, MEMBER: [NONCE]},
        {"code": 200, "data": None, MEMBER: NONCE, "voiceId": "v"},
    ],
)
def test_anything_else_is_no_test(body: dict[str, object]) -> None:
    """It goes to quarantine, as everything with the right token that nobody can read."""
    assert refuse(body).nonce is None


def test_a_task_id_makes_it_a_callback() -> None:
    """No video is lost because somebody added a member to its callback."""
    for body in (
        {"code": 200, "data": None, "taskId": "t1", MEMBER: NONCE},
        {"code": 200, "data": {"task_id": "t1"}, MEMBER: NONCE},
    ):
        assert read_callback(json.dumps(body).encode()).task_id == "t1"


@pytest.mark.parametrize(("header", "nonce"), [(NONCE, NONCE), (None, None), ("x" * 32, None)])
def test_a_header_carries_a_nonce_or_nothing(header: str | None, nonce: str | None) -> None:
    """What anybody may send is not kept."""
    assert read_nonce(header) == nonce
