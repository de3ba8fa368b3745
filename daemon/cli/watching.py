"""The verb `watch`: what is on its way, as it happens.

Rule: the daemon does the work and needs nobody who watches; who stops watching stops nothing.
"""

import signal
import sys

import click

from daemon.cli.completion import complete_ids
from daemon.cli.group import Invocation, as_json, cli


@cli.command()
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)
@as_json
@click.pass_obj
def watch(invocation: Invocation, ids: tuple[str, ...], *, as_json: bool) -> int:
    """Watch what is on its way, until Ctrl-C; with IDs, until all of them have ended.

    On a terminal with bars that move, elsewhere a line for each change.
    """
    from daemon.cli.session import Watch  # noqa: PLC0415 - the other verbs start faster without
    from daemon.live import choose_painter  # noqa: PLC0415 - likewise

    client = invocation.client()
    session = Watch(client, ids)
    session.begin()
    painter = choose_painter(as_json=as_json, environ=invocation.environ)
    # A service manager or a closed window ends us as Ctrl-C does: the cursor comes back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return session.run(painter)
    finally:
        painter.close()
