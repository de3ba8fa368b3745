"""What the owner may see and ask for: the handlers of the admin API.

Rule: handlers take and return the Structs of `views`, of which the OpenAPI document is made, and
every error has one shape.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, TypeVar

from aiohttp import web

from daemon import __version__
from daemon.asking import Refusal, answer, convert, problem, read_json, read_query
from daemon.diagnosis import Examiner
from daemon.disk import Disk
from daemon.gates import Gates
from daemon.logs import mask
from daemon.overdue import find_overdue
from daemon.rules.failure import Hindered, Reason
from daemon.rules.lifecycle import State
from daemon.rules.notice import TASK_ID
from daemon.rules.outgoing import find_host
from daemon.rules.request import judge_forget, judge_retry
from daemon.rules.submission import TEXT_LIMIT, Next, Wish
from daemon.rules.task import Task
from daemon.rules.verdict import Terms, Verdict
from daemon.stock import DAY_MS
from daemon.store import Store
from daemon.submitter import Submitter
from daemon.targets import Targets, Trial
from daemon.views import (
    IDS_LIMIT,
    LABEL_LIMIT,
    Balance,
    BalancePage,
    BalanceQuery,
    Chart,
    ChartQuery,
    DayView,
    DiskView,
    HeldPage,
    HistoryPage,
    PageQuery,
    Rejected,
    RetryRequest,
    StatusView,
    SubmitRequest,
    TaskPage,
    TaskQuery,
    TaskWithHistory,
    Tracked,
    TrackRequest,
    TrialPage,
    TrialView,
    UndeliveredView,
    show_time,
    view_gate,
    view_held,
    view_history,
    view_task,
)

UNKNOWN_ID: Final = (
    "a task id has 1 to 128 letters, digits or _ . : - and is the provider's (submit-... is ours)"
)

EPOCH: Final = date(1970, 1, 1)
TURN: Final = 20
"""Tasks that are shown at a stretch: about a millisecond."""
_GIVEN_ID = re.compile(r"[!-~]{1,128}")

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Office:
    """What the handlers need to know."""

    store: Store
    gates: Gates
    disk: Disk
    submitter: Submitter
    targets: Targets
    min_free_bytes: Callable[[], int]
    terms: Callable[[], Terms]
    retention_ms: Callable[[], int]
    now: Callable[[], int]
    ring: Callable[[], None]
    answered_at: Callable[[], int | None]
    credits_low: Callable[[], float] = lambda: 0
    credits_left: float | None = None
    stopping: bool = False
    examiner: Examiner | None = None
    started_at: int = 0

    def __post_init__(self) -> None:
        self.started_at = self.started_at or self.now()

    def remember_credits(self, credits_left: float) -> None:
        """Keep the balance for the next who asks."""
        self.credits_left = credits_left

    async def healthz(self, _: web.Request) -> web.Response:
        """Return 200: the process is alive."""
        return answer({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        """Return 200, or 503 while the store cannot be written or we are stopping."""
        if self.stopping or not await self.store.writable():
            return problem(503, "unavailable", "not ready")
        return answer({"status": "ok"})

    async def status(self, _: web.Request) -> web.Response:
        """Return how it stands."""
        return answer(await self.look(await self._disk(), await self.store.counts()))

    async def look(self, disk: DiskView | None, counts: dict[str, int]) -> StatusView:
        """Return how it stands; what takes long to learn comes from who asks."""
        oldest_at, deadline_at, quarantined = await self.store.overview.outlook()
        unsafe, oldest_id, deadline_id = await self.store.overview.standing()
        return StatusView(
            counts=counts,
            oldest_waiting_at=show_time(oldest_at),
            next_deadline_at=show_time(deadline_at),
            gates=[view_gate(shut) for shut in self.gates.shut()],
            disk=disk,
            quarantined=quarantined,
            credits=self.credits_left,
            provider_answered_at=show_time(self.answered_at()),
            overdue=[mask(one) for one in await self.find_overdue()],
            undelivered=await self._undelivered(),
            credits_low=self.credits_low(),
            unsafe=unsafe + quarantined,
            oldest_waiting_id=oldest_id,
            next_deadline_id=deadline_id,
            started_at=show_time(self.started_at),
            version=__version__,
        )

    async def _undelivered(self) -> list[UndeliveredView]:
        """Name who was not told: a target that is configured, or an application by its host."""
        names = {target.key: target.name for target in self.targets.all()}
        return [
            UndeliveredView(
                names.get(one.target) or f"the application at {find_host(one.target)}",
                one.count,
                one.error and mask(one.error),
            )
            for one in await self.store.outbox.undelivered()
        ]

    async def try_targets(self, _: web.Request) -> web.Response:
        """Send a test event to every target at once; who takes it can be told again."""
        trials = await self.targets.test()
        await self.store.outbox.clear(trial.target.key for trial in trials if trial.error is None)
        return answer(TrialPage([_view_trial(trial) for trial in trials]))

    async def find_overdue(self) -> list[str]:
        """Return what is overdue, a sentence each.

        Raises:
            StoreFailed: the ledger cannot be read.
        """
        has_key = self.terms().has_key
        return await find_overdue(self.store, self.gates.shut(), self.now(), has_key=has_key)

    async def _disk(self) -> DiskView | None:
        try:
            free_bytes = await self.disk.free_bytes()
        except Hindered:
            return None
        return DiskView(str(self.disk.directory), free_bytes, self.min_free_bytes())

    async def tasks(self, request: web.Request) -> web.Response:
        """Return a page of tasks."""
        query = read_query(request, TaskQuery)
        for state in query.state:
            if state not in set(State):
                known = ", ".join(State)
                raise Refusal(422, "bad_state", f"no state is called {state[:40]!r}: use {known}")
        tasks = await self.store.tasks(query.state, query.limit, query.after)
        more = str(tasks[-1].id) if len(tasks) == query.limit else None
        return answer(TaskPage(await in_turns(view_task, tasks), more))

    async def export(self, request: web.Request) -> web.Response:
        """Return a page of tasks with their histories."""
        query = read_query(request, PageQuery)
        tasks = await self.store.tasks((), query.limit, query.after)
        steps = await self.store.histories([task.task_id for task in tasks])
        more = str(tasks[-1].id) if len(tasks) == query.limit else None

        def show(task: Task) -> TaskWithHistory:
            return view_history(task, steps.get(task.task_id, []))

        return answer(HistoryPage(await in_turns(show, tasks), more))

    async def task(self, request: web.Request) -> web.Response:
        """Return one task with its history."""
        task = await self.find(request.match_info["task_id"])
        return answer(view_history(task, await self.store.history(task.task_id)))

    async def task_diagnosis(self, request: web.Request) -> web.Response:
        """Return one task, and what the provider says about it now."""
        return answer(
            await self._examiner().examine_task(await self.find(request.match_info["task_id"]))
        )

    async def diagnosis(self, _: web.Request) -> web.Response:
        """Return what only the running daemon knows of itself."""
        return answer(await self._examiner().diagnose())

    async def callback_test(self, request: web.Request) -> web.Response:
        """Return what became of a test callback."""
        found = self._examiner().find_test(request.match_info["nonce"])
        if found is None:
            raise Refusal(404, "unknown_test", "no such test callback came in the last minute")
        return answer(found)

    def _examiner(self) -> Examiner:
        if self.examiner is None:
            raise Refusal(503, "unavailable", "nobody makes a diagnosis here")
        return self.examiner

    async def add(self, request: web.Request) -> web.Response:
        """Adopt tasks that were submitted elsewhere, or submit one."""
        body = await read_json(request)
        if isinstance(body, dict) and "task_ids" not in body and "music_task_id" in body:
            return await self._submit(convert(body, SubmitRequest))
        return await self._track(convert(body, TrackRequest))

    async def _track(self, wish: TrackRequest) -> web.Response:
        """The provider is asked about them at once."""
        if not 0 < len(wish.task_ids) <= IDS_LIMIT:
            raise Refusal(422, "invalid", f"task_ids takes 1 to {IDS_LIMIT} ids")
        _check_label(wish.label)
        good = [task_id for task_id in wish.task_ids if TASK_ID.fullmatch(task_id)]
        rejected = [
            Rejected(task_id[:200], UNKNOWN_ID)
            for task_id in wish.task_ids
            if not TASK_ID.fullmatch(task_id)
        ]
        now = self.now()
        tasks, new = await self.store.adopt(
            dict.fromkeys(good),
            source="track",
            label=wish.label,
            now=now,
            deadline_at=now + self.retention_ms(),
            ask_at=now if self.terms().has_key else None,
        )
        self.ring()
        return answer(Tracked([view_task(task) for task in tasks], rejected), 202 if new else 200)

    async def _submit(self, asked: SubmitRequest) -> web.Response:
        """Check what the provider would check, record the wish, send it, tell what came of it."""
        _check_label(asked.label)
        for name in ("music_task_id", "audio_id"):
            if not _GIVEN_ID.fullmatch(getattr(asked, name)):
                raise Refusal(422, f"bad_{name}", f"{name} has 1 to 128 characters without blanks")
        for name in ("author", "domain_name"):
            text = getattr(asked, name)
            if text is not None and not (len(text) <= TEXT_LIMIT and text.isprintable()):
                allowed = f"the provider takes at most {TEXT_LIMIT} printable ones"
                told = f"{name} has {len(text)} characters, and {allowed}"
                raise Refusal(422, f"bad_{name}", told)
        if not self.terms().has_key:
            raise Refusal(422, Reason.UNAUTHORIZED, "provider.api_key is not set")
        wish = Wish(
            music_task_id=asked.music_task_id,
            audio_id=asked.audio_id,
            author=asked.author,
            domain_name=asked.domain_name,
        )
        objection = await self.submitter.check(wish) if asked.check else None
        if objection is not None:
            raise Refusal(409, "check_failed", f"nothing was submitted: {objection}")
        done = await self.submitter.submit(wish, source="submit", label=asked.label)
        decision = done.decision
        if decision is not None and decision.next is Next.FAIL:
            told = decision.message or "the provider refused without a word"
            raise Refusal(422, decision.reason or Reason.PROVIDER_ERROR, told)
        return answer(Tracked([view_task(done.task)]), 200 if done.known_before else 202)

    async def retry(self, request: web.Request) -> web.Response:
        """Ask and fetch again, now; send an open submit again."""
        task = await self.find(request.match_info["task_id"])
        wish = RetryRequest()
        if await request.read():
            wish = convert(await read_json(request), RetryRequest)
        return answer(view_task(await self.retry_task(task, force=wish.force)), 202)

    async def retry_task(self, task: Task, *, force: bool = False) -> Task:
        """Ask and fetch again, now; `force` also what was pruned on purpose.

        Raises:
            Refusal: it cannot be tried again.
        """
        now, terms = self.now(), self.terms()
        if task.has_local_id and not terms.has_key:
            raise Refusal(422, Reason.UNAUTHORIZED, "provider.api_key is not set")
        task, verdict = await self.store.settle(
            task, now, lambda newest: judge_retry(newest, now, terms, force=force)
        )
        if verdict is None:
            told = f"{task.task_id} was pruned on purpose; --force fetches it again"
            raise Refusal(409, task.state, told)
        if task.has_local_id:
            await self.submitter.send_again(task)
        elif task.state == State.EXPECTED and not terms.has_key and task.link is not None:
            # Without a key the link at hand is all there is.
            task, _ = await self.store.settle(
                task, now, lambda newest: judge_retry(newest, now, terms)
            )
        self.gates.probe_now()
        self.ring()
        return task

    async def forget(self, request: web.Request) -> web.Response:
        """Acknowledge a task: nobody is asked about it any more."""
        task = await self.find(request.match_info["task_id"])
        return answer(view_task(await self.forget_task(task)))

    async def forget_task(self, seen: Task) -> Task:
        """Acknowledge a task.

        Raises:
            Refusal: it is safe, or on its way, or being sent.
        """
        now = self.now()
        intent = await self.store.intents.of_task(seen.id) if seen.has_local_id else None
        if intent is not None and intent.calling:
            raise Refusal(
                409, "calling", f"{seen.task_id} is being sent right now: try in a moment"
            )

        def decide(newest: Task) -> Verdict | None:
            # A wish that got its id meanwhile is a video that is being made.
            return judge_forget(newest, now) if newest.task_id == seen.task_id else None

        task, verdict = await self.store.settle(seen, now, decide)
        if verdict is None:
            told = "only what is expected, failed or lost can be forgotten"
            raise Refusal(409, task.state, f"{task.task_id} is {task.state}: {told}")
        return task

    async def balances(self, request: web.Request) -> web.Response:
        """Return what the provider said was left, and the last balance before `since`."""
        query = read_query(request, BalanceQuery)
        found = await self.store.balances.since(query.since)
        return answer(BalancePage([Balance(show_time(at) or "", left) for at, left in found]))

    async def chart(self, request: web.Request) -> web.Response:
        """Return how much was stored day by day."""
        query = read_query(request, ChartQuery)
        return answer(await self.draw_chart(query.days))

    async def draw_chart(self, days: int) -> Chart:
        """Return how much was stored on each of the last days."""
        today = self.now() // DAY_MS
        first = today - days + 1
        found = await self.store.stock.by_day(first)
        return Chart(
            [
                DayView(str(EPOCH + timedelta(days=day)), *found.get(day, (0, 0)))
                for day in range(first, today + 1)
            ],
            await self.store.stock.total_bytes(),
        )

    async def quarantine(self, request: web.Request) -> web.Response:
        """Return a page of callbacks that could not be read."""
        query = read_query(request, PageQuery)
        held = await self.store.quarantine.page(query.limit, query.after)
        more = str(held[-1].number) if len(held) == query.limit else None
        return answer(HeldPage([view_held(one) for one in held], more))

    async def held(self, request: web.Request) -> web.Response:
        """Return one callback that could not be read."""
        held_id = request.match_info["held_id"]
        held = await self.store.quarantine.one(held_id)
        if held is None:
            raise _not_held(held_id)
        return answer(view_held(held))

    async def forget_held(self, request: web.Request) -> web.Response:
        """Acknowledge a callback that could not be read."""
        held_id = request.match_info["held_id"]
        held = await self.store.quarantine.forget(held_id, self.now())
        if held is None:
            raise _not_held(held_id)
        return answer(view_held(held))

    async def find(self, task_id: str) -> Task:
        """Return a task of the ledger.

        Raises:
            Refusal: there is none of that id.
        """
        task = await self.store.task(task_id)
        if task is None:
            raise Refusal(404, "unknown_task", f"the ledger has no task {task_id[:200]}")
        return task


def _view_trial(trial: Trial) -> TrialView:
    return TrialView(
        target=trial.target.name,
        delivered=trial.error is None,
        status=trial.status,
        seconds=trial.seconds,
        error=trial.error,
        advice=trial.advice,
    )


async def in_turns(show: Callable[[Task], T], tasks: Sequence[Task]) -> list[T]:
    """Show a page, a few tasks at a time: a callback does not wait for a thousand of them."""
    shown = []
    for task in tasks:
        shown.append(show(task))
        if len(shown) % TURN == 0:
            await asyncio.sleep(0)
    return shown


def _not_held(held_id: str) -> Refusal:
    return Refusal(404, "unknown_callback", f"the quarantine has no {held_id[:200]}")


def _check_label(label: str | None) -> None:
    if label is not None and not (0 < len(label) <= LABEL_LIMIT and label.isprintable()):
        raise Refusal(422, "bad_label", f"a label has 1 to {LABEL_LIMIT} printable characters")
