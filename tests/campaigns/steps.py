"""The steps of the daemon that are cut, and how each is seen to be right in the end.

Rule: a step is made on something new; `work` is what may be cut, `mend` does it again as the next
process would and holds the result against what was promised.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from daemon.callback import Heard
from daemon.partial import open_partial
from daemon.rules.dialect import Outcome
from daemon.rules.filename import name_partial
from daemon.rules.lifecycle import Cause, State
from daemon.rules.notice import Answer, Evidence, Notice
from daemon.rules.spans import Spans
from daemon.rules.submission import Wish
from daemon.rules.task import Held, Task, Tidings, Unread
from daemon.rules.verdict import Verdict, judge_answer
from daemon.simulator.faults import Faults
from tests.campaigns.campaign import PromiseBroken
from tests.campaigns.workshop import START, TERMS, WEEK, Workshop, check_synced
from tests.stories.harness import ask as post_to
from tests.stories.stage import success

APPLICATION: Final = "http://127.0.0.1:9/hook"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that may be cut."""

    work: Coroutine[Any, Any, object]
    mend: Callable[[], Awaitable[None]]


def hold(*, fact: bool, told: str) -> None:
    """Raise PromiseBroken unless a fact is one."""
    if not fact:
        raise PromiseBroken(told)


def _linked(task_id: str) -> Tidings:
    return Tidings(
        task_id=task_id,
        cause=Cause.LINKED,
        now=START,
        deadline_at=START + WEEK,
        ask_at=None,
        link="https://files.example.com/a.mp4",
    )


async def receive(shop: Workshop) -> Step:
    """A batch of callbacks: all of it is there, or nothing."""
    batch = [_linked(shop.new_id()) for _ in range(3)]

    async def mend() -> None:
        found = [await shop.store.task(tidings.task_id) for tidings in batch]
        hold(fact=len({task is None for task in found}) == 1, told="half of a batch is there")
        tasks = await shop.store.receive(batch)
        hold(fact=len({task.callbacks for task in tasks}) == 1, told="half of a batch was counted")

    return Step(shop.store.receive(batch), mend)


async def intake(shop: Workshop) -> Step:
    """One callback that waits for its commit, as a handler does."""
    tidings = _linked(shop.new_id())

    async def mend() -> None:
        task = await shop.intake.commit(Heard(tidings))
        hold(fact=task.task_id == tidings.task_id, told="another task was acknowledged")
        hold(fact=task.callbacks in {1, 2}, told=f"{task.callbacks} callbacks were counted")
        hold(fact=not shop.intake._news.waiting, told="somebody waits in the intake")

    return Step(shop.intake.commit(Heard(tidings)), mend)


async def handler(shop: Workshop) -> Step:
    """A callback from its first byte to its answer, in the real listener."""
    task_id = shop.new_id()
    body = json.dumps(success(task_id, "https://files.example.com/a.mp4")).encode()

    async def post() -> int:
        heard, _ = await asyncio.gather(post_to("POST", shop.door, data=body), serve())
        return heard.status

    async def serve() -> None:
        visit, answer = await shop.visits.get()
        answer.set_result(await visit)

    async def handle() -> None:
        try:
            answer.set_result(await visit)
        finally:
            if not answer.done():
                answer.set_result(web.Response(status=500))

    async def mend() -> None:
        heard = await calling
        row = await shop.store.task(task_id)
        hold(fact=heard.status != 200 or row is not None, told="acknowledged and not there")
        hold(fact=await post() == 200, told="the callback is refused when it comes again")
        task = await shop.row(task_id)
        hold(fact=(task.state, task.callbacks in {1, 2}) == ("wanted", True), told=f"{task}")

    calling = asyncio.create_task(post_to("POST", shop.door, data=body), name="caller")
    visit, answer = await shop.visits.get()
    return Step(handle(), mend)


async def claim(shop: Workshop) -> Step:
    """Taking a task whose download is due."""
    task_id = (await shop.want(shop.new_id())).task_id
    await shop.store.release_claims()

    async def mend() -> None:
        hold(fact=(await shop.claim(task_id)).claimed_at == START, told="it is not claimed")
        again = await shop.store.claim(task_id, START)
        hold(fact=again is None, told=f"{task_id} was claimed twice")

    return Step(shop.store.claim(task_id, START), mend)


async def settle(shop: Workshop) -> Step:
    """Carrying the provider's answer to the ledger."""
    task_id = shop.new_id()
    (task,), _ = await _adopt(shop, task_id)
    link = "https://files.example.com/b.mp4"
    answer = Answer(
        Outcome.ANSWERED, "", 200, Notice(task_id, Evidence.SUCCESS, link, None, "", 200)
    )

    def decide(newest: Task) -> Verdict:
        return judge_answer(newest, answer, START, TERMS, 0.5)

    async def mend() -> None:
        settled, _ = await shop.store.settle(await shop.row(task_id), START, decide)
        hold(fact=(settled.state, settled.link) == ("wanted", link), told=f"{settled}")
        steps = [step.after for step in await shop.store.history(task_id)]
        hold(fact=steps == ["expected", "wanted"], told=f"its history says {steps}")

    return Step(shop.store.settle(task, START, decide), mend)


