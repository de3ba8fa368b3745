"""Lets everything run, and stops it in the right order.

Rule: an unexpected error in any loop ends the process, for a restart is safe at every moment.
Stopping is the same as crashing, only politer: the doors close first, what was accepted is answered
and committed, downloads keep the bytes that they have, the store closes last.
"""

import asyncio
import os
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog

from daemon import __version__
from daemon.admin import admin_app, guard_socket, guard_tcp
from daemon.assembly import Parts, build
from daemon.bell import Bell
from daemon.callback import callback_app
from daemon.config import ConfigError, Loaded, load
from daemon.config.endpoints import bracket
from daemon.config.sections import Config, Endpoint, Secret, TcpEndpoint, UnixEndpoint
from daemon.config.tls import load_tls
from daemon.listeners import (
    MOST_CONNECTIONS,
    MOST_CONNECTIONS_TLS,
    ListenFailed,
    Runner,
    close,
    listen,
    listen_on,
    private_runner,
    public_runner,
    remove_socket,
)
from daemon.lock import StoreRefused
from daemon.logs import hide, set_level
from daemon.process import protect_memory
from daemon.readings import metric_routes
from daemon.rules.failure import Hindered
from daemon.store import StoreFailed, survive
from daemon.stream import stream_routes
from daemon.systemd import Notifier, PassedWrongly, take_sockets
from daemon.watchdog import Watchdog

INTERRUPTED = 8
STOP_SECONDS = 25.0
"""How long stopping may take; a container is given 30 s, the unit of systemd 45."""
FILES_LIMIT = 65_536

_log = structlog.get_logger()


async def serve(loaded: Loaded, environ: Mapping[str, str]) -> int:
    """Run the daemon until a signal or an error ends it; return the exit code."""
    began = time.monotonic()
    os.umask(0o077)
    protect_memory()
    files = _raise_file_limit()
    stop, reload = asyncio.Event(), Bell()
    _hear_signals(stop, reload)
    for warning in loaded.warnings:
        _log.warning("config.warning", message=warning)
    try:
        async with AsyncExitStack() as stack:
            passed = [stack.enter_context(sock) for sock in take_sockets(environ)]
            parts = await build(loaded.config, stack)
            notifier = Notifier(environ)
            parts.loops["reload"] = _reload(parts, loaded.path, environ, reload, notifier)
            await _run(parts, passed, notifier, stop, began, files // 2)
    except (StoreRefused, StoreFailed, ListenFailed, PassedWrongly, Hindered) as refusal:
        _log.error("daemon.failed", message=str(refusal))
        return 1
    except Exception:  # noqa: BLE001 - said in our own form; then the process ends
        _log.exception("daemon.failed", message="unexpected error")
        return 1
    _log.info("daemon.stopped")
    return 0


def _raise_file_limit() -> int:
    """Allow as many open files as we may have, and return their number.

    Out of descriptors, asyncio writes an error for each place in its backlog, for ever.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_LIMIT if hard == resource.RLIM_INFINITY else min(FILES_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def _hear_signals(stop: asyncio.Event, reload: Bell) -> None:
    """The first signal stops politely, a second one waits for nothing; SIGHUP reloads."""

    def hear() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)
        stop.set()
        _end_in_any_case()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, hear)
    loop.add_signal_handler(signal.SIGHUP, reload.ring)


async def _run(
    parts: Parts,
    passed: list[socket.socket],
    notifier: Notifier,
    stop: asyncio.Event,
    began: float,
    room: int,
) -> None:
    committing = asyncio.create_task(parts.intake.run(), name="intake")
    working = [asyncio.create_task(loop, name=name) for name, loop in parts.loops.items()]
    runners: list[Runner] = []
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        addresses = await _open_doors(parts, passed, runners, room)
        parts.examiner.opened(addresses, passed=bool(passed))
        watchdog = Watchdog(notifier, parts.store, parts.disk, parts.pulse)
        reporting = asyncio.create_task(watchdog.run(), name="watchdog")
        working.append(reporting)
        notifier.tell("READY=1")
        seconds = round(time.monotonic() - began, 3)
        _log.info("daemon.ready", version=__version__, seconds=seconds, **addresses)
        await asyncio.wait([stopping, committing, *working], return_when=asyncio.FIRST_COMPLETED)
    finally:
        _log.info("daemon.stopping")
        notifier.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(2e6 * STOP_SECONDS)}")
        parts.office.stopping = True
        parts.broadcast.close()
        await close(runners)
        ended = await _end([*working, committing, stopping])
        for path in _socket_files(parts.settings.config, passed):
            await asyncio.to_thread(remove_socket, path)
    if ended:
        raise _innermost(ended[0])


def _innermost(error: BaseException) -> BaseException:
    """Return the error that made a group of tasks end, where it was one alone."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _reload(
    parts: Parts,
    path: Path | None,
    environ: Mapping[str, str],
    bell: Bell,
    notifier: Notifier,
) -> None:
    """Read the configuration again whenever the bell rings; a mistaken one changes nothing."""
    heard = bell.listen()
    while True:
        await heard.wait()
        # Before the file is read: a signal that comes meanwhile is about a newer one.
        heard = bell.listen()
        # systemd.service(5), Type=notify-reload; with Type=notify it is only a status.
        notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            fresh = await asyncio.to_thread(load, path, environ, thorough=True)
            hide(secret.reveal() for secret in fresh.secrets)
            changed, waiting = await parts.reload(fresh.config)
        except ConfigError as mistake:
            _log.error("config.rejected", message=str(mistake))
        except StoreRefused as refusal:
            _log.error("config.rejected", message=str(refusal))
        except StoreFailed as failure:
            survive(failure)
        else:
            set_level(parts.settings.config.log.level)
            for warning in fresh.warnings:
                _log.warning("config.warning", message=warning)
            if "provider.api_key" in changed and not parts.settings.terms.has_key:
                told = "provider.api_key is gone: nobody is asked, and callbacks are believed"
                _log.warning("config.warning", message=told)
            _log.info("config.reloaded", changed=changed, needs_restart=waiting)
        notifier.tell("READY=1")


