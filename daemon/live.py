"""How `watch` shows what happens: bars that move, lines on a terminal, lines in a pipe, JSON.

Rule: what stands on the screen is drawn from the board alone, in the size that the terminal has at
that moment; what ended is written above it and stays.
"""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

import click

from daemon.bars import Cell, cut, draw_cells, draw_line, join, measure, name_of
from daemon.board import SETTLED, Board
from daemon.wording import size, text

if TYPE_CHECKING:
    from rich.text import Text

PROGRESS_SECONDS: Final = 10.0
"""In a pipe, so often at most is a task's progress told."""
_MARGIN: Final = 2
"""Lines below the block that stay free: the prompt's, and one against scrolling."""
_STYLES: Final = {
    "expected": "dim",
    "wanted": "cyan",
    "verified": "cyan",
    "stored": "green",
    "done": "green",
    "failed": "red",
    "lost": "bold red",
    "pruned": "dim",
    "bar": "cyan",
    "speed": "magenta",
    "left": "yellow",
    "deadline": "bold yellow",
    "gate": "bold yellow",
    "note": "dim",
}


class Painter(Protocol):
    """What shows the board to somebody."""

    def heard(self, event: Mapping[str, Any], line: str) -> None:
        """Show an event as it came."""

    def moved(self, task: Mapping[str, Any]) -> None:
        """Show that a task is in another state."""

    def tell(self, sentence: str) -> None:
        """Say what happened to the watching itself."""

    def draw(self, board: Board) -> None:
        """Show the board as it is now."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def choose_painter(*, as_json: bool, environ: Mapping[str, str]) -> Painter:
    """Return what shows the most that this output can show."""
    if as_json:
        return JsonPainter()
    if not sys.stdout.isatty() or environ.get("TERM") == "dumb":
        return LinePainter()
    if _has_rich():
        return RichPainter()
    return BlockPainter()


def _has_rich() -> bool:
    try:
        import rich.live  # noqa: F401, PLC0415 - an extra
    except ImportError:
        return False
    return True


class JsonPainter:
    """One event object a line, as the daemon sent it."""

    def heard(self, event: Mapping[str, Any], line: str) -> None:  # noqa: ARG002 - as it came
        """Print it."""
        click.echo(line)

    def moved(self, task: Mapping[str, Any]) -> None:
        """Say nothing: the event did."""

    def tell(self, sentence: str) -> None:
        """Say it beside the objects."""
        click.echo(sentence, err=True)

    def draw(self, board: Board) -> None:
        """Draw nothing."""

    def close(self) -> None:
        """Leave nothing behind."""


class LinePainter:
    """For a pipe or a file: a line for each change, and for progress now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[int, float]] = {}

    def heard(self, event: Mapping[str, Any], line: str) -> None:
        """Say nothing: what it means is drawn."""

    def moved(self, task: Mapping[str, Any]) -> None:
        """Print the task with its time."""
        self._told[task["task_id"]] = task["received_bytes"], self._clock()
        click.echo(f"{_now()}  {draw_line(task)}")
        if task["state"] in SETTLED:
            del self._told[task["task_id"]]

    def tell(self, sentence: str) -> None:
        """Say it beside the results."""
        click.echo(f"{_now()}  {sentence}", err=True)

    def draw(self, board: Board) -> None:
        """Print the progress of what came further, where it was not told a moment ago."""
        for task in board.rows():
            received, at = self._told.get(task["task_id"], (0, -PROGRESS_SECONDS))
            if task["received_bytes"] == received or self._clock() - at < PROGRESS_SECONDS:
                continue
            self._told[task["task_id"]] = task["received_bytes"], self._clock()
            click.echo(f"{_now()}  {draw_line(task, None, board.speed(task['task_id']))}")

    def close(self) -> None:
        """Leave nothing behind."""


def draw_block(board: Board, columns: int, rows: int) -> list[list[Cell]]:
    """Return the lines of the screen: how it stands, what is shut, what is on its way."""
    lines = [[Cell("head", cut(_headline(board, columns), columns))]]
    for gate in board.gates:
        told = f"gate {text(gate['name'])} is shut: {text(gate['reason'])}"
        lines.append([Cell("gate", cut(told, columns))])
    tasks = board.rows()
    room = max(1, rows - len(lines) - _MARGIN)
    shown = tasks if len(tasks) <= room else tasks[: max(1, room - 1)]
    id_width = max((len(name_of(task)) for task in shown), default=0)
    lines += [
        draw_cells(task, columns, board.speed(task["task_id"]), id_width=id_width) for task in shown
    ]
    if len(shown) < len(tasks):
        lines.append([Cell("note", cut(f"and {len(tasks) - len(shown)} more", columns))])
    return lines[: max(1, rows - 1)]


