"""Every call to the provider's API: one key, one pace, and the gates that its answers shut.

Rule: no call is made without `permit`, which waits for the gates and for the rate; every answer
goes through `_learn`, so that all calls together know what the provider thinks of us.
"""

from collections.abc import Callable, Mapping

from aiolimiter import AsyncLimiter

from daemon.gates import Gates
from daemon.outbound import Session, customs
from daemon.outbound import read_answer as read_body
from daemon.rules.failure import StepFailed
from daemon.rules.notice import Answer, Outcome, read_answer, read_credits
from daemon.rules.schedule import API_FAILURES, RETRY_AFTER_LIMIT_MS
from daemon.rules.transfer import read_retry_after

BURST = 5
"""Calls that may follow at once after a quiet while."""

_RECORD_INFO = "api/v1/mp4/record-info"
_CREDITS: Mapping[str, str] = {
    "sunoapi": "api/v1/generate/credit",
    "apibox": "api/v1/generate/credit",
    "kie": "api/v1/chat/credit",
}
_GATES: Mapping[Outcome, str] = {
    Outcome.KEY: "key",
    Outcome.CREDITS: "credits",
    Outcome.RATE: "rate",
    Outcome.MAINTENANCE: "maintenance",
}
_QUERY_GATES = ("key", "rate", "maintenance", "api")


class Provider:
    """The provider, as one account sees it."""

    def __init__(
        self,
        session: Session,
        kind: str,
        gates: Gates,
        now: Callable[[], int],
        calls_per_second: float,
    ) -> None:
        self._session = session
        self._kind = kind
        self._gates = gates
        self._now = now
        self._limiter = AsyncLimiter(BURST, BURST / calls_per_second)
        self._failures = 0
        self.answered_at: int | None = None
        """When the provider last gave a usable answer to anything."""

    async def permit(self) -> None:
        """Wait until one call may be made; the next call uses the permission up."""
        while True:
            await self._gates.pass_through(*_QUERY_GATES)
            passed = self._closings()
            await self._limiter.acquire()
            # A gate that shut while this call waited for its turn holds it as well.
            if self._closings() <= passed:
                return

    def _closings(self) -> set[tuple[str, int]]:
        return {(shut.name, shut.closings) for shut in self._gates.shut()}

    async def ask(self, task_id: str) -> Answer:
        """Ask about one task (`record-info`); needs a permission."""
        found = await self._get(_RECORD_INFO, {"taskId": task_id})
        if isinstance(found, Answer):
            return self._learn(found)
        status, body, wish = found
        return self._learn(read_answer(self._kind, status, body, task_id), wish)

    async def balance(self) -> float | None:
        """Ask for the credits that are left; None when there was no answer. Needs a permission."""
        found = await self._get(_CREDITS[self._kind], {})
        if isinstance(found, Answer):
            self._learn(found)
            return None
        status, body, wish = found
        credits_left = read_credits(self._kind, status, body)
        if isinstance(credits_left, Answer):
            self._learn(credits_left, wish)
            return None
        self._learn(Answer(Outcome.ANSWERED))
        if credits_left > 0:
            self._gates.open("credits")
        return credits_left

    async def _get(
        self, path: str, query: Mapping[str, str]
    ) -> Answer | tuple[int, bytes, float | None]:
        try:
            with customs():
                async with self._session.get(path, params=query) as response:
                    body = await read_body(response)
                    wish = read_retry_after(response.headers.get("Retry-After"), self._now() / 1000)
                    return response.status, body, wish
        except StepFailed as failure:
            return Answer(Outcome.TROUBLE, failure.message)

    def _learn(self, answer: Answer, wish: float | None = None) -> Answer:
        if answer.outcome in {Outcome.ANSWERED, Outcome.UNKNOWN}:
            self._failures = 0
            self.answered_at = self._now()
            for shut in self._gates.shut():
                # A success that was on its way when the gate shut proves nothing about it.
                if shut.name in _QUERY_GATES and shut.probed:
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
