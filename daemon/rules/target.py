"""Where an event goes: the name, the key and the secrets of a target's URL.

Rule: a URL may hold a token in any of its parts, so it is shown by its scheme, and for http(s) by
its host, and known to the ledger by a digest.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote, unquote_plus

PREFIX: Final = "notify:"
"""What the keys of targets begin with; the URL of an application never does."""

_KEY_DIGITS: Final = 32
_LONG: Final = 16
_SHORT: Final = 8
_PASSWORD: Final = 4
_PLAIN: Final = frozenset({"true", "false", "post", "html", "text", "markdown"})
# Names and IPv4 addresses; what is hidden is hidden in every line of the log.
_HOST = re.compile(r"(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}|(?:[0-9]{1,3}\.){3}[0-9]{1,3}")


def key_of(url: str) -> str:
    """Return what a target is called in the ledger."""
    return PREFIX + hashlib.sha256(url.encode()).hexdigest()[:_KEY_DIGITS]


def is_web(url: str) -> bool:
    """Tell whether we post to it ourselves."""
    return url.lower().startswith(("http://", "https://"))


def name_of(url: str) -> str:
    """Return what people may read of a URL: `https://hooks.example.com`, or `ntfy`."""
    scheme, _, rest = url.partition("://")
    if not is_web(url):
        return scheme.lower()
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    return f"{scheme.lower()}://{authority.rpartition('@')[2]}"


def tokens_of(url: str) -> Iterator[str]:
    """Yield the parts of a URL that must be read nowhere: a message of a library may repeat one.

    Passwords and the values of a query always; any other part when it looks like a token, for to
    hide `videos` would make every log line hard to read.
    """
    _, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    user, at, _ = place.rpartition("@")
    authority, _, path = place.partition("/")
    if is_web(url):
        # What is shown of it may not be hidden.
        authority = authority.rpartition("@")[0]
    found = {user.partition(":")[2] if at else ""}
    found |= {pair.partition("=")[2] for pair in query.partition("#")[0].split("&")}
    tokens = {one for one in found if len(one) >= _PASSWORD and one.lower() not in _PLAIN}
    tokens |= {one for one in re.split("[/:@,&]", f"{authority}/{path}") if _looks_secret(one)}
    for token in sorted(tokens):
        yield from {token, unquote(token), unquote_plus(token)}


def _looks_secret(part: str) -> bool:
    if _HOST.fullmatch(part):
        return False
    return len(part) >= _LONG or (len(part) >= _SHORT and any(map(str.isdigit, part)))
