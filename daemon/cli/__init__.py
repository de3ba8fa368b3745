"""The command `suno-videod`: its verbs and exit codes.

Rule: a verb reads its arguments, calls one thing, shows the result. Standard output holds results
only; every error says what to do. The exit codes stand in `group.Exit`.
"""

import sys
from typing import NoReturn

import click

from daemon.cli import (  # each adds its verbs
    diagnosing,  # noqa: F401
    ledger,  # noqa: F401
    programs,  # noqa: F401
    reading,  # noqa: F401
    settings,  # noqa: F401
    tasks,  # noqa: F401
    watching,  # noqa: F401
)
from daemon.cli.completion import EPILOG
from daemon.cli.group import Exit, advise, cli, judge_refusal
from daemon.client import DaemonRefused, NoDaemon
from daemon.config import ConfigError

cli.epilog = EPILOG


def main() -> NoReturn:
    """Run a verb and turn what happened into an exit code."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = cli.main(prog_name="suno-videod", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except ConfigError as error:
        click.echo(str(error), err=True)
        return Exit.CONFIGURATION
    except NoDaemon as error:
        click.echo(f"{error}\n{error.hint}", err=True)
        return Exit.TRANSIENT
    except DaemonRefused as error:
        click.echo("\n".join(filter(None, (str(error), advise(error)))), err=True)
        return judge_refusal(error)
    return code if isinstance(code, int) else 0