def _headline(board: Board, columns: int) -> str:
    counts = {state: count for state, count in board.counts.items() if count > 0}
    speed = sum(board.speed(task["task_id"]) or 0 for task in board.rows())
    pace = [f"{size(int(speed))}/s"] if speed else []
    line = "  ".join([f"{count} {state}" for state, count in counts.items()] + pace)
    if len(line) > columns:
        # What is safe is what there is most of, and what is told elsewhere.
        kept = (f"{count} {state}" for state, count in counts.items() if state not in SETTLED)
        line = "  ".join([*kept, *pace])
    return line or "no tasks yet"


def _now() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")


def _size() -> tuple[int, int]:
    columns, rows = shutil.get_terminal_size()
    # The last column stays free: some terminals wrap when it is written.
    return max(20, columns - 1), max(3, rows)


class BlockPainter:
    """A block of lines that is drawn again and again, with nothing but the terminal's own orders.

    The cursor stays where the block begins, so that an end at any moment leaves a clean screen.
    """

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._lines: list[str] = []

    def heard(self, event: Mapping[str, Any], line: str) -> None:
        """Say nothing: what it means is drawn."""

    def moved(self, task: Mapping[str, Any]) -> None:
        """Write what ended above the block; the block shows the rest."""
        if task["state"] in SETTLED:
            self._above(f"{_now()}  {draw_line(task)}")

    def tell(self, sentence: str) -> None:
        """Write it above the block."""
        self._above(f"{_now()}  {sentence}")

    def draw(self, board: Board) -> None:
        """Draw the block, where it is another one than before."""
        lines = [join(cells) for cells in draw_block(board, *_size())]
        if lines != self._lines:
            self._write(self._clear() + "\n".join(lines) + "\n")
            self._lines = lines

    def close(self) -> None:
        """Leave the last block where it stands."""
        self._stream.flush()

    def _above(self, line: str) -> None:
        self._write(self._clear() + line + "\n" + "".join(f"{one}\n" for one in self._lines))

    def _clear(self) -> str:
        """Go to the first line of the block and clear all below.

        A terminal that became narrower has wrapped the lines that stand there.
        """
        columns = shutil.get_terminal_size().columns or 80
        height = sum(max(1, -(-measure(line) // columns)) for line in self._lines)
        return f"\r\x1b[{height}A\x1b[J" if height else "\r"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class RichPainter:
    """Bars in colour, drawn by the library that the extra `cli` brings."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - an extra, and slow to import
        from rich.live import Live  # noqa: PLC0415 - likewise

        self._console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
        # Without colours both ends of such a bar would look alike.
        self._fine = not self._console.no_color and self._console.encoding.startswith("utf")
        self._drawn: tuple[tuple[int, int], list[list[Cell]]] | None = None
        self._live.start()

    def heard(self, event: Mapping[str, Any], line: str) -> None:
        """Say nothing: what it means is drawn."""

    def moved(self, task: Mapping[str, Any]) -> None:
        """Write what ended above the block; the block shows the rest."""
        if task["state"] in SETTLED:
            self._print([Cell("note", _now()), *draw_cells(task, None)])

    def tell(self, sentence: str) -> None:
        """Write it above the block."""
        self._print([Cell("note", _now()), Cell("gate", sentence)])

    def draw(self, board: Board) -> None:
        """Draw the block."""
        from rich.text import Text  # noqa: PLC0415 - an extra

        size = _size()
        block = draw_block(board, *size)
        if (size, block) != self._drawn:
            self._drawn = size, block
            self._live.update(Text("\n").join(map(self._paint, block)), refresh=True)

    def close(self) -> None:
        """Leave the last block where it stands, and the cursor visible."""
        self._live.stop()

    def _print(self, cells: Sequence[Cell]) -> None:
        self._console.print(self._paint(cells), soft_wrap=True)

    def _paint(self, cells: Sequence[Cell]) -> "Text":
        from rich.text import Text  # noqa: PLC0415 - an extra

        line = Text(no_wrap=True)
        for number, cell in enumerate(cells):
            line.append("  " if number else "")
            if cell.kind == "bar" and cell.text.startswith("[") and self._fine:
                length = len(cell.text.rstrip())
                filled = min(length, round(length * cell.text.count("#") / (length - 2)))
                line.append("\u2501" * filled, "cyan")
                line.append("\u2501" * (length - filled), "bright_black")
                line.append(" " * (len(cell.text) - length))
            else:
                line.append(cell.text, _STYLES.get(cell.kind, ""))
        line.rstrip()
        return line
