"""Looking on while it happens, and the numbers that alarms are made of."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from daemon.broadcast import LISTENERS_LIMIT
from daemon.simulator.faults import Faults, FileFault
from tests.stories.harness import API_KEY, Daemon
from tests.stories.stage import Stage

TCP = {"listen": "127.0.0.1:0"}


class Onlooker:
    """A reader of the stream of events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def until(self, wanted: str, **fields: object) -> dict[str, Any]:
        """Return the next event of this name that has these fields."""
        async with asyncio.timeout(20):
            while True:
                event, data = await self._next()
                told: dict[str, Any] = json.loads(data)
                assert told["event"] == event
                if event == wanted and all(told.get(key) == fields[key] for key in fields):
                    return told

    async def end(self) -> None:
        """Wait until the daemon lets go."""
        async with asyncio.timeout(20):
            while await self._response.content.readline():
                pass

    async def _next(self) -> tuple[str, str]:
        event = data = ""
        while True:
            line = (await self._response.content.readline()).decode()
            assert line, "the stream ended"
            name, _, value = line.rstrip("\r\n").partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                data = value
            elif not name and event:
                return event, data


@asynccontextmanager
async def looking_on(daemon: Daemon) -> AsyncIterator[Onlooker]:
    """Read the stream of a daemon's events; nothing that comes from here on is missed."""
    async with aiohttp.request("GET", f"{daemon.ready['admin_tcp']}/v1/events") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert await response.content.readline() == b": listening\r\n"
        yield Onlooker(response)


async def metrics(daemon: Daemon) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what Prometheus reads: by name, and by the values of the labels."""
    answer = await daemon.call("/metrics", {})
    assert answer.status == 200
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


async def test_who_looks_on_sees_a_film_arrive(stage: Stage) -> None:
    """Its callback, its bytes with their speed, and its moves."""
    provider = await stage.provider(file_size_bytes=900_000, bytes_per_second=300_000)
    daemon = await stage.daemon(provider, admin=TCP)
    async with looking_on(daemon) as onlooker:
        task_id = provider.add_task(callback_url=daemon.url)
        await onlooker.until("callback.received", task_id=task_id)
        far = await onlooker.until("download.progress", task_id=task_id, size_bytes=900_000)
        assert 0 <= far["received_bytes"] <= 900_000
        later = await onlooker.until("download.progress", task_id=task_id)
        assert later["received_bytes"] > far["received_bytes"]
        assert later["bytes_per_second"] > 0
        stored = await onlooker.until("task.moved", task_id=task_id, to="stored")
        assert stored["bytes"] == 900_000
    assert not daemon.log("download.progress")


async def test_a_stop_lets_onlookers_go_and_waits_for_none(stage: Stage) -> None:
    """Their streams end with it; a reader that takes nothing is left behind."""
    daemon = await stage.daemon(None, admin=TCP)
    async with looking_on(daemon) as onlooker, looking_on(daemon):
        began = asyncio.get_running_loop().time()
        assert await daemon.stop() == 0
        await onlooker.end()
        assert asyncio.get_running_loop().time() - began < 5


async def test_who_leaves_before_the_first_word_is_no_error(stage: Stage) -> None:
    """Somebody closes a page while it opens; the log has no line about that."""
    daemon = await stage.daemon(None, admin=TCP)
    url = URL(daemon.ready["admin_tcp"])
    order = f"GET /v1/events HTTP/1.1\r\nHost: {url.authority}\r\n\r\n".encode()
    for _ in range(20):
        with socket.create_connection((url.host or "", url.port or 0)) as leaving:
            leaving.sendall(order)
    await daemon.get("/v1/status")
    assert await daemon.stop() == 0
    assert not daemon.log("http.failed")


async def test_only_so_many_look_on(stage: Stage) -> None:
    """One more is asked to come later, and may when somebody left."""
    daemon = await stage.daemon(None, admin=TCP)
    async with AsyncExitStack() as stack:
        for _ in range(LISTENERS_LIMIT - 1):
            await stack.enter_async_context(looking_on(daemon))
        async with looking_on(daemon):
            refused = await daemon.call("/v1/events", {})
            assert (refused.status, refused.headers["Retry-After"]) == (503, "30")
        until = asyncio.get_running_loop().time() + 10
        while (await begin(daemon)) == 503:
            assert asyncio.get_running_loop().time() < until
            await asyncio.sleep(0.05)


async def begin(daemon: Daemon) -> int:
    """Return how an onlooker is received."""
    async with aiohttp.request("GET", f"{daemon.ready['admin_tcp']}/v1/events") as response:
        return response.status


async def test_the_numbers_tell_what_happened(stage: Stage) -> None:
    """Counts by state, moves, downloads, calls, gates, room and the age of what waits."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, admin=TCP)
    stored = provider.add_task(callback_url=daemon.url)
    broken = provider.add_task(
        Faults(files=(FileFault(truncate_to_bytes=1_000, lasts="always"),)),
        callback_url=daemon.url,
    )
    await daemon.until(stored)
    await daemon.says("download.failed", task_id=broken)
    found = await metrics(daemon)
    assert found["suno_videod_build_info"]
    assert found["suno_videod_tasks"][("done",)] == 1
    assert found["suno_videod_task_moves_total"][("stored",)] == 1
    assert found["suno_videod_callbacks_total"][("accepted",)] >= 2
    assert found["suno_videod_callbacks_total"][("not_stored",)] == 0
    assert found["suno_videod_unsafe"][()] == 1
    assert found["suno_videod_downloads_total"][("fetched",)] == 1
    assert sum(found["suno_videod_downloads_total"].values()) > 1
    assert found["suno_videod_provider_calls_total"][("answered",)] >= 2
    assert found["suno_videod_commit_seconds_count"][()] > 3
    assert found["suno_videod_download_seconds_count"][()] == 1
    size_bytes = (await daemon.task(stored))["size_bytes"]
    assert found["suno_videod_stored_bytes"][()] == size_bytes
    assert found["suno_videod_download_bytes_total"][()] > size_bytes
    assert found["suno_videod_disk_free_bytes"][()] > found["suno_videod_disk_min_free_bytes"][()]
    assert found["suno_videod_earliest_deadline_seconds"][()] > 13 * 24 * 3600
    assert found["suno_videod_oldest_pending_seconds"][()] > 0
    assert found["suno_videod_ledger_bytes"][()] > 0
    assert found["process_resident_memory_bytes"][()] > 0
    assert set(found["suno_videod_gates_closed"].values()) == {0}
    assert "suno_videod_last_backup_timestamp_seconds" not in found
    assert (await daemon.run("backup", str(daemon.folder / "copy"))).code == 0
    again = await metrics(daemon)
    assert again["suno_videod_last_backup_timestamp_seconds"][()] > 1_700_000_000
    assert again["suno_videod_tasks"] == found["suno_videod_tasks"]


