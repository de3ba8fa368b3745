"""The verbs about the configuration."""

import shlex
from pathlib import Path
from typing import Any, Final

import click

from daemon import display
from daemon.cli.group import Exit, Invocation, as_json, cli, print_json
from daemon.config import show
from daemon.config.endpoints import format_endpoint
from daemon.config.writing import choose_path, read_template, write_new

_FIRST_STEPS = """\
next: set callback.public_url and provider.api_key in it, then
  {command} config check
  {command} serve"""
_UNASKED: Final = {"yes": False, "public_url": None, "api_key_file": None, "root": Path("/")}
_TRIAL_STEPS = """\
next: start the simulated provider, and in another terminal the daemon
  suno-videod simulate
  {command} serve
then ask for the callBackUrl of your application, and see what comes
  {command} callback-url
  {command} list"""


@cli.command("callback-url")
@click.pass_obj
def callback_url(invocation: Invocation) -> int:
    """Print the URL to give the provider as callBackUrl."""
    from daemon.lock import StoreRefused  # noqa: PLC0415 - the other verbs start faster without
    from daemon.token import read_token  # noqa: PLC0415 - likewise

    config = invocation.load().config
    tokens = [token.reveal() for token in config.callback.tokens]
    try:
        token = tokens[0] if tokens else read_token(config.state_dir)
    except StoreRefused as refusal:
        click.echo(str(refusal), err=True)
        return Exit.CONFIGURATION
    if token is None:
        click.echo(
            f"no token in {config.state_dir} yet: start the daemon once (suno-videod serve), "
            "or set callback.tokens",
            err=True,
        )
        return Exit.CONFIGURATION
    url = config.callback.public_url
    if url is None:
        listen = format_endpoint(config.callback.listen) or "localhost"
        scheme = "https" if config.callback.tls_certificate else "http"
        url = f"{scheme}://{listen}{config.callback.path}"
        click.echo(
            "warning: callback.public_url is not set, so this URL works on this machine only; "
            "the provider needs a public https address",
            err=True,
        )
    click.echo(f"{url.rstrip('/')}/{token}")
    return 0


@cli.group("config")
def config_group() -> None:
    """Write, check or show the configuration."""


@config_group.command("init")
@click.option("--simulator", is_flag=True, help="For `simulate` on this machine, without credits.")
@click.option("--system", is_flag=True, help="The whole installation as a service of systemd.")
@click.option("--yes", is_flag=True, help="With --system: do it; without, it is only shown.")
@click.option("--public-url", metavar="URL", help="With --system: where the provider reaches you.")
@click.option(
    "--api-key-file",
    metavar="FILE|-",
    help="With --system: has the API key; - is standard input.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    help="With --system: the root folder of another system, such as an image.",
)
@click.pass_obj
def config_init(invocation: Invocation, /, *, simulator: bool, system: bool, **asked: Any) -> int:
    """Write a first configuration with comments; a file that is there stays as it is.

    It goes to the FILE of -c, else to $SUNO_VIDEOD_CONFIG, else to ./config.toml.

    --system shows what a service needs: its user, units, fence of addresses, configuration in
    /etc/suno-videod and credentials; with --yes it writes them. Run again, after an update or when
    config.toml or the resolver changed, it brings all but the configuration up to date.
    """
    if system and simulator:
        raise click.UsageError("--system and --simulator are two things: choose one")
    if system:
        from daemon.cli.installing import install  # noqa: PLC0415 - the other verbs start faster

        return install(invocation, **asked)
    if asked != _UNASKED:
        raise click.UsageError("--yes, --public-url, --api-key-file and --root go with --system")
    path = choose_path(invocation.flag, invocation.environ)
    flag = f" -c {shlex.quote(str(path))}" if invocation.flag else ""
    try:
        write_new(path, read_template("simulator" if simulator else "example"))
    except FileExistsError:
        click.echo(
            f"{path} is there already and stays as it is: check it with suno-videod{flag} config "
            "check, or name another file, as in suno-videod -c other.toml config init",
            err=True,
        )
        return Exit.REFUSED
    click.echo(path)
    steps = _TRIAL_STEPS if simulator else _FIRST_STEPS
    click.echo(steps.format(command=f"suno-videod{flag}"), err=True)
    return Exit.DONE


@config_group.command("check")
@click.pass_obj
def config_check(invocation: Invocation) -> None:
    """Read the configuration and report all mistakes; nothing is started."""
    loaded = invocation.load(thorough=True)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{loaded.path or 'the built-in defaults'}: no mistakes")


@config_group.command("show")
@as_json
@click.pass_obj
def config_show(invocation: Invocation, *, as_json: bool) -> None:
    """Show every key with its effective value and where it comes from."""
    rows = show(invocation.load())
    if as_json:
        print_json({"key": key, "value": value, "origin": origin} for key, value, origin in rows)
    else:
        display.table(("KEY", "VALUE", "ORIGIN"), rows)
