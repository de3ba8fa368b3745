"""Do the values of the configuration agree with one another?

Rule: a key that is missing from `values` is itself mistaken and has been reported; nothing more is
said about it here.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from daemon.config.endpoints import TcpEndpoint, UnixEndpoint, is_loopback
from daemon.config.sections import KEYS
from daemon.config.units import format_duration

SHORT_SECRET: Final = 16
"""Characters below which a token or a signing key can be guessed."""

_ASCENDING = (
    ("poll.interval", "poll.max_interval"),
    ("download.retry_first", "download.retry_max"),
)
_TLS = ("callback.tls_certificate", "callback.tls_private_key")
_PLACEHOLDER = "put-"
"""How the values of the example begin."""
_GUESSABLE = ("callback.tokens", "callback.hmac_keys", "admin.token")


def find_conflicts(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each conflict with the keys it lies between, the one to mend first."""
    for less, more in _ASCENDING:
        if {less, more} <= values.keys() and values[less] > values[more]:
            shown = [f'{name} = "{format_duration(values[name])}"' for name in (less, more)]
            yield (less, more), f"expected {shown[0]} to be no longer than {shown[1]}"
    match values:
        case {"callback.trust": "confirm", "provider.api_key": None}:
            yield (
                ("callback.trust", "provider.api_key"),
                '"confirm" asks the provider: set provider.api_key too, or trust = "callback"',
            )
    certificate, key = _TLS
    if set(_TLS) <= values.keys() and (values[certificate] is None) != (values[key] is None):
        yield _TLS, f"{certificate} and {key} go together: set both, or none behind a proxy"
    match values:
        case {"admin.listen": TcpEndpoint(host=host), "admin.token": None} if not is_loopback(host):
            yield (
                ("admin.listen", "admin.token"),
                "expected admin.token beside an address that is not loopback",
            )
    match values:
        case {
            "admin.listen": TcpEndpoint(port=port) as admin,
            "callback.listen": callback,
        } if port and admin == callback:
            yield ("admin.listen", "callback.listen"), "callback.listen has the same address"


def find_doubts(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning for each value that works and is still unwise."""
    for name in _GUESSABLE:
        secrets = values[name] if KEYS[name].listed else filter(None, [values[name]])
        if any(len(secret.reveal()) < SHORT_SECRET for secret in secrets):
            yield f"{name}: what is shorter than {SHORT_SECRET} characters can be guessed"
    for name in (*_GUESSABLE, "provider.api_key"):
        secrets = values[name] if KEYS[name].listed else filter(None, [values[name]])
        if any(secret.reveal().startswith(_PLACEHOLDER) for secret in secrets):
            yield f"{name}: still the text of the example, which everybody knows: put your own in"
    if values["callback.tls_certificate"] and isinstance(values["callback.listen"], UnixEndpoint):
        yield "callback.tls_certificate: not used on a unix socket, whose proxy speaks TLS"
    if values["admin.listen"] and values["admin.token"] is None and values["provider.api_key"]:
        yield "admin.listen: without admin.token every user of this machine can spend your credits"
    public = urlsplit(values["callback.public_url"] or "")
    last = public.path.rpartition("/")[2]
    if any(last == token.reveal() for token in values["callback.tokens"]):
        yield "callback.public_url: expected without the token, which is put behind it"
    if public.scheme == "http" and not is_loopback(public.hostname or ""):
        yield "callback.public_url: without https anyone on the way can read the token"
