"""How far a task is: one line, for a terminal of any width.

Rule: one drawing for all that show progress. A line is never wider than it may be: what does not
fit is left out, the least needed first, and an id is shortened in its middle.
"""

import time
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import humanize

from daemon.wording import size, text

Row = Mapping[str, Any]

FRESH_SECONDS: Final = 5.0
"""A speed that was not heard of for longer is no speed any more."""
NEAR: Final = timedelta(hours=72)
_OPEN: Final = frozenset({"expected", "wanted", "verified"})
_PLACED: Final = frozenset({"stored", "done"})
_MARK: Final = ".."
_ID_LEAST, _BAR_LEAST, _BAR_MOST = 16, 8, 20
_WIDTHS: Final = {"percent": 4, "bar": _BAR_LEAST + 2, "left": 7, "speed": 8, "sizes": 13}
"""What may be drawn behind id and state: the first is the last to be left out."""
_ORDER: Final = ("bar", "percent", "sizes", "speed", "left")
_STATE_WIDTH: Final = len("expected")


class Cell(NamedTuple):
    """A part of a line, as wide as it is drawn; `kind` decides its colour."""

    kind: str
    text: str


def measure(line: str) -> int:
    """Return how many columns a line takes: those of East Asia, and pictures, take two."""
    if line.isascii():
        return len(line)
    return len(line) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in line)


def cut(line: str, columns: int) -> str:
    """Return a line that is no wider than it may be."""
    if measure(line) <= columns:
        return line
    kept = line[: max(0, columns - len(_MARK))]
    while measure(kept) > max(0, columns - len(_MARK)):
        kept = kept[:-1]
    return kept + _MARK[:columns]


