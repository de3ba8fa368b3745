"""A ledger under everything that may happen to it, one thing at a time, in any order.

Rule: the ledger and the rules are the real ones; the provider, the workers and the clock are plain
values of the model. After every step the laws are looked at, and at the end of every play a good
provider has to bring home all that is still on its way.
"""

import asyncio
import json
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daemon.clock import Clock
from daemon.disk import Disk
from daemon.download import _SUCCEEDED, Downloader
from daemon.gates import Gates
from daemon.hosts import Hosts
from daemon.outbound import Session
from daemon.patience import Patience
from daemon.queue import _try_settle
from daemon.rules.failure import Hindered, Reason, Refused, Spoiled, StepFailed, Trouble
from daemon.rules.lifecycle import Cause, State
from daemon.rules.notice import Evidence, read_answer, read_callback
from daemon.rules.request import judge_forget, judge_retry
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.task import Task
from daemon.rules.verdict import NOTHING_ON_DISK, Terms, judge_answer, judge_callback
from daemon.store import Store, open_store
from tests.campaigns.campaign import PromiseBroken
from tests.campaigns.laws import ON_ITS_WAY, Facts, uphold
from tests.campaigns.shelf import MEMORY

START: Final = 1_790_000_000_000
DAY: Final = 24 * HOUR
RETENTION: Final = 14 * DAY
TRUST_AFTER: Final = 6 * HOUR
FAR: Final = 1 << 60
ROUNDS: Final = 60
"""So many times a good provider is asked and a good host is fetched from, at the end."""

T = TypeVar("T")

ids = st.sampled_from(["a", "b"])
links = st.sampled_from([1, 2])
jumps = st.sampled_from([SECOND, 30 * SECOND, 11 * MINUTE, HOUR, 7 * HOUR, DAY, 15 * DAY, -HOUR])

failures = st.sampled_from(
    [
        Trouble(Reason.NETWORK, "", 60),
        Trouble(Reason.STALLED, ""),
        Refused(Reason.LINK_REFUSED, ""),
        Refused(Reason.LINK_REFUSED, ""),
        Spoiled(Reason.TRUNCATED, "", "aa"),
        Spoiled(Reason.TRUNCATED, "", "bb"),
        Spoiled(Reason.NOT_A_VIDEO, ""),
        Hindered(Reason.DISK, ""),
    ]
)

ANSWERS: Final = {
    "pending": ("PENDING", 200),
    "exception": ("CALLBACK_EXCEPTION", 200),
    "success without link": ("SUCCESS", 200),
    "failure": ("GENERATE_MP4_FAILED", 200),
    "success": ("SUCCESS", 200),
    "unknown": (None, 200),
    "trouble": (None, 500),
    "key": (None, 401),
    "credits": (None, 429),
    "rate": (None, 430),
    "maintenance": (None, 455),
}


def link_of(task_id: str, number: int) -> str:
    """Return one of a task's links."""
    return f"https://files.example.com/{task_id}-{number}.mp4"


