"""The verbs that are programs: the daemon, the demo, the simulated provider."""

import asyncio
import faulthandler
import signal
import sys
from pathlib import Path
from typing import Any

import click

from daemon import display
from daemon.cli.group import Invocation, cli
from daemon.floors import check_floors, explain


@cli.command()
@click.pass_obj
def serve(invocation: Invocation) -> int:
    """Run the daemon in the foreground."""
    # Until the loop hears signals there is nothing to be tidied.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Before anything imports aiohttp: an old one may lack what we import.
    if wrong := check_floors():
        raise click.ClickException(explain(wrong))
    from daemon.logs import ThreadedStream, set_up_logs  # noqa: PLC0415 - the other verbs start faster without
    from daemon.service import serve as run  # noqa: PLC0415

    loaded = invocation.load(thorough=True)
    # The watchdog of systemd ends with SIGABRT: then all stacks are in the journal.
    faulthandler.enable()
    section = loaded.config.log
    secrets = [secret.reveal() for secret in loaded.secrets]
    stream = ThreadedStream(sys.stdout)
    set_up_logs(level=section.level, form=section.format, secrets=secrets, stream=stream)
    try:
        # Never in debug mode, whatever PYTHONDEVMODE says: it puts tracebacks into answers.
        code: int = asyncio.run(run(loaded, invocation.environ), debug=False)
    finally:
        stream.close()
    return code


@cli.command()
@click.option("--directory", type=click.Path(path_type=Path), help="Instead of a fresh folder.")
def demo(directory: Path | None) -> int:
    """Show the whole job offline, with a simulated provider."""
    from daemon.demo import run_demo  # noqa: PLC0415 - only this verb needs it

    return run_demo(directory)


@cli.command()
@click.option("--listen", default="127.0.0.1:8090", show_default=True, metavar="HOST:PORT")
@click.option("--kind", type=click.Choice(["sunoapi", "apibox", "kie"]), default="sunoapi")
@click.option("--api-key", help="The only key that is accepted; without it, any key is.")
@click.option("--hmac-key", help="Sign callbacks as kie.ai does.")
@click.option("--render-seconds", type=float, default=2.0, show_default=True)
@click.option("--file-size", default="5M", show_default=True, help="Of each video.")
@click.option("--speed", default="0", help="Bytes a second of each download, such as 2M.")
@click.option("--scenarios", is_flag=True, help="List the audioIds that make something go wrong.")
def simulate(*, listen: str, file_size: str, speed: str, scenarios: bool, **options: Any) -> int:
    """Be the provider, without credits: generate, record-info, callbacks, files, faults on demand.

    An application generates as usual; an audioId of --scenarios makes the story go wrong.
    """
    from daemon.simulation import list_scenarios, run_simulator  # noqa: PLC0415 - only here

    if scenarios:
        display.table(("AUDIO ID", "WHAT HAPPENS"), list_scenarios())
        return 0
    return run_simulator(listen, file_size, speed, options)