async def progress(shop: Workshop) -> Step:
    """Remembering which bytes are on the disk."""
    task = await shop.want(shop.new_id())
    shop.pool.journal.append("sync")

    def record() -> Coroutine[Any, Any, None]:
        return shop.store.record_progress(task.task_id, "0-100", 200, '"e"')

    async def mend() -> None:
        before = await shop.row(task.task_id)
        hold(fact=before.spans in {"", "0-100"}, told=f"{before.spans} are remembered")
        await record()
        after = await shop.row(task.task_id)
        hold(fact=(after.spans, after.size_bytes) == ("0-100", 200), told=f"{after}")

    return Step(record(), mend)


async def _adopt(shop: Workshop, *task_ids: str) -> tuple[list[Task], int]:
    return await shop.store.adopt(
        task_ids, source="track", label=None, now=START, deadline_at=START + WEEK, ask_at=START
    )


async def adopt(shop: Workshop) -> Step:
    """Taking tasks of somebody else: all of them, or none."""
    task_ids = [shop.new_id() for _ in range(3)]

    async def mend() -> None:
        tasks, new = await _adopt(shop, *task_ids)
        hold(fact=new in {0, 3} and len(tasks) == 3, told=f"{new} of three were new")

    return Step(_adopt(shop, *task_ids), mend)


def _wish(shop: Workshop) -> Wish:
    return Wish(music_task_id="music", audio_id=shop.new_id(), application_url=APPLICATION)


async def intents(shop: Workshop) -> Step:
    """A wish from its record to its name, without the call between."""
    wish, video, ledger = _wish(shop), shop.new_id(), shop.store.intents

    async def carry() -> None:
        intent = await ledger.open_twin(wish)
        if intent is None:
            local_id = f"submit-{video}"
            intent = await ledger.record(
                *(local_id, wish),
                source="gateway",
                label=None,
                now=START,
                deadline_at=START + WEEK,
                send=False,
            )
        await ledger.reopen(intent, START)
        begun = await ledger.begin(intent)
        if begun is not None:
            await ledger.postpone(begun, None, doubts=0, unheard=0)
            await ledger.name(begun, video, ask_at=None, now=START, tells=True)

    async def mend() -> None:
        if await shop.store.task(video) is None:
            await ledger.recover(START)
            await carry()
        task = await shop.row(video)
        hold(fact=not task.has_local_id, told=f"it is still called {task.task_id}")
        hold(fact=await ledger.open_twin(wish) is None, told="its intent is still open")
        await shop.store.settle(task, START, lambda _: Verdict(Cause.DECLINED, {"ask_at": None}))
        await outbox_of(shop, video)

    return Step(carry(), mend)


async def outbox_of(shop: Workshop, video: str) -> None:
    """Look that one message waits for the application, and take it away."""
    message = await shop.store.outbox.next(())
    hold(fact=message is not None and message.task_id == video, told="nobody would be told")
    if message is not None:
        await shop.store.outbox.delete(message)
    hold(fact=await shop.store.outbox.next(()) is None, told="it would be told twice")


async def outbox(shop: Workshop) -> Step:
    """A message that is put off once and then arrives."""
    made = await intents(shop)
    await made.work
    wish = await shop.store.tasks((), 1)
    task = wish[0]
    await shop.store.settle(task, START, lambda _: Verdict(Cause.DECLINED, {"ask_at": None}))

    async def carry() -> None:
        message = await shop.store.outbox.next(())
        if message is not None:
            await shop.store.outbox.postpone(message, START, "nobody there")
            await shop.store.outbox.delete(message)

    async def mend() -> None:
        await carry()
        hold(fact=await shop.store.outbox.next(()) is None, told="a message that arrived is there")

    return Step(carry(), mend)


async def quarantine(shop: Workshop) -> Step:
    """Keeping a callback that nobody can read."""
    body = shop.new_id().encode()

    def keep() -> Coroutine[Any, Any, list[Held]]:
        unread = Unread(body=body, why="not JSON", remote="::1", content_type="", now=START)
        return shop.store.quarantine.keep([unread])

    async def mend() -> None:
        (held,) = await keep()
        hold(fact=(held.body, held.copies in {1, 2}) == (body, True), told=f"it holds {held}")

    return Step(keep(), mend)


