"""Builds every part from the configuration and hands each what it needs, and no more.

Rule: this is the only place that knows the whole configuration and the only one where stations
meet. Nothing runs yet when it is done: `loops` are coroutines for the service to start.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from daemon.ballast import Ballast
from daemon.bell import Spaced
from daemon.broadcast import Broadcast
from daemon.callback import Intake, Receiver
from daemon.clock import Clock, watch_clock
from daemon.config.sections import Config
from daemon.courier import Courier, message_session
from daemon.dashboard.site import Site
from daemon.diagnosis import Examiner
from daemon.disk import Disk
from daemon.download import Downloader
from daemon.fittings import (
    SPACE_SECONDS,
    Bells,
    make_mender,
    make_observer,
    make_workers,
    now,
    open_files,
    open_targets,
    prepare_disk,
    recover,
    tell_gate,
)
from daemon.gates import Gates
from daemon.gateway import Gateway
from daemon.heartbeat import Heartbeat
from daemon.hosts import Hosts
from daemon.metrics import Metrics
from daemon.office import Office
from daemon.outbound import api_session
from daemon.patience import Patience
from daemon.poller import Poller, watch_credits
from daemon.progress import Progress
from daemon.provider import Provider
from daemon.pulse import Pulse, listen
from daemon.readings import Readings
from daemon.restore import take_over
from daemon.right_of_way import RightOfWay
from daemon.rules.address import AddressPolicy
from daemon.rules.lifecycle import State
from daemon.rules.outgoing import application_policy
from daemon.settings import Settings
from daemon.soundness import check_soundness
from daemon.store import Store, open_store
from daemon.submitter import Submitter
from daemon.turnstile import Turnstile


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that was built."""

    settings: Settings
    store: Store
    disk: Disk
    pulse: Pulse
    intake: Intake
    receiver: Receiver
    office: Office
    gateway: Gateway
    broadcast: Broadcast
    readings: Readings
    examiner: Examiner
    site: Site
    loops: dict[str, Coroutine[Any, Any, None]]
    """What runs beside the listeners, by name."""
    reload: Callable[[Config], Awaitable[tuple[list[str], list[str]]]]
    """Takes a new configuration; returns what changed and what needs a restart."""


