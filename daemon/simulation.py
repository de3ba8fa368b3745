"""Runs the simulated provider as a program: `suno-videod simulate`."""

import asyncio
import signal
from collections.abc import Mapping
from typing import Any

import click

from daemon.config.endpoints import TcpEndpoint, parse_tcp_endpoint
from daemon.config.units import parse_size
from daemon.outbound import post_session
from daemon.simulator.faults import SCENARIOS
from daemon.simulator.provider import SimulatorOptions
from daemon.simulator.simulator import run


def list_scenarios() -> list[tuple[str, str]]:
    """Return the audioIds that make something go wrong, and what goes wrong."""
    return [(audio_id, description) for audio_id, (_, description) in SCENARIOS.items()]


def run_simulator(listen: str, file_size: str, speed: str, options: Mapping[str, Any]) -> int:
    """Be the provider until a signal comes; return the exit code.

    Raises:
        click.UsageError: an option makes no sense.
    """
    try:
        endpoint = parse_tcp_endpoint(listen)
        settings = SimulatorOptions(
            file_size_bytes=parse_size(file_size),
            bytes_per_second=parse_size(speed) or None,
            **options,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if endpoint is None:
        raise click.UsageError("--listen needs an address such as 127.0.0.1:8090")
    try:
        asyncio.run(_simulate(endpoint, settings))
    except OSError as error:
        raise click.ClickException(f"{listen} cannot be used: {error.strerror}") from error
    return 0


async def _simulate(endpoint: TcpEndpoint, settings: SimulatorOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with post_session() as session:

        async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status: int = response.status
                return status

        await run(
            settings, post, host=endpoint.host, port=endpoint.port, stop=stop, announce=_announce
        )


def _announce(base_url: str) -> None:
    click.echo(f"simulated provider on {base_url} (stop with Ctrl-C)")
    click.echo("scenarios: suno-videod simulate --scenarios", err=True)
