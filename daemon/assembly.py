"""Builds every part from the configuration and hands each what it needs, and no more.

Rule: this is the only place that knows the whole configuration and the only one where stations
meet. Nothing runs yet when it is done: `loops` are coroutines for the service to start.
"""

import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import structlog

from daemon.admin import Office
from daemon.bell import Bell
from daemon.callback import Intake, Receiver
from daemon.config.sections import Config
from daemon.disk import Disk
from daemon.download import Downloader
from daemon.gates import Gates, Shut
from daemon.logs import hide
from daemon.outbound import Session, api_session, file_session
from daemon.patience import wait_no_longer
from daemon.poller import Poller, watch_credits
from daemon.provider import Provider
from daemon.queue import DownloadQueue, work
from daemon.rules.address import AddressPolicy
from daemon.rules.lifecycle import State
from daemon.rules.schedule import Pace
from daemon.rules.task import Move
from daemon.rules.verdict import Terms
from daemon.store import Store, open_store
from daemon.token import make_token
from daemon.views import show_time

_log = structlog.get_logger()


def now() -> int:
    """Return milliseconds since 1970, UTC: the one clock that deadlines are kept by."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that was built."""

    config: Config
    store: Store
    intake: Intake
    receiver: Receiver
    office: Office
    loops: dict[str, Coroutine[Any, Any, None]]
    """What runs beside the listeners, by name."""


async def build(config: Config, stack: AsyncExitStack) -> Parts:
    """Open the store and the sessions and build the stations; `stack` closes what is open.

    Raises:
        StoreRefused: the ledger cannot be used.
        Hindered: the download folder cannot be made.
    """
    terms = _terms(config)
    downloads, questions = Bell(), Bell()

    def ring() -> None:
        questions.ring()
        downloads.ring()

    store = await stack.enter_async_context(open_store(config.state_dir, _log_move))
    disk = Disk(
        config.download.directory,
        workers=config.download.concurrency + 2,
        file_mode=config.download.file_mode,
        directory_mode=config.download.directory_mode,
    )
    stack.callback(disk.close)
    await disk.prepare()
    gates = Gates(now, _log_gate)
    policy = _policy(config)
    provider = Provider(
        await stack.enter_async_context(
            api_session(config.provider.base_url, config.provider.api_key)
        ),
        config.provider.kind,
        gates,
        now,
        config.provider.requests_per_second,
    )
    downloader = Downloader(
        store,
        await stack.enter_async_context(_open_files(config, policy)),
        policy,
        disk,
        gates,
        section=config.download,
        min_free_bytes=config.disk.min_free,
        now=now,
    )
    office = Office(
        store=store,
        gates=gates,
        disk=disk,
        min_free_bytes=config.disk.min_free,
        terms=terms,
        retention_ms=_ms(config.provider.retention),
        now=now,
        ring=ring,
        answered_at=lambda: provider.answered_at,
    )
    intake = Intake(store)
    receiver = Receiver(
        section=config.callback,
        tokens=_tokens(config),
        has_key=terms.has_key,
        retention_ms=_ms(config.provider.retention),
        intake=intake,
        store=store,
        now=now,
        ring=ring,
    )
    trust_link_after_ms = _ms(config.callback.trust_link_after)
    loops: dict[str, Coroutine[Any, Any, None]] = {
        "patience": wait_no_longer(store, terms, trust_link_after_ms, now, downloads.ring),
        **_downloading(config, store, downloader, gates, terms, (downloads, questions)),
    }
    if terms.has_key:
        poller = Poller(store, provider, terms, now, bell=questions, ring_downloads=downloads.ring)
        loops["poller"] = poller.run()
        loops["credits"] = watch_credits(
            provider, config.provider.credits_low, office.remember_credits
        )
    return Parts(
        config=config, store=store, intake=intake, receiver=receiver, office=office, loops=loops
    )


def _downloading(
    config: Config,
    store: Store,
    downloader: Downloader,
    gates: Gates,
    terms: Terms,
    bells: tuple[Bell, Bell],
) -> dict[str, Coroutine[Any, Any, None]]:
    downloads, questions = bells
    queue = DownloadQueue()
    steps = {
        State.WANTED: downloader.fetch,
        State.VERIFIED: downloader.publish,
        State.STORED: downloader.finish,
    }
    loops: dict[str, Coroutine[Any, Any, None]] = {"feed": queue.feed(store, now, downloads)}
    for number in range(config.download.concurrency):
        loops[f"worker {number}"] = work(
            queue,
            store,
            steps,
            gates,
            terms,
            now=now,
            bell=downloads,
            ring_questions=questions.ring,
            # The second worker, where there is one: old trouble must not starve a fresh task.
            freshest=number == 1,
        )
    return loops


def _ms(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)


def _terms(config: Config) -> Terms:
    return Terms(
        pace=Pace(
            first_after_ms=_ms(config.poll.first_after),
            interval_ms=_ms(config.poll.interval),
            limit_ms=_ms(config.poll.max_interval),
        ),
        retry_first_ms=_ms(config.download.retry_first),
        retry_limit_ms=_ms(config.download.retry_max),
        has_key=config.provider.api_key is not None,
    )


def _policy(config: Config) -> AddressPolicy:
    public = config.callback.public_url
    own_name = urlsplit(public).hostname if public else None
    return AddressPolicy(
        allow_http=config.download.allow_http,
        allow_private=config.download.allow_private,
        allowed_hosts=config.download.allowed_hosts,
        own_names=frozenset({own_name.lower()} if own_name else ()),
    )


def _open_files(config: Config, policy: AddressPolicy) -> Session:
    return file_session(
        policy,
        config.download.connect_timeout.total_seconds(),
        config.download.stall_timeout.total_seconds(),
        # A file without a length needs a second connection to learn its total.
        2 * config.download.concurrency,
    )


def _tokens(config: Config) -> tuple[str, ...]:
    configured = tuple(token.reveal() for token in config.callback.tokens)
    if configured:
        return configured
    token = make_token(config.state_dir)
    hide([token])
    return (token,)


def _log_move(move: Move) -> None:
    task = move.task
    context: dict[str, object] = {
        "from": move.before,
        "to": task.state,
        "cause": task.cause,
        "reason": task.reason,
    }
    if task.state == State.STORED:
        context |= {
            "path": task.path,
            "bytes": task.size_bytes,
            "stored_at": show_time(task.stored_at),
            "duration_seconds": task.duration_seconds,
        }
    _log.info("task.moved", **{"task_id": task.task_id, **context})


def _log_gate(event: str, shut: Shut) -> None:
    if event == "gate.closed":
        _log.warning(event, gate=shut.name, reason=shut.reason)
    else:
        seconds = (now() - shut.since) / 1000
        _log.info(event, gate=shut.name, seconds=round(seconds, 1))
