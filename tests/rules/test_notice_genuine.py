"""Only who knows the token, or the key, is believed."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.notice import SIGNATURE_WINDOW_SECONDS, check_signature, check_token, sign

KEY = "whk_example_key_for_tests"
ID = "e7a6b9f3d91c93282a5bb2e610520e7f"
AT = 1_766_000_000
SIGNATURE = "mxoLAfP4HTEzoXX62sKd0XuJ0wOfb2OWupvIKwEdguw="


def check(
    *,
    keys: tuple[str, ...] = (KEY,),
    task_id: str = ID,
    timestamp: str | None = str(AT),
    signature: str | None = SIGNATURE,
    now: float = AT,
) -> bool:
    """Check the known signature, with one thing about it changed."""
    return check_signature(keys, task_id, timestamp, signature, now)


def test_known_signature() -> None:
    """kie.ai's scheme gives the known value for the known key, id and time."""
    assert sign(KEY, ID, AT) == SIGNATURE
    assert check()


def test_the_scheme_spelled_out() -> None:
    """It is standard base64 of HMAC-SHA256 over the id, a dot and the Unix seconds."""
    digest = hmac.new(b"other key", b"task-1.1700000000", hashlib.sha256).digest()
    assert sign("other key", "task-1", 1_700_000_000) == base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("drift", "genuine"),
    [(0, True), (299, True), (300, True), (300.001, False), (301, False), (86_400, False)],
)
def test_window(drift: float, genuine: bool) -> None:  # noqa: FBT001 - a column of the table
    """A signature counts for 300 s before and after its time, and not a moment longer."""
    assert SIGNATURE_WINDOW_SECONDS == 300
    assert check(now=AT + drift) is genuine
    assert check(now=AT - drift) is genuine


def test_the_key_can_be_rotated() -> None:
    """Any of the keys may have signed; without a key nothing is genuine."""
    assert check(keys=("new key", KEY))
    assert check(keys=(KEY, "new key"))
    assert not check(keys=("new key", "another"))
    assert not check(keys=())


def test_it_covers_id_and_time() -> None:
    """The signature of another task, or of another second, is none."""
    assert not check(task_id=ID.replace("e", "f"))
    assert not check(timestamp=str(AT + 1))


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        "now",
        f" {AT}",
        f"{AT} ",
        f"{AT}\n",
        f"+{AT}",
        f"-{AT}",
        f"{AT}.0",
        f"{AT}000",
        "1_766_000_000",
        "١٧٦٦٠٠٠٠٠٠",
    ],
)
def test_odd_timestamps(timestamp: str) -> None:
    """A time is 1 to 12 plain digits, even when its odd form was signed."""
    digest = hmac.new(KEY.encode(), f"{ID}.{timestamp}".encode(), hashlib.sha256).digest()
    assert not check(timestamp=timestamp, signature=base64.b64encode(digest).decode())


def test_no_headers() -> None:
    """Without both headers nothing is genuine."""
    assert not check(timestamp=None)
    assert not check(signature=None)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "====",
        SIGNATURE[:-1],
        SIGNATURE.rstrip("="),
        f"{SIGNATURE}\n",
        f" {SIGNATURE}",
        f"sha256={SIGNATURE}",
        base64.b64decode(SIGNATURE).hex(),
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "ä" * 44,
        "\udcff",
        SIGNATURE.swapcase(),
    ],
)
def test_odd_signatures(signature: str) -> None:
    """Nothing but the standard base64 of the digest passes, and nothing raises."""
    assert not check(signature=signature)


@pytest.mark.parametrize("task_id", ["ä", "\ud800", "", "a.b"])
def test_odd_ids_can_be_signed(task_id: str) -> None:
    """The id of an unreadable callback may be any text, and its signature still counts."""
    assert check(task_id=task_id, signature=sign(KEY, task_id, AT))


@given(st.text(), st.text(), st.text(st.characters()), st.floats(allow_nan=False))
def test_checking_never_raises(timestamp: str, signature: str, task_id: str, now: float) -> None:
    """Whatever the headers hold, the answer is no."""
    assert not check(task_id=task_id, timestamp=timestamp, signature=signature, now=now)


TOKENS = ("current-token-0123456789", "old-token-0123456789")


@pytest.mark.parametrize("token", TOKENS)
def test_every_token_opens(token: str) -> None:
    """The current token and every old one are accepted."""
    assert check_token(token, TOKENS)


@pytest.mark.parametrize(
    "candidate",
    [
        "",
        "current-token",
        f"{TOKENS[0]}x",
        f"{TOKENS[0]}/",
        f"{TOKENS[0]}\n",
        TOKENS[0].upper(),
        "".join(TOKENS),
        "ä",
        "\udcff",
        "\x00",
    ],
)
def test_nothing_else_opens(candidate: str) -> None:
    """Another text is refused, also beyond ASCII, where a comparison of texts would raise."""
    assert not check_token(candidate, TOKENS)
    assert not check_token(candidate, ())


def test_a_token_beyond_ascii_opens() -> None:
    """Tokens are compared as bytes, so any text may be one."""
    assert check_token("schlüssel", ("schlüssel",))
