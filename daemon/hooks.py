"""Asks the URLs that the operator wrote: what is to be told something, and the heartbeat's.

Rule: they are trusted, so no address guard looks at them; no redirect is followed, for it would
take a token to another place. No error repeats a URL.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import aiohttp

from daemon import __version__
from daemon.outbound import Session, customs, post_session
from daemon.rules.failure import Reason, Trouble, Unreached

_AGENT: Final = f"suno-videod/{__version__}"


class Unwelcome(Trouble):
    """The other side answered, and not with a 2xx."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(Reason.NETWORK, message)
        self.status = status


def hook_session() -> Session:
    """Open the session for `call_hook`."""
    return post_session(force_close=True)


async def call_hook(
    session: Session,
    method: str,
    url: str,
    seconds: float,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> int:
    """Ask `url` and return the HTTP status, which is a 2xx.

    Raises:
        Unwelcome: any other status.
        Trouble: the network or the host failed before an answer came, or not within `seconds`.
    """
    try:
        with customs():
            async with session.request(
                method,
                url,
                data=body,
                headers={"User-Agent": _AGENT, **(headers or {})},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as response:
                status: int = response.status
    except Unreached:
        raise
    except Trouble as trouble:
        if trouble.reason is Reason.STALLED:
            raise Trouble(Reason.STALLED, f"no answer within {seconds:g} s") from None
        raise
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return status
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise Unwelcome(status, f"answered HTTP {status}, a redirect, and none is followed")
    raise Unwelcome(status, f"answered HTTP {status}")