def cut_middle(name: str, columns: int) -> str:
    """Return a name with both its ends: ids of one provider begin alike, or end alike."""
    if len(name) <= columns:
        return name
    kept = max(0, columns - len(_MARK))
    return name[: kept - kept // 2] + _MARK + name[len(name) - kept // 2 :]


def name_of(task: Row) -> str:
    """Return what a task is called in a row: its label, where all of its letters are narrow."""
    label = text(task["label"]) if task.get("label") else ""
    return label if label and measure(label) == len(label) else text(task["task_id"])


def draw_line(task: Row, columns: int | None = None, speed: float | None = None) -> str:
    """Return one line that says how far a task is, in `columns` where that is given."""
    return join(draw_cells(task, columns, speed))


def join(cells: Sequence[Cell]) -> str:
    """Return cells as one line."""
    return "  ".join(cell.text for cell in cells).rstrip()


def draw_cells(
    task: Row, columns: int | None, speed: float | None = None, *, id_width: int = 0
) -> list[Cell]:
    """Return the parts of the line; ids are padded to `id_width`, so that rows stand in columns."""
    # In a pipe a program may look for the id.
    name = text(task["task_id"]) if columns is None else name_of(task)
    state = Cell(task["state"], task["state"].ljust(_STATE_WIDTH))
    id_width = max(4 if columns else 0, id_width, len(name))
    # A path is shown whole or not at all: in its place, what is there is drawn as a full bar.
    moves = task["state"] in _OPEN or (columns is not None and task["state"] in _PLACED)
    if moves and (task["size_bytes"] or task["received_bytes"]):
        return _draw_moving(task, columns, speed, name, id_width)
    is_named = name != text(task["task_id"])
    note = describe({**task, "label": None} if is_named else task)
    if columns is not None:
        room = columns - _STATE_WIDTH - 2
        id_width = max(4, min(id_width, room))
        note = cut(note, max(0, room - id_width - 2))
    name = cut_middle(name, id_width).ljust(id_width)
    return [Cell("id", name), state, *([Cell("note", note)] if note else [])]


def _draw_moving(
    task: Row, columns: int | None, speed: float | None, name: str, id_width: int
) -> list[Cell]:
    total, received = task["size_bytes"], task["received_bytes"]
    if task["state"] in _PLACED:
        received = total or received
    due = remaining(task)
    left = (total - received) / speed if total and speed else None
    drawn = {
        "percent": f"{min(100, 100 * received // total):>3}%" if total else "",
        "bar": "bar" if total else "",
        "left": "" if left is None else _clock(left).rjust(_WIDTHS["left"]),
        "speed": f"{size(int(speed))}/s".rjust(_WIDTHS["speed"]) if speed else "",
        # The deadline is worth more than the sizes, where it is near.
        "sizes": cut(due or _sizes(received, total), _WIDTHS["sizes"]).rjust(_WIDTHS["sizes"]),
    }
    if columns is None:
        chosen = {kind for kind in _WIDTHS if drawn[kind]}
        bar_width = _BAR_MOST
    else:
        chosen = set()
        room = columns - _STATE_WIDTH - 2 - min(id_width, _ID_LEAST)
        for kind, width in _WIDTHS.items():
            if width + 2 > room:
                break
            # The room is kept where a part is not known yet, or the columns would jump.
            room -= width + 2
            chosen.add(kind)
        grown = min(id_width - min(id_width, _ID_LEAST), max(0, room))
        id_width = max(4, min(id_width, _ID_LEAST, columns - _STATE_WIDTH - 2) + grown)
        bar_width = min(_BAR_MOST, _BAR_LEAST + max(0, room - grown))
    if drawn["bar"]:
        filled = min(bar_width, bar_width * received // total)
        drawn["bar"] = f"[{'#' * filled}{'.' * (bar_width - filled)}]"
    cells = [
        Cell("id", cut_middle(name, id_width).ljust(id_width)),
        Cell(task["state"], task["state"].ljust(_STATE_WIDTH)),
    ]
    for kind in _ORDER:
        if kind in chosen:
            width = bar_width + 2 if kind == "bar" else _WIDTHS[kind]
            near = "deadline" if kind == "sizes" and due else kind
            shown = drawn[kind].strip() if columns is None else drawn[kind].ljust(width)
            cells.append(Cell(near, shown))
    return cells


def describe(task: Row) -> str:
    """Say in a few words what else there is to know of a task that is not being fetched."""
    if task["state"] in {"stored", "done"} and task.get("path"):
        return text(task["path"])
    told = [remaining(task), text(task["reason"]) if task.get("reason") else ""]
    if task["state"] in {"failed", "lost"} and task.get("message"):
        told.append(text(task["message"]))
    elif task.get("label"):
        told.append(text(task["label"]))
    return ", ".join(filter(None, told))


def remaining(task: Row) -> str:
    """Say how long the provider still keeps a video, where that is not long any more."""
    if task["state"] not in _OPEN or not task.get("deadline_at"):
        return ""
    left = datetime.fromisoformat(task["deadline_at"]) - datetime.now(UTC)
    if left > NEAR:
        return ""
    if left < timedelta(0):
        return "past its time"
    hours = left // timedelta(hours=1)
    return f"gone in {hours} h" if hours else f"gone in {left // timedelta(minutes=1)} min"


def _sizes(received: int, total: int | None) -> str:
    return f"{size(received)}/{size(total)}" if total else size(received)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 3600:  # noqa: PLR2004 - an hour
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 36_000:  # noqa: PLR2004 - as long as it has seven characters
        return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
    return humanize.naturaldelta(seconds).replace(" hours", " h").replace(" days", " d")[:7]


class Pace:
    """How fast something grows that is looked at now and then."""

    def __init__(self) -> None:
        self._seen: tuple[int, float] | None = None
        self._speed: float | None = None

    def feed(self, received: int, now: float | None = None) -> float | None:
        """Take in how much there is by now, and return bytes a second where that is known."""
        now = time.monotonic() if now is None else now
        if self._seen is None or received < self._seen[0]:
            self._seen, self._speed = (received, now), None
            return None
        grown, passed = received - self._seen[0], now - self._seen[1]
        if grown and passed >= 1:
            self._seen, self._speed = (received, now), grown / passed
        elif passed > FRESH_SECONDS:
            self._speed = None
        return self._speed
