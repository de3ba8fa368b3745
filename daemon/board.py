"""What is known of the tasks that somebody watches.

Rule: what the ledger says is put in whole; between two looks at it only the events change it. It
neither asks nor draws.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from daemon.bars import FRESH_SECONDS

Task = dict[str, Any]

ROWS_LIMIT: Final = 500
"""Open tasks that are watched at once; the counts tell of the others."""
SETTLED: Final = frozenset({"done", "failed", "lost", "pruned"})
_FIELDS: Final = ("label", "reason", "message", "path", "size_bytes", "deadline_at", "forgotten_at")
_LOOK_AGAIN: Final = frozenset(
    {"admin.acted", "submit.recorded", "submit.answered", "callback.received", "events.dropped"}
    | {"gate.closed", "gate.opened", "config.reloaded", "ledger.restored"}
)
"""Events after which the ledger has to be asked, for they say too little themselves."""


class Board:
    """The tasks somebody watches, by id; `ids` are those that were named, none for all."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.ids = list(dict.fromkeys(ids))
        self.tasks: dict[str, Task] = {}
        self.counts: Counter[str] = Counter()
        self.gates: list[Mapping[str, Any]] = []
        self.stale = False
        """Whether the ledger has to be asked again."""
        self.vanished: list[str] = []
        """What was there before the ledger was asked, and was not in its answer."""
        self._speeds: dict[str, tuple[float, float]] = {}

    def load(self, status: Mapping[str, Any], tasks: Iterable[Task]) -> list[Task]:
        """Take in what the ledger says, and return the tasks whose state is news."""
        self.stale = False
        self.counts = Counter(status["counts"])
        self.gates = list(status["gates"])
        before, self.tasks = self.tasks, {}
        for task in tasks:
            self._keep_progress(task, before.get(task["task_id"]))
            self.tasks[task["task_id"]] = task
        self.vanished = [task_id for task_id in before if task_id not in self.tasks]
        return [
            task
            for task_id, task in self.tasks.items()
            if before.get(task_id, {}).get("state") != task["state"]
        ]

    def put(self, task: Task) -> bool:
        """Take in what the ledger says of one task, and return whether its state is news."""
        before = self.tasks.get(task["task_id"])
        self._keep_progress(task, before)
        self.tasks[task["task_id"]] = task
        return before is None or before["state"] != task["state"]

    @staticmethod
    def _keep_progress(task: Task, before: Task | None) -> None:
        """The events are ahead of the ledger, which is told of progress now and then."""
        if before is None or task["state"] != before["state"] != "expected":
            return
        task["received_bytes"] = max(task["received_bytes"], before["received_bytes"])
        task["size_bytes"] = task["size_bytes"] or before["size_bytes"]

    def take(self, event: Mapping[str, Any], now: float | None = None) -> str | None:
        """Take in an event, and return the id of the task that it moved."""
        name, task_id = event.get("event"), event.get("task_id")
        if name in _LOOK_AGAIN:
            self.stale = True
        if name == "task.moved":
            before, after = str(event.get("from")), str(event.get("to"))
            self.counts[after] += 1
            self.counts[before] = max(0, self.counts[before] - 1)
        if not isinstance(task_id, str) or not self.watches(task_id):
            return None
        if name == "download.progress":
            self._progress(task_id, event, time.monotonic() if now is None else now)
        return task_id if name == "task.moved" else None

    def watches(self, task_id: str) -> bool:
        """Tell whether somebody wants to hear of a task."""
        return not self.ids or task_id in self.ids

    def _progress(self, task_id: str, event: Mapping[str, Any], now: float) -> None:
        numbers = [event.get(name) for name in ("received_bytes", "size_bytes", "bytes_per_second")]
        received, total, speed = (one if isinstance(one, int | float) else None for one in numbers)
        task = self.tasks.setdefault(task_id, new_task(task_id, "wanted"))
        task["received_bytes"] = int(received or 0)
        task["size_bytes"] = int(total) if total else task["size_bytes"]
        self._speeds[task_id] = (float(speed or 0), now)

    def speed(self, task_id: str, now: float | None = None) -> float | None:
        """Return how fast a task comes in just now."""
        found, at = self._speeds.get(task_id, (0.0, 0.0))
        now = time.monotonic() if now is None else now
        return found if found > 0 and now - at <= FRESH_SECONDS else None

    def rows(self) -> list[Task]:
        """Return what is on its way: what is coming in first, then by deadline."""
        found = [
            task
            for task in self.tasks.values()
            if task["state"] not in SETTLED and not task["forgotten_at"]
        ]
        return sorted(found, key=_urgency)

    def retire(self) -> None:
        """Forget what ended, for its end was told; what was named is waited for."""
        if self.ids:
            return
        for task_id in [name for name, task in self.tasks.items() if task["state"] in SETTLED]:
            del self.tasks[task_id]
            self._speeds.pop(task_id, None)


def new_task(task_id: str, state: str) -> Task:
    """Return a task of which no more is known than an event says."""
    return {
        "task_id": task_id,
        "state": state,
        "received_bytes": 0,
        "next_attempt_at": "",
        **dict.fromkeys(_FIELDS),
    }


def _urgency(task: Task) -> tuple[bool, str, str]:
    comes_in = task["state"] == "wanted" and task["received_bytes"] > 0
    return not comes_in, task["deadline_at"] or "~", task["task_id"]