class Ledger(RuleBasedStateMachine):
    """The state machine that Hypothesis plays."""

    plays = 0
    """How many plays came to their end, in all."""
    steps = 0
    """How many things happened, in all."""
    brought_home = 0
    """How many tasks a good provider brought home at the end of a play."""

    def __init__(self) -> None:
        super().__init__()
        parent = MEMORY if MEMORY.is_dir() else None
        self.folder = tempfile.TemporaryDirectory(prefix="suno-videod-model-", dir=parent)
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.disk = Disk(Path(self.folder.name), workers=1, file_mode=0o640, directory_mode=0o750)
        self.facts = Facts()
        self.now = START
        self.trusted = True
        self.hands: dict[str, Task] = {}
        self.asked: list[Task] = []
        self.store: Store
        self.downloader: Downloader
        self.patience: Patience
        self._open()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self.runner.run(work)

    def _open(self) -> None:
        self.store = self.do(self.stack.enter_async_context(open_store(Path(self.folder.name))))
        # Nobody cuts the power here.
        self.do(self.store.commits.connection.execute_fetchall("PRAGMA synchronous = OFF"))
        gates = Gates(lambda: self.now, lambda _event, _shut: None)
        self.patience = Patience(
            store=self.store,
            gates=gates,
            hosts=Hosts(gates, lambda: self.now, lambda: MINUTE),
            # Both clocks go as one: here a jump of time is time that passed.
            clock=Clock(lambda: self.now, lambda: self.now),
            terms=lambda: self.terms,
            trust_link_after_ms=lambda: TRUST_AFTER,
            answered_at=lambda: None,
            now=lambda: self.now,
            ring_downloads=lambda: None,
        )
        self.downloader = Downloader(
            self.store,
            # No byte is fetched: what a step would have brought is told.
            *(cast("Session", None), cast("Any", None), self.disk),
            gates,
            section=cast("Any", None),
            min_free_bytes=lambda: 0,
            now=lambda: self.now,
        )

    @property
    def terms(self) -> Terms:
        """How patient the daemon is."""
        pace = Pace(3 * MINUTE, 30 * SECOND, 6 * HOUR)
        return Terms(pace, 2 * SECOND, 15 * MINUTE, has_key=self.facts.has_key)

    @initialize(has_key=st.booleans(), confirm=st.booleans(), linked=st.booleans())
    def configure(self, *, has_key: bool, confirm: bool, linked: bool) -> None:
        """Begin with or without a key, without one trusting callbacks; perhaps with a link."""
        self.facts.has_key = has_key
        self.trusted = not (has_key and confirm)
        if linked:
            self.callback("a", 200, 1, 1)
            self.ask_and_hear("a", "success", 1)

    @rule(
        task_id=ids,
        code=st.sampled_from([200, 0, 500, 451, 400, 418, None]),
        link=st.none() | links,
        copies=st.sampled_from([1, 1, 2]),
    )
    def callback(self, task_id: str, code: int | None, link: int | None, copies: int) -> None:
        """A callback arrives, perhaps twice at once."""
        url = None if link is None else link_of(task_id, link)
        data = {"task_id": task_id, "video_url": url}
        notice = read_callback(json.dumps({"code": code, "msg": "", "data": data}).encode())
        tidings = judge_callback(
            notice,
            self.now,
            trusted=self.trusted,
            has_key=self.facts.has_key,
            retention_ms=RETENTION,
        )
        self.do(self.store.receive([tidings] * copies))
        self.facts.acked[task_id] += copies
        if self.trusted and notice.evidence is Evidence.SUCCESS:
            self.facts.proved.add(task_id)
        if self.trusted and notice.evidence is Evidence.FAILURE:
            self.facts.declined.add(task_id)

    @rule(task_id=ids)
    def track(self, task_id: str) -> None:
        """Somebody tells us an id."""
        ask_at = self.now if self.facts.has_key else None
        self.do(
            self.store.adopt(
                [task_id],
                source="track",
                label=None,
                now=self.now,
                deadline_at=self.now + RETENTION,
                ask_at=ask_at,
            )
        )

    @precondition(lambda self: self.facts.has_key)
    @rule(which=st.integers(0, 2))
    def ask(self, which: int) -> None:
        """A question that is due sets out; its answer may be long in coming."""
        on_way = {task.id for task in self.asked}
        due = [
            task
            for task in self.do(self.store.due_questions(self.now, 9, freshest=False))
            if task.id not in on_way
        ]
        if due:
            self.asked.append(due[which % len(due)])

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 2), kind=st.sampled_from(sorted(ANSWERS)), link=links)
    def answer(self, which: int, kind: str, link: int) -> None:
        """The answer to a question comes, about a row that may have changed meanwhile."""
        task = self.asked.pop(which % len(self.asked))
        self._answer(task, kind, link)

    @rule(task_id=ids, kind=st.sampled_from(sorted(ANSWERS)), link=links)
    def ask_and_hear(self, task_id: str, kind: str, link: int) -> None:
        """A question and its answer at once, when it is due or right after it falls due."""
        task = self.do(self.store.task(task_id))
        due = task is not None and task.ask_at is not None and task.forgotten_at is None
        if task is not None and due and self.facts.has_key:
            assert task.ask_at is not None
            self.now = max(self.now, task.ask_at)
            self._answer(task, kind, link)

    def _answer(self, task: Task, kind: str, link: int) -> None:
        flag, code = ANSWERS[kind]
        url = link_of(task.task_id, link) if kind == "success" else None
        record = {"taskId": task.task_id, "successFlag": flag, "response": {"videoUrl": url}}
        body = {"code": code, "msg": "", "data": record if flag else None}
        answer = read_answer("sunoapi", 200, json.dumps(body).encode(), task.task_id)
        self.do(
            self.store.settle(
                task,
                self.now,
                lambda newest: judge_answer(newest, answer, self.now, self.terms, 0.5),
            )
        )
        if kind == "success":
            self.facts.proved.add(task.task_id)
        if kind == "failure":
            self.facts.declined.add(task.task_id)

    @rule(freshest=st.booleans())
    def claim(self, *, freshest: bool) -> None:
        """A worker takes what is due."""
        for due in self.do(self.store.due_downloads(self.now, 1, freshest=freshest)):
            task = self.do(self.store.claim(due.task_id, self.now))
            if task is None or due.task_id in self.hands:
                raise PromiseBroken(f"{due.task_id} is due and cannot be claimed, or is claimed")
            self.hands[due.task_id] = task
            self.facts.claims.add(due.task_id)
            # An id may lie in the queue twice.
            if self.do(self.store.claim(due.task_id, FAR)) is not None:
                raise PromiseBroken(f"{due.task_id} was claimed twice")

    def _in_hand(self, task_id: str, *states: State) -> Task | None:
        task = self.hands.get(task_id)
        return task if task is not None and task.state in states else None

    @rule(task_id=ids, spans=st.sampled_from(["0-10", "0-90", "0-100"]))
    def progress(self, task_id: str, spans: str) -> None:
        """Bytes were synced."""
        task = self._in_hand(task_id, State.WANTED)
        if task is not None:
            only_of = task.link if task.unconfirmed else None
            self.do(self.store.record_progress(task_id, spans, 100, '"e"', only_of=only_of))

    @rule(task_id=ids, failure=failures)
    def fail(self, task_id: str, failure: StepFailed) -> None:
        """A step ends without success."""
        task = self._in_hand(task_id, *ON_ITS_WAY)
        if task is None or (task.state != State.WANTED and not isinstance(failure, Hindered)):
            return
        self.do(_try_settle(self.store, task, failure, lambda: self.now, self.terms))
        self._let_go(task_id)

    @rule(task_id=ids, failure=failures)
    def claim_and_fail(self, task_id: str, failure: StepFailed) -> None:
        """A download that is due, or falls due, fails at once."""
        wanted = self.do(self.store.tasks([State.WANTED]))
        free = [task for task in wanted if task.task_id not in self.hands]
        if not free:
            return
        task = next((task for task in free if task.task_id == task_id), free[0])
        self.now = max(self.now, task.fetch_at or 0)
        self.claim(freshest=False)
        self.fail(task.task_id, failure)

    @rule(task_id=ids)
    def refuse(self, task_id: str) -> None:
        """The host does not serve a link any more."""
        self.claim_and_fail(task_id, Refused(Reason.LINK_REFUSED, "HTTP 403"))

    @rule(task_id=ids, vanishes=st.booleans())
    def succeed(self, task_id: str, *, vanishes: bool) -> None:
        """A step ends with success; a verified file may be gone before it is published."""
        task = self._in_hand(task_id, *ON_ITS_WAY)
        if task is None:
            return
        match task.state:
            case State.WANTED:
                known = {"size_bytes": 100, "sha256": task_id, "spans": "0-100"}
                path = f"{self.folder.name}/{task_id}.mp4"
                work = self.downloader._move(task, Cause.FETCHED, path=path, **known, **_SUCCEEDED)
            case State.VERIFIED if vanishes:
                work = self.downloader._move(task, Cause.VANISHED, **NOTHING_ON_DISK)
            case State.VERIFIED:
                said = {"stored_at": self.now, "reason": None, "message": None}
                work = self.downloader._move(task, Cause.PUBLISHED, **said)
            case _:
                work = self.downloader.finish(task)
        task = self.do(work)
        self.hands[task_id] = task
        if task.state not in ON_ITS_WAY:
            self._let_go(task_id)

    def _let_go(self, task_id: str) -> None:
        del self.hands[task_id]
        self.facts.claims.discard(task_id)

    @rule()
    def crash(self) -> None:
        """The process is gone, and another one begins."""
        self.do(self.stack.aclose())
        self.hands.clear()
        self.asked.clear()
        self.facts.claims.clear()
        self.stack = AsyncExitStack()
        self._open()
        if self.facts.has_key:
            self.do(self.store.ask_about_all(self.now))

    @rule(by_ms=jumps)
    def jump(self, by_ms: int) -> None:
        """Time passes, or the clock is set back."""
        self.now += by_ms

    @rule()
    def sweep(self) -> None:
        """Waiting that became pointless ends."""
        before = {task.task_id for task in self.do(self.store.tasks([State.LOST]))}
        if self.facts.has_key:
            self.do(self.patience._trust_links(TRUST_AFTER))
        self.do(self.patience._look_at_deadlines())
        lost = {task.task_id for task in self.do(self.store.tasks([State.LOST]))} - before
        self.facts.lost_without_key -= lost
        if not self.facts.has_key:
            self.facts.lost_without_key |= lost

    @rule(task_id=ids)
    def forget(self, task_id: str) -> None:
        """A person has seen it."""
        task = self.do(self.store.task(task_id))
        if task is not None:
            self.do(
                self.store.settle(task, self.now, lambda newest: judge_forget(newest, self.now))
            )

    @rule(task_id=ids, force=st.booleans())
    def retry(self, task_id: str, *, force: bool) -> None:
        """A person wants another try; without a key the link at hand is all there is."""
        task = self.do(self.store.task(task_id))
        if task is None:
            return
        now, terms = self.now, self.terms

        def again(task: Task, *, force: bool) -> Task:
            settling = self.store.settle(
                task, now, lambda newest: judge_retry(newest, now, terms, force=force)
            )
            return self.do(settling)[0]

        task = again(task, force=force)
        if task.state == State.EXPECTED and not terms.has_key and task.link is not None:
            again(task, force=False)

    @rule(has_key=st.booleans())
    def reload(self, *, has_key: bool) -> None:
        """The key is taken away or given."""
        if has_key and not self.facts.has_key:
            self.do(self.store.ask_about_all(self.now))
        if not has_key:
            self.trusted = True
            self.asked.clear()
        self.facts.has_key = has_key

    @invariant()
    def laws(self) -> None:
        """Look at everything."""
        type(self).steps += 1
        tasks = self.do(self.store.tasks())
        uphold(tasks, self.do(self.store.histories([task.task_id for task in tasks])), self.facts)

    def teardown(self) -> None:  # type: ignore[explicit-override] # typing.override: 3.12
        """Let a good provider bring home what is on its way, then close."""
        try:
            if self.facts.has_key:
                self._bring_home()
            type(self).plays += 1
        finally:
            self.do(self.stack.aclose())
            self.disk.close()
            self.runner.close()
            self.folder.cleanup()

    def _bring_home(self) -> None:
        open_ones: list[Task] = []
        for _ in range(ROUNDS):
            for task in self.do(self.store.due_questions(self.now, 9, freshest=False)):
                self._answer(task, "success", 1)
            self.claim(freshest=False)
            for task_id in list(self.hands):
                self.succeed(task_id, vanishes=False)
            open_ones = [
                task
                for task in self.do(self.store.tasks([State.EXPECTED, *ON_ITS_WAY]))
                if task.forgotten_at is None
            ]
            if not open_ones:
                self.laws()
                type(self).brought_home += len(self.do(self.store.tasks([State.DONE])))
                return
            _, fetch_at = self.do(self.store.next_due(self.now))
            ask_at, _ = self.do(self.store.next_due(self.now))
            coming = [at for at in (ask_at, fetch_at) if at is not None]
            if not self.hands:
                self.now = min(coming, default=self.now)
        raise PromiseBroken(f"a good provider does not bring home {open_ones}")
