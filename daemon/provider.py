"""Every call to the provider's API: one key, one pace, and the gates that its answers shut.

Rule: no call is made without `permit`, which waits for the gates and for the rate; every answer
goes through `_learn`, so that all calls together know what the provider thinks of us.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from aiolimiter import AsyncLimiter
from yarl import URL

from daemon.gates import Gates
from daemon.logs import mask
from daemon.outbound import Session, customs
from daemon.outbound import read_answer as read_body
from daemon.rules.dialect import DIALECTS, Outcome
from daemon.rules.failure import Reason, StepFailed, Unreached
from daemon.rules.music import Music, read_fresh_link, read_music
from daemon.rules.notice import Answer, open_envelope, read_answer, read_credits
from daemon.rules.schedule import API_FAILURES, RETRY_AFTER_LIMIT_MS
from daemon.rules.submission import Fate, Receipt, read_receipt
from daemon.rules.transfer import read_retry_after

BURST: Final = 5
"""Calls that may follow at once after a quiet while."""

_RECORD_INFO: Final = "api/v1/mp4/record-info"
_GENERATE: Final = "api/v1/mp4/generate"
_MUSIC: Final = "api/v1/generate/record-info"
_GATES: Mapping[Outcome, str] = {
    Outcome.KEY: "key",
    Outcome.CREDITS: "credits",
    Outcome.RATE: "rate",
    Outcome.MAINTENANCE: "maintenance",
}
QUERY_GATES: Final = ("key", "rate", "maintenance", "api")
SUBMIT_GATES: Final = (*QUERY_GATES, "credits")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came; `wish` is Retry-After in seconds."""

    status: int
    content_type: str
    body: bytes
    wish: float | None


