"""Values that are right alone are also right together, or it is said."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.config.agreement import find_conflicts, find_doubts
from daemon.config.sections import Secret, TcpEndpoint

ANYWHERE = TcpEndpoint("0.0.0.0", 9000)  # noqa: S104
LOOPBACK = TcpEndpoint("127.0.0.1", 9000)
FREE_PORT = TcpEndpoint("127.0.0.1", 0)
KEY = Secret("x")
SHORT = timedelta(seconds=1)
LONG = timedelta(seconds=2)

SOUND: dict[str, Any] = {
    "callback.listen": TcpEndpoint("127.0.0.1", 8080),
    "callback.trust": "callback",
    "callback.tokens": (),
    "callback.hmac_keys": (),
    "callback.public_url": None,
    "callback.tls_certificate": None,
    "callback.tls_private_key": None,
    "provider.api_key": None,
    "poll.interval": SHORT,
    "poll.max_interval": SHORT,
    "download.retry_first": SHORT,
    "download.retry_max": SHORT,
    "admin.listen": None,
    "admin.token": None,
}


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ({"poll.interval": LONG}, ("poll.interval", "poll.max_interval")),
        ({"download.retry_first": LONG}, ("download.retry_first", "download.retry_max")),
        ({"callback.trust": "confirm"}, ("callback.trust", "provider.api_key")),
        ({"admin.listen": ANYWHERE}, ("admin.listen", "admin.token")),
        (
            {"callback.tls_certificate": Path("c.pem")},
            ("callback.tls_certificate", "callback.tls_private_key"),
        ),
        (
            {"admin.listen": LOOPBACK, "callback.listen": LOOPBACK},
            ("admin.listen", "callback.listen"),
        ),
    ],
)
def test_a_conflict_names_both_keys(changed: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Each conflict is one report, with the key to mend first; without one side there is none."""
    ((found, message),) = find_conflicts(SOUND | changed)
    assert found == keys
    assert message
    for missing in keys:
        rest = {name: value for name, value in (SOUND | changed).items() if name != missing}
        assert not list(find_conflicts(rest))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"poll.max_interval": LONG, "download.retry_max": LONG},
        {"callback.trust": "confirm", "provider.api_key": KEY},
        {"admin.listen": ANYWHERE, "admin.token": KEY},
        {"admin.listen": LOOPBACK},
        {"admin.listen": TcpEndpoint("::1", 9000)},
        {"admin.listen": FREE_PORT, "callback.listen": FREE_PORT},
        {"admin.listen": LOOPBACK, "callback.listen": None},
    ],
)
def test_what_goes_together_is_no_conflict(changed: dict[str, Any]) -> None:
    """Equal limits, a key, a token, a loopback address and two free ports are all fine."""
    assert not list(find_conflicts(SOUND | changed))


@pytest.mark.parametrize(
    ("changed", "warning"),
    [
        ({"callback.tokens": (Secret("x" * 16), Secret("x" * 15))}, "callback.tokens: what is sh"),
        (
            {"callback.hmac_keys": (Secret("x" * 15),)},
            "callback.hmac_keys: what is shorter than 16",
        ),
        ({"admin.token": Secret("x" * 15)}, "admin.token: what is shorter than 16 characters"),
        ({"admin.token": Secret("put-a-long-random-text-here")}, "admin.token: still the text of"),
        (
            {"callback.tokens": (Secret("put-a-long-random-text-here"),)},
            "callback.tokens: still the text of",
        ),
        ({"provider.api_key": Secret("put-your-api-key-here")}, "provider.api_key: still the text"),
        (
            {"admin.listen": LOOPBACK, "provider.api_key": KEY},
            "admin.listen: without admin.token",
        ),
        (
            {
                "callback.tokens": (Secret("x" * 16),),
                "callback.public_url": f"https://x.example/video-callback/{'x' * 16}",
            },
            "callback.public_url: expected without the token",
        ),
        ({"callback.public_url": "http://x.example"}, "callback.public_url: without https"),
        ({"callback.public_url": "http://10.0.0.1:8080/cb"}, "callback.public_url: without https"),
        ({"callback.public_url": "http://localhost.example"}, "callback.public_url: without https"),
    ],
)
def test_a_doubt_names_its_key(changed: dict[str, Any], warning: str) -> None:
    """A secret that can be guessed and a URL in the clear are said once each."""
    (found,) = find_doubts(SOUND | changed)
    assert found.startswith(warning)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"callback.tokens": (Secret("x" * 16),), "admin.token": Secret("x" * 16)},
        {"callback.public_url": "https://x.example"},
        {"callback.public_url": "http://127.0.0.1:8080/video-callback"},
        {"callback.public_url": "http://[::1]:8080/video-callback"},
        {"callback.public_url": "http://localhost/video-callback"},
        {"provider.api_key": KEY},
    ],
)
def test_a_sound_configuration_raises_no_doubt(changed: dict[str, Any]) -> None:
    """Sixteen characters do, and https or nobody on the way; an API key's length is not ours."""
    assert not list(find_doubts(SOUND | changed))
