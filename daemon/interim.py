"""Lets no host talk for ever before it answers.

Rule: before an answer a host may say a few times that it is still at work (1xx, RFC 9110, 15.2).
aiohttp reads as many of these as come, thousands at a stretch, and callbacks wait meanwhile.
"""

# mypy: disable-error-code="explicit-override"
# typing.override came with Python 3.12.

import asyncio
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler

MOST: Final = 32


class _Handler(ResponseHandler):
    """The client's side of a connection."""

    _interim = 0

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a message, or hang up where it is one too many that is no answer."""
        if self._interim > MOST:
            return
        is_interim = 100 <= data[0].code < 200  # noqa: PLR2004 - the informational class
        self._interim = self._interim + 1 if is_interim else 0
        if self._interim <= MOST:
            super().feed_data(data, size)
            return
        # In this order: hanging up forgets the exception.
        self.abort()
        self.set_exception(aiohttp.ServerDisconnectedError(f"over {MOST} interim answers"))


def bounded(connector: aiohttp.TCPConnector) -> aiohttp.TCPConnector:
    """Return `connector`, whose connections bear no more than that; aiohttp has no setting."""
    make: Any = partial(_Handler, loop=asyncio.get_running_loop())
    connector._factory = make  # noqa: SLF001 - there is no public way
    return connector
