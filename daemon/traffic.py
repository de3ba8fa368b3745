"""What the attempts of one process share: bytes, buffers, and what hosts put up with.

Rule: memory is bounded by all connections together, however many there are; nothing that a host
did is held against it for longer than an hour.
"""

import time
from typing import Final

from daemon.flow import Flow
from daemon.right_of_way import RightOfWay

BUFFER_BYTES: Final = 1 << 20
LEAST_BUFFER_BYTES: Final = 64 << 10
BUFFERS_BYTES: Final = 8 << 20
"""What the buffers of all connections hold together, some three times over."""
SHY_SECONDS: Final = 3600.0
"""For how long a host that refused a second connection is left with one."""
SHY_LIMIT: Final = 1_000


class Traffic:
    """What the attempts of one process share: the flow, the buffers, and what hosts put up with."""

    def __init__(self, flow: Flow, way: RightOfWay) -> None:
        self.flow = flow
        self.way = way
        self.connections = 0
        self._shy: dict[str, float] = {}

    def buffer_bytes(self) -> int:
        """Return what one connection may keep in memory."""
        share = BUFFERS_BYTES // max(1, self.connections)
        return self.flow.piece_bytes(max(LEAST_BUFFER_BYTES, min(BUFFER_BYTES, share)))

    def is_shy(self, host: str) -> bool:
        """Say whether a host is to be left with one connection for a file."""
        return self._shy.get(host, 0.0) > time.monotonic()

    def leave_alone(self, host: str) -> None:
        """Note that a host does not like several connections."""
        if len(self._shy) >= SHY_LIMIT:
            self._shy.clear()
        self._shy[host] = time.monotonic() + SHY_SECONDS