async def build(config: Config, stack: AsyncExitStack) -> Parts:
    """Open the store and the sessions and build the stations; `stack` closes what is open.

    Raises:
        StoreRefused: the ledger cannot be used.
        Hindered: the download folder cannot be made.
    """
    bells, broadcast, metrics, progress = Bells(), Broadcast(), Metrics(), Progress()
    ballast, observe = Ballast(config.state_dir), make_observer(metrics, bells.messages)
    store = await stack.enter_async_context(open_store(config.state_dir, observe, ballast))
    store.commits.observe = metrics.commit_seconds.observe
    settings = Settings(config)
    hooks, targets, announcer = await open_targets(settings, store, bells, stack)
    gates = Gates(now, lambda event, shut: tell_gate(event, shut, announcer))
    hosts = Hosts(gates, now, lambda: settings.terms.retry_limit_ms)
    clock = Clock(now)
    pulse = Pulse()
    listen(pulse)
    disk = await prepare_disk(config, gates, stack)
    await take_over(store, disk, now(), settings.terms)
    provider = Provider(
        await stack.enter_async_context(
            api_session(config.provider.base_url, lambda: settings.config.provider.api_key)
        ),
        config.provider.kind,
        gates,
        now,
        config.provider.requests_per_second,
        hear_date=clock.compare,
        hear_outcome=metrics.count_call,
    )
    files = await stack.enter_async_context(open_files(settings))
    way = RightOfWay()
    downloader = Downloader(
        store,
        files,
        lambda: settings.policy,
        disk,
        gates,
        section=lambda: settings.config.download,
        min_free_bytes=lambda: settings.config.disk.min_free,
        now=now,
        way=way,
        progress=progress,
    )
    submitter = Submitter(
        store,
        provider,
        files,
        gates,
        policy=lambda: settings.policy,
        terms=lambda: settings.terms,
        retention_ms=lambda: settings.retention_ms,
        callback_url=lambda: settings.callback_url,
        now=now,
        ring=bells.ring,
        ring_credits=bells.credits.ring,
    )

    def callable_by() -> AddressPolicy:
        return application_policy(settings.config.download.allow_private)

    def hmac_key() -> str | None:
        keys = settings.config.callback.hmac_keys
        return keys[0].reveal() if keys and config.provider.kind == "kie" else None

    def api_key() -> str | None:
        key = settings.config.provider.api_key
        return key.reveal() if key else None

    courier = Courier(
        store,
        await stack.enter_async_context(message_session(callable_by)),
        callable_by,
        now,
        bell=bells.messages,
        hmac_key=hmac_key,
        targets=targets,
        count=metrics.count_message,
    )
    gateway = Gateway(
        store,
        provider,
        gates,
        submitter.submit,
        kind=config.provider.kind,
        api_key=api_key,
        policy=callable_by,
        retention_ms=lambda: settings.retention_ms,
        now=now,
        ring=bells.ring,
    )
    examiner = await stack.enter_async_context(
        aclosing(
            Examiner(
                store=store,
                gates=gates,
                disk=disk,
                provider=provider,
                submitter=submitter,
                clock=clock,
                turnstile=Turnstile(now),
                config=lambda: settings.config,
                now=now,
                started_at=now(),
            )
        )
    )
    office = Office(
        store=store,
        gates=gates,
        disk=disk,
        submitter=submitter,
        targets=targets,
        min_free_bytes=lambda: settings.config.disk.min_free,
        terms=lambda: settings.terms,
        retention_ms=lambda: settings.retention_ms,
        now=now,
        ring=bells.ring,
        answered_at=lambda: provider.answered_at,
        credits_low=lambda: settings.config.provider.credits_low,
        examiner=examiner,
    )
    steps = {
        State.WANTED: metrics.counted(downloader.fetch, time.monotonic),
        State.VERIFIED: downloader.publish,
        State.STORED: downloader.finish,
    }
    intake = Intake(store)
    receiver = Receiver(
        section=lambda: settings.config.callback,
        tokens=lambda: settings.tokens,
        has_key=lambda: settings.terms.has_key,
        retention_ms=lambda: settings.retention_ms,
        intake=intake,
        now=now,
        ring=Spaced(bells.ring, SPACE_SECONDS).ring,
        way=way,
        turnstile=examiner.turnstile,
    )
    poller = Poller(
        store,
        provider,
        lambda: settings.terms,
        now,
        bell=bells.questions,
        ring_downloads=bells.downloads.ring,
    )

    async def reload(new: Config) -> tuple[list[str], list[str]]:
        had_key = settings.terms.has_key
        told = settings.take(new)
        provider.set_pace(settings.config.provider.requests_per_second)
        if settings.terms.has_key and not had_key:
            await store.ask_about_all(now())
        await announcer.subscribe()
        # A new key deserves a try at once.
        gates.probe_now()
        for bell in (*bells.working(), bells.heartbeat):
            bell.ring()
        submitter.ring()
        return told

    patience = Patience(
        store=store,
        gates=gates,
        hosts=hosts,
        clock=clock,
        terms=lambda: settings.terms,
        trust_link_after_ms=lambda: settings.trust_link_after_ms,
        answered_at=lambda: provider.answered_at,
        now=now,
        ring_downloads=bells.downloads.ring,
    )

    mend_times = make_mender(settings, store, gates, submitter, bells)
    await mend_times()
    await recover(store, has_key=settings.terms.has_key)
    readings = Readings(
        metrics=metrics,
        office=office,
        disk=disk,
        pulse=pulse,
        progress=progress,
        received_bytes=lambda: downloader.received_bytes,
        answers=examiner.turnstile.totals,
        state_dir=config.state_dir,
    )
    return Parts(
        settings=settings,
        store=store,
        disk=disk,
        pulse=pulse,
        intake=intake,
        receiver=receiver,
        office=office,
        gateway=gateway,
        broadcast=broadcast,
        readings=readings,
        examiner=examiner,
        site=Site(office, lambda: settings.config.provider.credits_low),
        loops={
            "ballast": ballast.keep(),
            "courier": courier.run(),
            "announcer": announcer.run(),
            "heartbeat": Heartbeat(
                store,
                hooks,
                lambda: settings.config.heartbeat,
                office.find_overdue,
                bell=bells.heartbeat,
            ).run(),
            "clock": watch_clock(clock, mend_times),
            "patience": patience.run(),
            "store": store.fail_for_good(),
            "turnstile": examiner.turnstile.run(store),
            "soundness": check_soundness(config.state_dir),
            "poller": poller.run(),
            "progress": progress.report(broadcast),
            "credits": watch_credits(
                store,
                provider,
                lambda: settings.config.provider,
                now,
                bell=bells.credits,
                remember=office.remember_credits,
                announce=announcer.say,
            ),
            "submitter": submitter.run(first=True),
            "resubmitter": submitter.run(first=False),
            **make_workers(settings, store, steps, gates, hosts, bells),
        },
        reload=reload,
    )
