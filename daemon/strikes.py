"""Who failed how often in the last minute.

Rule: the memory is bounded whoever comes; the oldest clients are forgotten first.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from daemon.rules.forwarded import group_client

STRIKES_LIMIT: Final = 5
STRIKES_SECONDS: Final = 60.0
CLIENTS_LIMIT: Final = 10_000


class Strikes:
    """Failures by client; `clock` counts seconds. IPv6 clients are whole networks of 64 bits."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._clients: OrderedDict[str, list[float]] = OrderedDict()

    def count(self, client: str) -> bool:
        """Count a failure; return whether the client had too many before this one."""
        name, now = group_client(client), self._clock()
        recent = self._recent(name)
        self._clients[name] = [*recent, now][-STRIKES_LIMIT:]
        self._clients.move_to_end(name)
        if len(self._clients) > CLIENTS_LIMIT:
            self._clients.popitem(last=False)
        return len(recent) >= STRIKES_LIMIT

    def is_out(self, client: str) -> bool:
        """Return whether the client failed too often already; counts nothing."""
        return len(self._recent(group_client(client))) >= STRIKES_LIMIT

    def _recent(self, name: str) -> list[float]:
        now = self._clock()
        return [at for at in self._clients.get(name, []) if now - at < STRIKES_SECONDS]
