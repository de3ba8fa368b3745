"""The verbs about the configuration."""

import click

from daemon import display
from daemon.cli.group import Exit, Invocation, as_json, cli, print_json
from daemon.config import show
from daemon.config.endpoints import format_endpoint


@cli.command("callback-url")
@click.pass_obj
def callback_url(invocation: Invocation) -> int:
    """Print the URL to give the provider as callBackUrl."""
    from daemon.database import StoreRefused  # noqa: PLC0415 - the other verbs start faster without
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
        url = f"http://{listen}{config.callback.path}"
        click.echo(
            "warning: callback.public_url is not set, so this URL works on this machine only; "
            "the provider needs a public https address",
            err=True,
        )
    click.echo(f"{url.rstrip('/')}/{token}")
    return 0


@cli.group("config")
def config_group() -> None:
    """Check or show the configuration."""


@config_group.command("check")
@click.pass_obj
def config_check(invocation: Invocation) -> None:
    """Read the configuration and report all mistakes; nothing is started."""
    loaded = invocation.load()
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
