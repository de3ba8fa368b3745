"""File hosts in trouble: after some failures in a row, one download tries and the others wait.

Rule: what waits for a host is not charged with an attempt, and a host's trouble holds back its own
downloads alone. Any answer that is no trouble opens its gate, and so do bytes that came before a
download broke off.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

from daemon.gates import Gates
from daemon.rules.address import name_host
from daemon.rules.failure import Hindered, Reason, StepFailed, Trouble
from daemon.rules.schedule import HOST_FAILURES, HOUR, SECOND
from daemon.rules.spans import Spans
from daemon.rules.task import Task

PROBING_MS: Final = 30 * SECOND
"""How long the others wait while one download is trying."""
IDLE_MS: Final = HOUR
HOSTS_LIMIT: Final = 1_000
_PREFIX: Final = "host:"


def open_gate(gates: Gates, link: str) -> None:
    """Let the other downloads of a host go on: bytes come from it."""
    host = name_host(link)
    if host is not None:
        gates.open(_PREFIX + host)


class Hosts:
    """Failures in a row by host, and the gates `host:<name>`."""

    def __init__(
        self, gates: Gates, now: Callable[[], int], retry_limit_ms: Callable[[], int]
    ) -> None:
        self._gates = gates
        self._now = now
        self._retry_limit_ms = retry_limit_ms
        self._failures: Counter[str] = Counter()

    def hold_back(self, task: Task) -> int | None:
        """Return when to look again at a task whose host is in trouble; None: it may be fetched."""
        host = name_host(task.next_link)
        if host is None:
            return None
        shut = self._gates.take_probe(_PREFIX + host)
        if shut is None:
            return None
        return min(shut.probe_at, self._now() + PROBING_MS) if shut.probed else shut.probe_at

    def is_shut(self, task: Task) -> bool:
        """Return whether the host of a task's link is in trouble."""
        host = name_host(task.next_link)
        return host is not None and self._gates.is_shut(_PREFIX + host)

    def learn(self, task: Task, spans_after: str, failure: StepFailed | None) -> None:
        """Note how an attempt ended; `task` is the row as it began."""
        host = name_host(task.next_link)
        if host is None or isinstance(failure, Hindered):
            return
        came = Spans.parse(spans_after).total_bytes > Spans.parse(task.spans).total_bytes
        in_trouble = isinstance(failure, Trouble) and failure.reason is not Reason.TOO_LARGE
        if not in_trouble or came:
            self._failures.pop(host, None)
            self._gates.open(_PREFIX + host)
            return
        if host in self._failures or len(self._failures) < HOSTS_LIMIT:
            self._failures[host] += 1
        if failure is not None and self._failures[host] >= HOST_FAILURES:
            limit_ms = self._retry_limit_ms()
            self._gates.close(_PREFIX + host, failure.message, limit_ms=limit_ms)

    def forget_idle(self) -> None:
        """Open the gates that nobody wanted to pass for an hour: no link leads there any more."""
        for shut in self._gates.shut():
            if shut.name.startswith(_PREFIX) and shut.probe_at + IDLE_MS < self._now():
                self._failures.pop(shut.name.removeprefix(_PREFIX), None)
                self._gates.open(shut.name)