async def partial(shop: Workshop) -> Step:
    """A partial file from its opening to its closing, with a start over in between."""
    path = shop.disk.partial(f"{shop.new_id()}.part")
    said: list[str] = []

    async def record(spans: Spans, _total: int | None, _validator: str | None) -> None:
        check_synced(shop.pool.journal, str(spans))
        said.append(str(spans))

    async def carry(*, reset: bool) -> None:
        async with open_partial(
            *(shop.disk, path, record),
            spans=said[-1] if said else "",
            total_bytes=200_000,
            validator='"e"',
        ) as part:
            await part.write(0, memoryview(b"wrong" * 20_000))
            await part.sync()
            if reset:
                await part.reset()
            await part.write(0, memoryview(b"right" * 20_000))
            hold(fact=await part.read(0, 5) == b"right", told="it does not read what it wrote")
            await part.write(100_000, memoryview(b"other" * 20_000))

    async def mend() -> None:
        await carry(reset=True)
        whole = b"right" * 20_000 + b"other" * 20_000
        hold(fact=path.read_bytes() == whole, told="the file is not what was written")
        hold(fact=said[-1] == "0-200000", told=f"{said[-1]} is remembered")

    return Step(carry(reset=shop.luck.random() < 0.5), mend)


async def fetch(shop: Workshop) -> Step:
    """A download, of which some bytes may be there."""
    task = await shop.want()
    return Step(shop.downloader.fetch(task), lambda: _finish(shop, task.task_id))


async def publish(shop: Workshop) -> Step:
    """Giving a verified file its name."""
    task = await shop.downloader.fetch(await shop.want())
    return Step(shop.downloader.publish(task), lambda: _finish(shop, task.task_id))


async def _finish(shop: Workshop, task_id: str) -> None:
    """Carry a task to its end as the next process would, and look at its file."""
    part = shop.disk.partial(name_partial(task_id))
    task = await shop.row(task_id)
    if task.state == State.WANTED:
        shop.check_bytes(task, part)
    task = await shop.claim(task_id)
    steps = {
        State.WANTED: shop.downloader.fetch,
        State.VERIFIED: shop.downloader.publish,
        State.STORED: shop.downloader.finish,
    }
    while (state := State(task.state)) in steps:
        task = await steps[state](task)
    film = shop.simulator.tasks[task_id].film
    hold(fact=task.state == State.DONE and not part.exists(), told=f"it ended as {task}")
    path = shop.videos / (task.path or "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    hold(fact=digest == film.sha256() == task.sha256, told=f"{path} is not the film")
    hold(fact=not shop.gates.is_shut("disk"), told="the disk's gate is shut")
    path.unlink()


async def ask(shop: Workshop) -> Step:
    """A question to the provider, and its answer on the way to the ledger."""
    task_id = shop.simulator.add_task(Faults(callbacks=()))
    (task,), _ = await _adopt(shop, task_id)

    async def mend() -> None:
        hold(fact=not shop.poller._asking, told="it is taken for being asked about")
        newest = await shop.row(task_id)
        due = newest.state == State.WANTED or newest.ask_at == START
        hold(fact=due, told=f"nobody would ask again: {newest}")
        await shop.poller._ask(newest)
        settled = await shop.row(task_id)
        link = shop.simulator.tasks[task_id].video_url
        hold(fact=(settled.state, settled.link) == ("wanted", link), told=f"{settled}")

    shop.poller._asking.add(task.id)
    return Step(shop.poller._ask(task), mend)


async def submit(shop: Workshop) -> Step:
    """A wish of the owner, who goes away while it is sent."""
    wish = _wish(shop)
    sending = shop.submitter.submit(wish, source="submit", label=None)
    return Step(sending, lambda: _paid_once(shop, wish))


async def gateway(shop: Workshop) -> Step:
    """A wish of an application, which hangs up: nothing is sent behind its back."""
    wish = _wish(shop)
    body = json.dumps({"taskId": "music", "audioId": wish.audio_id, "callBackUrl": APPLICATION})
    asked = shop.gateway._generate(body.encode())
    return Step(asked, lambda: _paid_once(shop, wish))


async def _paid_once(shop: Workshop, wish: Wish) -> None:
    submitter = shop.submitter
    left = (submitter._waiting, submitter._impatient, submitter._withdrawn)
    if shop.felt > 1:
        # Only a daemon that stops cancels twice; what is in memory ends with it.
        await shop.restart()
    else:
        hold(fact=not any(left), told=f"the submitter still remembers {left}")
    done = await shop.submitter.submit(wish, source="submit", label=None)
    hold(fact=not done.task.has_local_id, told=f"it has no id: {done.task}")
    track = (wish.music_task_id, wish.audio_id)
    paid = [task.task_id for task in shop.simulator.tasks.values() if task.track == track]
    hold(fact=paid == [done.task.task_id], told=f"{paid} were paid for, {done.task} is known")
    # Its callback was never sent anywhere; what an application would hear is not looked at here.
    while (message := await shop.store.outbox.next(())) is not None:
        await shop.store.outbox.delete(message)


STEPS: Final[Mapping[str, Callable[[Workshop], Awaitable[Step]]]] = {
    made.__name__: made
    for made in (
        *(receive, intake, handler, claim, settle, progress, adopt, intents, outbox, quarantine),
        *(partial, fetch, publish, ask, submit, gateway),
    )
}
