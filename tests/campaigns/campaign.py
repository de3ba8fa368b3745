"""What the campaigns share: how a promise is found broken, and how one is run from a shell."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click


class PromiseBroken(AssertionError):
    """Something that was promised is not true."""


T = TypeVar("T")


def command(
    run: Callable[[Path, int, int], Coroutine[Any, Any, T]],
    tell: Callable[[T], str],
    *,
    size: int,
    unit: str,
) -> click.Command:
    """Return the program of a campaign: `run` gets a folder, size and seed, `tell` its count.

    `size` is how many of its `unit` it does unless somebody says otherwise.
    """

    @click.command()
    @click.option(
        *("--size", "size"),
        type=click.IntRange(min=1),
        default=size,
        show_default=True,
        help=f"How many {unit}.",
    )
    @click.option("--seed", type=int, required=True, help="The same seed draws the same luck.")
    def main(size: int, seed: int) -> None:
        """Run a campaign and say what it did."""
        click.echo(f"{size} {unit}, seed {seed}")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="suno-videod-campaign-") as folder:
            tally = asyncio.run(run(Path(folder), size, seed))
        click.echo(f"{tell(tally)} ({time.monotonic() - began:.0f} s)")

    return main
