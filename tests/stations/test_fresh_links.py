"""A link that the host refuses and the provider names again: kie.ai makes a short-lived one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from daemon.bell import Bell
from daemon.config.secret import Secret
from daemon.download import Downloader
from daemon.gates import Gates
from daemon.outbound import api_session
from daemon.poller import Poller
from daemon.provider import Provider
from daemon.rules.failure import StepFailed
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.task import Task
from daemon.rules.verdict import Terms, judge_failure
from daemon.simulator.faults import SCENARIOS, ApiFaults, Faults, FileFault, Reply
from daemon.simulator.provider import Kind, SimulatorOptions
from daemon.simulator.simulator import Simulator
from daemon.store import Store

START = 1_790_000_000_000
FRESH_PATH = "/api/v1/common/download-url"
REFUSED = SCENARIOS["sim-refused-link"][0].files
TERMS = Terms(Pace(3 * MINUTE, 30 * SECOND, 6 * HOUR), 2 * SECOND, 15 * MINUTE, has_key=True)

Advance = Callable[[int], None]
Make = Callable[..., Downloader]
Now = Callable[[], int]
Plant = Callable[..., Awaitable[Task]]
Tell = Callable[..., AbstractAsyncContextManager["Story"]]


async def _refuse_post(_url: str, _body: bytes, _headers: Mapping[str, str]) -> int:
    raise ConnectionRefusedError


class Story:
    """A provider, a poller that asks it, and a download that is tried by hand."""

    def __init__(self, store: Store, simulator: Simulator, downloader: Downloader) -> None:
        self.store = store
        self.simulator = simulator
        self.downloader = downloader
        self.bell = Bell()
        self.task_id = ""

    @property
    def link(self) -> str:
        """The link that record-info names."""
        return self.simulator.tasks[self.task_id].video_url

    def asked(self, path: str) -> int:
        """Return how often something was asked for."""
        return sum(request.path == path for request in self.simulator.requests)

    async def reach(self, state: str) -> Task:
        """Wait until the task is in a state."""
        async with asyncio.timeout(5):
            while True:
                task = await self.store.task(self.task_id)
                assert task is not None
                if task.state == state:
                    return task
                await asyncio.sleep(0.01)

    async def fetch(self, now: int) -> Task:
        """Try the download once, as a worker does."""
        claimed = await self.store.claim(self.task_id, now)
        assert claimed is not None
        try:
            return await self.downloader.fetch(claimed)
        except StepFailed as failure:
            told = failure
        settled, _ = await self.store.settle(
            claimed, now, lambda task: judge_failure(task, told, now, TERMS, 0.5)
        )
        self.bell.ring()
        return settled


@pytest.fixture
def tell(store: Store, gates: Gates, now: Now, plant: Plant, make_downloader: Make) -> Tell:
    """Begin a story, as (kind of provider, faults of the file)."""

    @asynccontextmanager
    async def begin(kind: Kind, *files: FileFault) -> AsyncIterator[Story]:
        options = SimulatorOptions(kind=kind, api_key="key", file_size_bytes=300_000)
        simulator = Simulator(options, _refuse_post)
        async with (
            simulator.serve() as base_url,
            api_session(base_url, lambda: Secret("key"), 5) as session,
        ):
            story = Story(store, simulator, make_downloader())
            story.task_id = simulator.add_task(Faults(callbacks=(), files=files))
            await plant(story.task_id, ask_at=START, asked_since=START)
            provider = Provider(session, kind, gates, now, 1000)
            asking = asyncio.create_task(
                Poller(
                    *(store, provider, lambda: TERMS, now),
                    bell=story.bell,
                    ring_downloads=lambda: None,
                ).run()
            )
            try:
                yield story
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            assert asking.cancelled()

    return begin


async def test_a_refused_link_is_replaced_by_a_short_lived_one(
    tell: Tell, now: Now, advance: Advance
) -> None:
    """Asked for once, when the provider names the refused link again; the film is whole."""
    async with tell("kie", *REFUSED) as story:
        first = await story.reach("wanted")
        assert (first.link, first.fresh_link) == (story.link, None)
        assert story.asked(FRESH_PATH) == 0
        refused = await story.fetch(now())
        assert (refused.state, refused.refusals) == ("expected", 1)
        again = await story.reach("wanted")
        assert (again.link, again.refusals) == (story.link, 1)
        assert (again.fresh_link or "").startswith(f"{story.link}?pass=")
        assert story.asked(FRESH_PATH) == 1
        advance((again.fetch_at or 0) - START)
        done = await story.fetch(now())
        assert (done.state, done.size_bytes, done.link) == ("verified", 300_000, story.link)
        assert story.asked(FRESH_PATH) == 1


async def test_a_fresh_link_that_is_refused_is_dropped(
    tell: Tell, now: Now, advance: Advance
) -> None:
    """Another one is asked for, with a pause in between; none is tried twice."""
    both = FileFault(status=403, lasts="always", also_fresh=True)
    async with tell("kie", both) as story:
        links = []
        for number in range(3):
            task = await story.reach("wanted")
            links.append(task.next_link)
            assert story.asked(FRESH_PATH) == number
            pause = (task.fetch_at or 0) - now()
            assert (pause > 0) == (number > 0)
            advance(pause)
            refused = await story.fetch(now())
            assert (refused.state, refused.refusals, refused.fresh_link) == (
                *("expected", number + 1),
                None,
            )
        assert links[0] == story.link
        assert len(set(links)) == 3


async def test_other_providers_are_not_asked_for_one(tell: Tell, now: Now) -> None:
    """The same link is tried again, later."""
    async with tell("sunoapi", *REFUSED) as story:
        await story.reach("wanted")
        await story.fetch(now())
        again = await story.reach("wanted")
        assert (again.next_link, again.fresh_link) == (story.link, None)
        assert again.fetch_at is not None
        assert again.fetch_at > now()
        assert story.asked(FRESH_PATH) == 0


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(code=422), Reply(code=500), Reply(code=200), Reply(raw="<html>", status=502)),
        *(Reply(cut=True), Reply(raw='{"code":200,"data":"ftp://x"}')),
    ],
)
async def test_without_a_fresh_link_the_plain_one_is_tried_again(
    tell: Tell, now: Now, reply: Reply
) -> None:
    """The answer about the task is not lost over it."""
    async with tell("kie", *REFUSED) as story:
        await story.reach("wanted")
        story.simulator.script_api(ApiFaults(codes=(reply,), path=FRESH_PATH))
        await story.fetch(now())
        again = await story.reach("wanted")
        assert (again.next_link, again.fresh_link, again.refusals) == (story.link, None, 1)
        assert again.answered_at == now()
        assert story.asked(FRESH_PATH) == 1


async def test_a_renewed_link_needs_no_fresh_one(tell: Tell, now: Now) -> None:
    """A link that nobody refused yet is tried as it is."""
    async with tell("kie", FileFault(status=403, lasts="renewed")) as story:
        old = (await story.reach("wanted")).link
        await story.fetch(now())
        task = await story.reach("wanted")
        assert (task.link, task.next_link) == (story.link, story.link)
        assert task.link != old
        assert story.asked(FRESH_PATH) == 0
        assert (await story.fetch(now())).state == "verified"
