"""Before anything is paid for: only a definite no of provider or host stops a submit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from daemon.rules.address import AddressPolicy
from daemon.simulator.faults import ApiFaults, Reply
from daemon.simulator.music import (
    DEAD_AUDIO,
    FAILED_MUSIC,
    FOREIGN_AUDIO,
    FOREIGN_MUSIC,
    UNKNOWN_MUSIC,
)
from daemon.simulator.provider import Kind
from tests.stations.submitting import (
    WISH,
    Start,
    sent,
    serve,
)


@pytest.mark.parametrize("kind", ["sunoapi", "kie"])
@pytest.mark.parametrize(
    ("music", "audio", "objection"),
    [
        (UNKNOWN_MUSIC, "a", "knows no such music task"),
        (FAILED_MUSIC, "a", "the music task failed"),
        (FOREIGN_MUSIC, "a", "has no such track"),
        (FOREIGN_MUSIC, DEAD_AUDIO, "audio cannot be fetched any more (HTTP 404)"),
        (FOREIGN_MUSIC, FOREIGN_AUDIO, None),
        ("in the making", "a", None),
    ],
)
async def test_a_check_objects_only_to_a_definite_no(
    start: Start, kind: Kind, music: str, audio: str, objection: str | None
) -> None:
    """It costs nothing and submits nothing."""
    async with serve(kind) as simulator, start(simulator) as station:
        wish = replace(WISH, music_task_id=music, audio_id=audio)
        found = await station.submitter.check(wish)
        assert found is None if objection is None else objection in (found or "")
        assert (simulator.tasks, sent(simulator), simulator.credits) == ({}, 0, 1000)


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(code=code) for code in (401, 404, 430, 455, 500)),
        *(Reply(raw="{"), Reply(raw="<html>", status=502), Reply(cut=True)),
        Reply(raw='{"data": null}'),
        Reply(delay_seconds=2),
    ],
)
@pytest.mark.usefixtures("hurry")
async def test_an_api_that_does_not_answer_is_no_objection(start: Start, reply: Reply) -> None:
    """Nor one that cannot be asked at all."""
    async with serve() as simulator, start(simulator) as station:
        # Twice, for a question whose connection broke is asked again below us.
        simulator.script_api(ApiFaults(codes=(reply,), repeat=2))
        wish = replace(WISH, music_task_id=UNKNOWN_MUSIC)
        assert await station.submitter.check(wish) is None
        station.gates.close("maintenance", "closed")
        assert await station.submitter.check(wish) is None


@asynccontextmanager
async def audio_host(status: int, wait_seconds: float = 0) -> AsyncIterator[str]:
    """Run a host that answers everything so; yield the link of a track."""
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(wait_seconds)
        head = f"HTTP/1.1 {status} Said\r\nContent-Length: 0\r\nLocation: /audio.mp3\r\n\r\n"
        writer.write(head.encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/audio.mp3"
    finally:
        server.close()
        for writer in writers:
            writer.close()


@pytest.mark.parametrize(
    ("status", "objection"),
    [
        *((status, None) for status in (200, 206, 408, 416, 425, 429, 500, 503)),
        *((status, f"(HTTP {status})") for status in (401, 403, 404, 410, 441)),
        (302, "redirects in a circle"),
    ],
)
async def test_the_audio_has_to_be_there(start: Start, status: int, objection: str | None) -> None:
    """A host that has a bad moment is no definite no."""
    async with serve() as simulator, start(simulator) as station, audio_host(status) as link:
        found = await station.submitter._try_audio(link)
        assert found is None if objection is None else objection in (found or "")


async def test_an_audio_host_that_we_cannot_ask_is_no_objection(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own policy, a silent host and one that is gone say nothing about the provider's reach."""
    monkeypatch.setattr("daemon.submitter.AUDIO_SECONDS", 0.2)
    async with serve() as simulator, start(simulator) as station:
        async with audio_host(404, wait_seconds=0.6) as link:
            assert await station.submitter._try_audio(link) is None
        assert await station.submitter._try_audio(link) is None
        async with audio_host(404) as link:
            station.policy = AddressPolicy()
            assert await station.submitter._try_audio(link) is None