async def test_every_metric_is_listed(stage: Stage) -> None:
    """The page names what there is, and nothing that is not; a label at its metric."""
    daemon = await stage.daemon(None, admin=TCP)
    await daemon.post({"code": 200})
    assert (await daemon.run("backup", str(daemon.folder / "copy"))).code == 0
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(suno_videod_\w+)` \| (?:`(\w+)`)? ?\|", page, re.MULTILINE))
    answer = await daemon.call("/metrics", {})
    there = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        if family.name.startswith("suno_videod") and family.samples:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            there[name] = "".join(labels)
    # Nobody shut a gate, nobody told us of credits, and no answer came.
    absent = {"gate_closed_timestamp_seconds", "credits", "last_poll_timestamp_seconds"}
    absent.add("earliest_deadline_seconds")
    assert {name for name in listed if name not in there} <= {
        f"suno_videod_{name}" for name in absent
    }
    assert {name: listed.get(name) for name in there} == there


async def test_a_shut_gate_is_a_number_with_its_time(stage: Stage) -> None:
    """What the wrong key holds up can ring somebody's phone."""
    provider = await stage.provider(api_key=f"{API_KEY}-and-more")
    daemon = await stage.daemon(provider, admin=TCP)
    await daemon.track("t1")
    await daemon.says("gate.closed", gate="key")
    found = await metrics(daemon)
    assert found["suno_videod_gates_closed"][("key",)] == 1
    assert found["suno_videod_gate_closed_timestamp_seconds"][("key",)] > 1_700_000_000
    assert found["suno_videod_provider_calls_total"][("key",)] >= 1


async def test_the_chart_has_every_day(stage: Stage) -> None:
    """Days without a video are there as well, and the last one is today."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    for _ in range(2):
        await daemon.until(provider.add_task(callback_url=daemon.url))
    chart = await daemon.get("/v1/chart?days=3")
    size_bytes = sum(task["size_bytes"] for task in (await daemon.tasks()).values())
    assert [day["videos"] for day in chart["days"]][-1] in {1, 2}
    assert sum(day["videos"] for day in chart["days"]) == 2
    assert sum(day["bytes"] for day in chart["days"]) == chart["stored_bytes"] == size_bytes
    assert len(chart["days"]) == 3
    assert [day["day"] for day in chart["days"]] == sorted(day["day"] for day in chart["days"])