class Provider:
    """The provider, as one account sees it."""

    def __init__(
        self,
        session: Session,
        kind: str,
        gates: Gates,
        now: Callable[[], int],
        calls_per_second: float,
        *,
        hear_date: Callable[[str | None], None] = lambda _: None,
        hear_outcome: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self._session = session
        self._kind = kind
        self._dialect = DIALECTS[kind]
        self._gates = gates
        self._now = now
        self._hear_date = hear_date
        self._hear_outcome = hear_outcome
        self.set_pace(calls_per_second)
        self._failures = 0
        self.answered_at: int | None = None
        """When the provider last gave a usable answer to anything."""

    def set_pace(self, calls_per_second: float) -> None:
        """Set the ceiling over all calls; who waits already waits by the old one."""
        self._limiter = AsyncLimiter(BURST, BURST / calls_per_second)
        self._relay_limiter = AsyncLimiter(BURST, 2 * BURST / calls_per_second)

    async def permit(self, *gates: str) -> None:
        """Wait until one call may be made; the next call uses the permission up."""
        gates = gates or QUERY_GATES
        while True:
            await self._gates.pass_through(*gates)
            passed = self._closings()
            await self._limiter.acquire()
            # A gate that shut while this call waited for its turn holds it as well.
            if self._closings() <= passed:
                return

    def _closings(self) -> set[tuple[str, int]]:
        return {(shut.name, shut.closings) for shut in self._gates.shut()}

    async def permit_relay(self) -> None:
        """Wait until one call of somebody else may be made: they get half of the pace.

        Otherwise an application that asks for its tasks all day would starve our own questions.
        """
        await self._relay_limiter.acquire()
        await self.permit()

    async def ask(self, task_id: str) -> Answer:
        """Ask about one task (`record-info`); needs a permission."""
        try:
            reply = await self._call("GET", _RECORD_INFO, query={"taskId": task_id})
        except StepFailed as failure:
            return self._learn(Answer(Outcome.TROUBLE, failure.message))
        return self._learn(read_answer(self._kind, reply.status, reply.body, task_id), reply.wish)

    async def balance(self) -> float | None:
        """Ask for the credits that are left; None when there was no answer. Needs a permission."""
        found = await self.ask_balance()
        return None if isinstance(found, Answer) else found

    async def ask_balance(self) -> float | Answer:
        """Ask for the credits that are left; an `Answer` says why nobody knows."""
        try:
            reply = await self._call("GET", self._dialect.credit_path)
        except StepFailed as failure:
            return self._learn(Answer(Outcome.TROUBLE, failure.message))
        credits_left = read_credits(self._kind, reply.status, reply.body)
        if isinstance(credits_left, Answer):
            return self._learn(credits_left, reply.wish)
        self._learn(Answer(Outcome.ANSWERED))
        if credits_left > 0:
            self._gates.open("credits")
        return credits_left

    async def generate(self, body: Mapping[str, str]) -> tuple[Receipt, Reply | None]:
        """Ask for a video; needs a permission. The reply is None when there was none."""
        reply, shut_before = None, {shut.name for shut in self._gates.shut()}
        try:
            reply = await self._call("POST", _GENERATE, json=body)
        except Unreached as failure:
            receipt = Receipt(fate=Fate.DEFERRED, outcome=Outcome.TROUBLE, message=failure.message)
        except StepFailed as failure:
            receipt = Receipt(fate=Fate.UNKNOWN, outcome=Outcome.TROUBLE, message=failure.message)
        else:
            receipt = read_receipt(self._kind, reply.status, reply.body)
            receipt = replace(receipt, message=mask(receipt.message))
        wish = reply.wish if reply else None
        self._learn(Answer(receipt.outcome, receipt.message, receipt.code), wish)
        # The call was made although these gates were shut, so its success is their probe.
        proved = {Fate.TAKEN: {"key", "credits"}, Fate.EXISTED: {"key"}}.get(receipt.fate, set())
        for name in proved & shut_before:
            self._gates.open(name)
        return receipt, reply

    async def music(self, music_task_id: str) -> Music | None:
        """Ask about a music task; None when there was no usable answer. Needs a permission."""
        try:
            reply = await self._call("GET", _MUSIC, query={"taskId": music_task_id})
        except StepFailed as failure:
            self._learn(Answer(Outcome.TROUBLE, failure.message))
            return None
        found = read_music(self._kind, reply.status, reply.body)
        if isinstance(found, Answer):
            self._learn(found, reply.wish)
            return None
        self._learn(Answer(Outcome.ANSWERED))
        return found

    @property
    def is_held_back(self) -> bool:
        """Whether a gate keeps questions waiting."""
        return any(self._gates.is_shut(name) for name in QUERY_GATES)

    @property
    def renews_links(self) -> bool:
        """Whether this provider makes fresh links out of refused ones."""
        return self._dialect.fresh_link_path is not None

    async def renew(self, link: str) -> str | None:
        """Ask for a short-lived link in place of a refused one; None when there is none.

        Source: https://docs.kie.ai/common-api/download-url (valid for 20 minutes, for links of
        kie.ai alone). Needs a permission.
        """
        if self._dialect.fresh_link_path is None:
            return None
        try:
            reply = await self._call("POST", self._dialect.fresh_link_path, json={"url": link})
        except StepFailed as failure:
            self._learn(Answer(Outcome.TROUBLE, failure.message))
            return None
        found = read_fresh_link(self._kind, reply.status, reply.body)
        if isinstance(found, Answer):
            self._learn(found, reply.wish)
            return None
        self._learn(Answer(Outcome.ANSWERED))
        return found

    async def relay(
        self, method: str, path_and_query: str, body: bytes, headers: Mapping[str, str]
    ) -> Reply:
        """Pass a request of somebody else on, once, with our key; needs a permission.

        Raises:
            StepFailed: there was no answer.
        """
        try:
            reply = await self._call(
                method,
                URL(path_and_query.lstrip("/"), encoded=True),
                data=body or None,
                headers=headers,
                # aiohttp would call bytes without a name application/octet-stream.
                skip_auto_headers=("Content-Type",),
            )
        except StepFailed as failure:
            if failure.reason is not Reason.TOO_LARGE:
                self._learn(Answer(Outcome.TROUBLE, failure.message))
            raise
        found = open_envelope(self._kind, reply.status, reply.body)
        if isinstance(found, Answer) and found.outcome is Outcome.RATE:
            # The pace is the account's. Of the key or the credits another product may think alone.
            self._learn(found, reply.wish)
        elif not isinstance(found, Answer):
            self._learn(Answer(Outcome.ANSWERED))
        return reply

    async def _call(
        self, method: str, path: str | URL, *, query: Mapping[str, str] | None = None, **given: Any
    ) -> Reply:
        with customs():
            async with self._session.request(method, path, params=query, **given) as response:
                body = await read_body(response)
                self._hear_date(response.headers.get("Date"))
                wish = read_retry_after(response.headers.get("Retry-After"), self._now() / 1000)
                kind = response.headers.get("Content-Type", "application/json")
                return Reply(response.status, kind, body, wish)

    def _learn(self, answer: Answer, wish: float | None = None) -> Answer:
        answer = _masked(answer)
        self._hear_outcome(answer.outcome)
        if answer.outcome in {Outcome.ANSWERED, Outcome.UNKNOWN}:
            self._failures = 0
            self.answered_at = self._now()
            for shut in self._gates.shut():
                # A success that was on its way when the gate shut proves nothing about it.
                if shut.name in QUERY_GATES and shut.probed:
                    self._gates.open(shut.name)
        elif answer.outcome is Outcome.TROUBLE:
            self._failures += 1
            if self._failures >= API_FAILURES or self._gates.is_shut("api"):
                self._gates.close("api", answer.message)
        elif answer.outcome is Outcome.ODD:
            # One mistyped id must not hold back the questions about all others.
            self._failures = 0
        else:
            self._failures = 0
            pause = None if wish is None else min(int(wish * 1000), RETRY_AFTER_LIMIT_MS)
            self._gates.close(_GATES[answer.outcome], answer.message, pause)
        return answer


def _masked(answer: Answer) -> Answer:
    """Mask what must not be kept: an error may repeat the key that was sent."""
    notice = answer.notice and replace(answer.notice, message=mask(answer.notice.message))
    return replace(answer, message=mask(answer.message), notice=notice)
