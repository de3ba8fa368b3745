"""What the campaigns share: how a promise is found broken, and how one is run from a shell."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click


class PromiseBroken(AssertionError):
    """Something that was acknowledged is not true."""


class Tally(Protocol):
    """What a campaign counts; the rest is its own."""

    kills: int


T = TypeVar("T", bound=Tally)


def command(
    run: Callable[[Path, int, int], Coroutine[Any, Any, T]], tell: Callable[[T], str]
) -> click.Command:
    """Return the program of a campaign: `run` gets a folder, kills and seed, `tell` its count."""

    @click.command()
    @click.option("--kills", type=click.IntRange(min=1), default=50, show_default=True)
    @click.option("--seed", type=int, required=True, help="The same seed draws the same luck.")
    def main(kills: int, seed: int) -> None:
        """Run a campaign and say what it did."""
        click.echo(f"{kills} kills, seed {seed}")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="suno-videod-campaign-") as folder:
            tally = asyncio.run(run(Path(folder), kills, seed))
        seconds = time.monotonic() - began
        click.echo(f"killed {tally.kills} times in {seconds:.0f} s: {tell(tally)}")

    return main
