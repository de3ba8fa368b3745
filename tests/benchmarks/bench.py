"""Runs the benchmarks and prints one table: what, ours, peer, ratio, goal, met or not.

Rule: a row that breaks is a line of the table, and the others go on. Everything lies in one folder
that is removed at the end.

    python -m tests.benchmarks.bench [--size N] [ROW]...
"""

import importlib
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click

from tests.benchmarks.table import HEAD, Row

PACKAGE: Final = "tests.benchmarks."
ROWS: Final = (
    *("limits", "acks", "worst", "big", "many", "small"),
    *("flood", "throttled", "rate", "growth", "idle"),
)


SIZED: Final = ("flood", "growth")
"""Rows whose number of films, or tasks, can be given: the whole number takes a minute."""


def run(names: tuple[str, ...], folder: Path, size: int | None) -> list[Row]:
    """Measure rows one after another; what goes on is told on standard error."""
    found: list[Row] = []
    for name in names:
        began, place = time.perf_counter(), folder / name
        place.mkdir()
        module = importlib.import_module(f"{PACKAGE}{name}")
        try:
            sized = (size,) if size is not None and name in SIZED else ()
            for row in module.run(place, *sized):
                found.append(row)
                click.echo(str(row), err=True)
        except Exception as error:  # noqa: BLE001 - told in the table
            found.append(Row(name, met=f"broken: {type(error).__name__}: {error}"[:300]))
            click.echo(str(found[-1]), err=True)
        # What a row leaves is of no use to the next one.
        shutil.rmtree(place, ignore_errors=True)
        click.echo(f"{name}: {time.perf_counter() - began:.0f} s", err=True)
    return found


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(ROWS))
@click.option("--size", type=int, help=f"of {' and '.join(SIZED)}")
def main(names: tuple[str, ...], size: int | None) -> None:
    """Measure the named rows, or all, and print the table."""
    # Whoever ends us ends all that we started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="suno-videod-bench-") as folder:
        rows = run(names or ROWS, Path(folder), size)
    click.echo(HEAD)
    for row in rows:
        click.echo(str(row))
    sys.exit(any(row.met.startswith("broken") for row in rows))


if __name__ == "__main__":
    main()