async def _end(tasks: list[asyncio.Task[Any]]) -> list[BaseException]:
    """Cancel what still runs, wait for all, and return the errors of what had ended by itself."""
    for task in tasks:
        task.cancel()
    return [
        result
        for result in await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError)
    ]


async def _open_doors(
    parts: Parts, passed: list[socket.socket], runners: list[Runner], room: int
) -> dict[str, str]:
    """Open the listeners; return their addresses by name.

    Callbacks come through the sockets that were passed, or else through the configured one, over at
    most `room` connections.
    """
    config, addresses = parts.settings.config, {}
    routes = [
        *parts.gateway.routes(),
        *stream_routes(parts.broadcast),
        *metric_routes(parts.readings),
        *parts.site.routes(),
    ]
    private = private_runner(admin_app(parts.office, guard_socket, routes))
    runners.append(private)
    addresses["admin"] = await listen(private, UnixEndpoint(config.admin.socket), 0o600)
    if config.admin.listen is not None:
        settings = parts.settings
        guard = guard_tcp(
            lambda: _own_names(settings.config),
            lambda: frozenset(map(bracket, settings.config.admin.hosts)),
            lambda: _reveal(settings.config.admin.token),
            lambda: _reveal(settings.config.provider.api_key),
        )
        private = private_runner(admin_app(parts.office, guard, routes))
        runners.append(private)
        addresses["admin_tcp"] = await listen(private, config.admin.listen, 0o600)
    if passed or config.callback.listen is not None:
        tls = _load_tls(config)
        most = MOST_CONNECTIONS_TLS if tls else MOST_CONNECTIONS
        public = public_runner(callback_app(parts.receiver), min(most, room))
        public.door.connections.tell = parts.examiner.turnstile.count
        runners.append(public)
        places = [await listen_on(public, sock, tls) for sock in passed]
        if config.callback.listen is not None and not passed:
            places.append(await listen(public, config.callback.listen, 0o660, tls))
        addresses["callback"] = f"{places[0]}{config.callback.path}"
    return addresses


def _load_tls(config: Config) -> ssl.SSLContext | None:
    certificate, key = config.callback.tls_certificate, config.callback.tls_private_key
    if certificate is None or key is None:
        return None
    try:
        return load_tls(certificate, key)
    except ValueError as wrong:
        raise ListenFailed(str(wrong)) from None


def _socket_files(config: Config, passed: list[socket.socket]) -> list[Path]:
    """Return the socket files that are ours; the file of a passed socket is not."""
    ours: list[Endpoint | None] = [UnixEndpoint(config.admin.socket)]
    if not passed:
        ours.append(config.callback.listen)
    return [endpoint.path for endpoint in ours if isinstance(endpoint, UnixEndpoint)]


def _reveal(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()


def _own_names(config: Config) -> frozenset[str]:
    names = {"localhost", "127.0.0.1", "[::1]"}
    if isinstance(config.admin.listen, TcpEndpoint):
        names.add(bracket(config.admin.listen.host))
    return frozenset(names)


def _end_in_any_case() -> None:
    """End the process when stopping hangs: in a disk call, say, that nobody can take back.

    A thread, for the loop may hang as well. What was promised is on the disk at every moment.
    """

    def end() -> None:
        time.sleep(STOP_SECONDS)
        _log.error("daemon.cut_short", message=f"not stopped after {STOP_SECONDS:g} s: ended")
        # The log is written by another thread.
        time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=end, daemon=True, name="last resort").start()
