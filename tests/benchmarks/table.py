"""The figures of a run as rows of one table, and whether each goal is met.

Rule: what is compared was measured turn and turn about in one run. A ratio is the median of the
ratios of the rounds, so that a load that comes and goes weighs on both sides alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

HEAD: Final = (
    "| what | ours | peer | ratio | goal | met? |\n| --- | ---: | ---: | ---: | --- | --- |"
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a ratio, or where there is no peer a figure, has to be."""

    sign: Literal[">=", "<="]
    limit: float
    unit: str = ""

    def is_met(self, value: float) -> bool:
        """Tell whether a value is good enough."""
        return value >= self.limit if self.sign == ">=" else value <= self.limit

    def __str__(self) -> str:  # type: ignore[explicit-override] # typing.override is 3.12
        """Write it for the table: `x` is a ratio."""
        limit = f"{self.limit:.2f} x" if not self.unit else write(self.limit, self.unit)
        return f"{self.sign} {limit}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    ours: str = ""
    peer: str = ""
    ratio: str = ""
    goal: str = ""
    met: str = ""

    def __str__(self) -> str:  # type: ignore[explicit-override] # typing.override is 3.12
        """Write it as Markdown."""
        cells = (self.what, self.ours, self.peer, self.ratio, self.goal, self.met)
        return f"| {' | '.join(cells)} |"


def compare(
    what: str,
    ours: Sequence[float],
    peer: Sequence[float],
    unit: str,
    name: str,
    goal: Goal | None = None,
) -> Row:
    """Return the row of two sides that were measured in turn; round for round they belong together.

    Raises:
        ValueError: one side has another number of rounds.
    """
    ratio = median(left / right for left, right in zip(ours, peer, strict=True))
    return Row(
        what,
        write(median(ours), unit),
        f"{write(median(peer), unit)} {name}",
        f"{ratio:.2f}",
        "" if goal is None else str(goal),
        "" if goal is None else say(met=goal.is_met(ratio)),
    )


def judge(what: str, values: Iterable[float], unit: str, goal: Goal | None = None) -> Row:
    """Return the row of a figure that is held against a limit of its own."""
    value = median(values)
    return Row(
        what,
        write(value, unit),
        goal="" if goal is None else str(goal),
        met="" if goal is None else say(met=goal.is_met(value)),
    )


def skip(what: str, why: str) -> Row:
    """Return the row of something that could not be measured here."""
    return Row(what, met=f"skipped: {why}")


def say(*, met: bool) -> str:
    """Write whether a goal is met."""
    return "yes" if met else "**no**"


def write(value: float, unit: str) -> str:
    """Write a figure with its unit and as many digits as mean something."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:,.{digits}f} {unit}".rstrip()


def quantile(values: Sequence[float], share: float) -> float:
    """Return what this share of the values is at most."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
