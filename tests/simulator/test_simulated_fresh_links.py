"""Fresh links of the provider in a box: kie alone gives them, for films of its own."""

from typing import Any

import aiohttp
import pytest

from daemon.simulator.faults import FORGED_FILE, SCENARIOS, Faults, FileFault
from daemon.simulator.provider import PASS_SECONDS, Kind, SimulatedTask
from daemon.simulator.simulator import Simulator
from tests.simulator.asking import FAST, KEY, ask, call, fetch, read_all, simulate

PATH = "/api/v1/common/download-url"
REFUSED = FileFault(status=403, lasts="always")


async def freshen(simulator: Simulator, url: object) -> Any:
    """Ask for a fresh link and return the whole envelope."""
    status, answer = await call(simulator, PATH, {"url": url})
    assert status == 200
    return answer


def add_task(simulator: Simulator, *files: FileFault) -> SimulatedTask:
    """Make a film with these faults."""
    return simulator.tasks[simulator.add_task(Faults(files=files))]


@pytest.mark.parametrize("query", ["", "?redirected=1", "?pass=used"])
async def test_fresh_link_works_where_the_plain_one_is_refused(query: str) -> None:
    """The film comes by a link with a secret, which costs nothing and is new each time."""
    async with simulate("kie") as simulator:
        task = add_task(simulator, *SCENARIOS["sim-refused-link"][0].files)
        answers = [await freshen(simulator, task.video_url + query) for _ in range(2)]
        links = [answer["data"] for answer in answers]
        assert answers[0] == {"code": 200, "msg": "success", "data": links[0]}
        assert links[0] != links[1]
        for link in links:
            assert link.startswith(f"{task.video_url}?pass=")
            assert len(link.partition("?pass=")[2]) >= 32
            assert (await fetch(task.video_url)).status == 403
            fresh = await fetch(link)
            assert (fresh.status, fresh.body) == (200, read_all(task.film))
            assert (await fetch(link, {"Range": "bytes=5-9"})).status == 206
        assert simulator.credits == FAST.credits


async def test_fresh_link_leaves_the_fault_of_the_plain_one() -> None:
    """A download that is spared the fault does not use it up."""
    async with simulate("kie") as simulator:
        task = add_task(simulator, FileFault(status=500))
        link = (await freshen(simulator, task.video_url))["data"]
        statuses = [(await fetch(url)).status for url in (link, task.video_url, task.video_url)]
        assert statuses == [200, 500, 200]


async def test_fault_may_be_that_of_the_fresh_link_too() -> None:
    """With `also_fresh` a fresh link has the fault, and uses it up as the plain one does."""
    async with simulate("kie") as simulator:
        task = add_task(simulator, FileFault(status=410, lasts=2, also_fresh=True), REFUSED)
        link = (await freshen(simulator, task.video_url))["data"]
        statuses = [(await fetch(url)).status for url in (link, task.video_url, link)]
        assert statuses == [410, 410, 200]


async def test_every_link_of_a_film_can_be_made_fresh() -> None:
    """An old link is freshened at its own path, as is the new one; a future one is nobody's."""
    async with simulate("kie") as simulator:
        task = add_task(simulator, FileFault(status=403, lasts="renewed"), REFUSED)
        old = task.video_url
        assert (await freshen(simulator, old.replace(".mp4", "-2.mp4")))["code"] == 422
        assert (await fetch(old)).status == 403
        await ask(simulator, task.task_id)
        assert task.video_urls == [old, task.video_url]
        for url in task.video_urls:
            link = (await freshen(simulator, url))["data"]
            assert link.partition("?")[0] == url
            assert [(await fetch(at)).status for at in (url, link)] == [403, 200]


async def test_fresh_link_ends_after_twenty_minutes() -> None:
    """A secret that is old, unknown, empty or another film's is refused, fault or no fault."""
    async with simulate("kie") as simulator:
        task, other = add_task(simulator), add_task(simulator)
        link = (await freshen(simulator, task.video_url))["data"]
        secret = link.partition("?pass=")[2]
        assert list(task.passes) == [secret]
        assert PASS_SECONDS == 1_200
        task.passes[secret] -= PASS_SECONDS - 5
        assert (await fetch(link)).status == 200
        task.passes[secret] -= 6
        assert (await fetch(link)).status == 403
        assert (await fetch(link, method="HEAD")).status == 403
        for wrong in ("", "x", next(iter(task.passes))):
            assert (await fetch(f"{other.video_url}?pass={wrong}")).status == 403
        assert (await fetch(task.video_url)).status == 200


async def test_fresh_link_of_an_outlived_film_is_dead() -> None:
    """What the provider has deleted no secret brings back."""
    async with simulate("kie") as simulator:
        task = add_task(simulator)
        link = (await freshen(simulator, task.video_url))["data"]
        task.completes_at -= simulator.options.retention_seconds
        assert (await fetch(link)).status == 404


async def test_link_of_another_maker_is_wrong() -> None:
    """Only films that were made here have fresh links, by exactly the link that was told."""
    async with simulate("kie") as simulator:
        task = add_task(simulator)
        for url in (
            "https://example.org/a.mp4",
            "",
            simulator.base_url + FORGED_FILE,
            f"{simulator.base_url}/files/{'0' * 32}.mp4",
            task.video_url.replace("http://", "https://"),
            f"{task.video_url}/x",
        ):
            answer = await freshen(simulator, url)
            assert answer == {"code": 422, "msg": "url is wrong", "data": None}
        assert (await freshen(simulator, 7))["code"] == 422
        assert task.passes == {}


async def test_fresh_link_needs_the_key() -> None:
    """Without the key there is no secret."""
    async with simulate("kie") as simulator:
        task = add_task(simulator)
        _, answer = await call(simulator, PATH, {"url": task.video_url}, headers={})
        assert (answer["code"], task.passes) == (401, {})


@pytest.mark.parametrize("kind", ["sunoapi", "apibox"])
async def test_only_kie_gives_fresh_links(kind: Kind) -> None:
    """Elsewhere the path does not exist."""
    async with (
        simulate(kind) as simulator,
        aiohttp.request(
            "POST", simulator.base_url + PATH, json={"url": "x"}, headers=KEY
        ) as response,
    ):
        assert response.status == 404
