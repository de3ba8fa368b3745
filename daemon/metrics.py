"""What Prometheus is told: the names, and what is counted while it happens.

Rule: every label has a small, fixed set of values: no host, task, path or token becomes a label,
whatever strangers send. What a moment is like is read at the moment of the scrape, in `readings`.

Source: https://prometheus.io/docs/practices/naming/
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from daemon import __version__
from daemon.rules.dialect import Outcome
from daemon.rules.failure import Reason, StepFailed
from daemon.rules.lifecycle import State
from daemon.rules.task import Move, Task

GATES: Final = ("api", "credits", "disk", "host", "key", "maintenance", "rate")
"""Those of single hosts count as one: their names come from outside."""
_PREFIX: Final = "suno_videod"
_COMMIT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_FETCH_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

_Families: TypeAlias = list[GaugeMetricFamily | CounterMetricFamily]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one moment is like: a value, or one for each value of `label`; None is not known.

    `counted` is for what only grows while the process lives.
    """

    name: str
    told: str
    value: float | Mapping[str, float] | None
    label: str = ""
    counted: bool = False


class _Readings(Collector):
    def __init__(self) -> None:
        self.latest: _Families = []

    def collect(self) -> _Families:  # type: ignore[explicit-override]  # typing.override is 3.12
        return self.latest


def _describe(reading: Reading) -> GaugeMetricFamily | CounterMetricFamily:
    kind = CounterMetricFamily if reading.counted else GaugeMetricFamily
    family = kind(
        f"{_PREFIX}_{reading.name}", reading.told, labels=[reading.label][: bool(reading.label)]
    )
    if isinstance(reading.value, Mapping):
        for label, value in reading.value.items():
            family.add_metric([label], value)
    elif reading.value is not None:
        family.add_metric([], reading.value)
    return family


Step: TypeAlias = Callable[[Task], Awaitable[Task]]


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        # The moment of their making, which else stands beside every counter as one more series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info("build", "Version", namespace=_PREFIX, registry=self.registry).info(
            {"version": __version__}
        )
        self._moves = self._counter("task_moves", "Changes of state, by the new one", "state")
        self._downloads = self._counter("downloads", "Attempts that ended, and how", "outcome")
        self._calls = self._counter("provider_calls", "Our calls to the provider", "outcome")
        self._messages = self._counter("notifications", "Tries to tell somebody", "outcome")
        self.commit_seconds = Histogram(
            "commit_seconds",
            "How long transactions of the ledger take, with the sync of the disk",
            namespace=_PREFIX,
            buckets=_COMMIT_SECONDS,
            registry=self.registry,
        )
        self._fetch_seconds = Histogram(
            "download_seconds",
            "How long downloads take that bring a whole video",
            namespace=_PREFIX,
            buckets=_FETCH_SECONDS,
            registry=self.registry,
        )
        self._readings = _Readings()
        self.registry.register(self._readings)
        for state in State:
            self._moves.labels(state)
        for outcome in ("fetched", *Reason):
            self._downloads.labels(outcome)
        for told in ("delivered", "delayed", "given_up"):
            self._messages.labels(told)
        for answered in Outcome:
            self._calls.labels(answered.value)

    def _counter(self, name: str, told: str, label: str) -> Counter:
        return Counter(name, told, [label], namespace=_PREFIX, registry=self.registry)

    def show(self, readings: Iterable[Reading]) -> None:
        """Take what the next scrape shows beside what is counted; what is not known is left out."""
        self._readings.latest = [_describe(reading) for reading in readings]

    def count_moves(self, moves: Sequence[Move]) -> None:
        """Count changes of state."""
        for move in moves:
            self._moves.labels(move.task.state).inc()

    def count_call(self, outcome: Outcome) -> None:
        """Count a call to the provider."""
        self._calls.labels(outcome.value).inc()

    def count_message(self, outcome: str) -> None:
        """Count a try to tell a target or an application: delivered, delayed or given_up."""
        self._messages.labels(outcome).inc()

    def counted(self, fetch: Step, clock: Callable[[], float]) -> Step:
        """Return the download step, with its ends counted."""

        async def fetch_and_count(task: Task) -> Task:
            began = clock()
            try:
                fetched = await fetch(task)
            except StepFailed as failure:
                self._downloads.labels(failure.reason).inc()
                raise
            self._downloads.labels("fetched").inc()
            self._fetch_seconds.observe(clock() - began)
            return fetched

        return fetch_and_count
