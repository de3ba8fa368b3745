"""A provider's account and its file host over weeks, as plain facts: what was made, what works.

Rule: what is told depends on the time alone, on the seed, and on what was asked before. Troubles
are spans of time, known from the beginning, so that it can be told afterwards what could be had.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

import aiohttp

from daemon.rules.failure import Hindered, Reason, Refused, Spoiled, Trouble
from daemon.rules.schedule import HOUR, MINUTE, SECOND

DAY: Final = 24 * HOUR
PASS_MS: Final = 20 * MINUTE
"""How long a fresh link of kie.ai works."""
Name = Literal["api", "key", "host", "disk", "down", "asleep"]
Span = tuple[int, int]


@dataclass(slots=True, kw_only=True)
class Video:
    """A video at the provider, and what is wrong with its links."""

    task_id: str
    created_at: int
    completed_at: int
    deleted_at: int
    fate: Literal["made", "failed", "never"]
    exception: bool
    """The record says CALLBACK_EXCEPTION, and has the link."""
    tracked: bool
    heard: bool
    """Whether the provider's callbacks get through at all."""
    refused: Span | None
    link_lasts: int | None
    """For so long a link works after it was told; then record-info names another one."""
    forgotten_in_the_end: bool
    """The record goes with the file, and is null afterwards."""
    link_number: int = 1
    link_at: int = 0
    known_at: int | None = None
    """When the daemon first heard of it."""


@dataclass(slots=True, kw_only=True)
class Account:
    """Everything outside of the daemon."""

    kind: Literal["sunoapi", "kie"]
    now: Callable[[], int]
    luck: random.Random
    troubles: Mapping[Name, list[Span]]
    moody: float
    """The share of downloads that break off for no reason."""
    videos: dict[str, Video] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    calls: list[float] = field(default_factory=list)
    """When the API was called, by the loop's clock."""
    fetches: int = 0
    refusals: int = 0
    denials: int = 0
    """Calls that met an outage or a wrong key."""

    def works(self, *names: Name, at: int | None = None) -> bool:
        """Say whether none of these is in trouble."""
        moment = self.now() if at is None else at
        spans = [span for name in names for span in self.troubles.get(name, ())]
        return not any(begins <= moment < ends for begins, ends in spans)

    def request(self, method: str, path: object, **given: Any) -> "Reply":
        """Be the session of the API: answer one call."""
        self.calls.append(asyncio.get_running_loop().time())
        return Reply(self, method, str(path), given.get("params"), given.get("json"))

    def answer(self, path: str, params: Mapping[str, str] | None, body: Any) -> bytes:
        """Return the body of an answer.

        Raises:
            aiohttp.ClientConnectionError: nobody is there.
        """
        if not self.works("api"):
            self.denials += 1
            raise aiohttp.ClientConnectionError
        if not self.works("key"):
            self.denials += 1
            return _envelope(401, None)
        if path.endswith("download-url"):
            link = f"{body['url']}?pass={self.luck.getrandbits(32)}"
            self.passes[link] = self.now() + PASS_MS
            return _envelope(200, link)
        return self._tell_record((params or {})["taskId"])

    def _tell_record(self, task_id: str) -> bytes:
        video, now = self.videos.get(task_id), self.now()
        if video is None or (video.forgotten_in_the_end and now >= video.deleted_at):
            return _envelope(200, None)
        if video.fate == "never" or now < video.completed_at:
            return _record(task_id, "PENDING", None)
        if video.fate == "failed":
            return _record(task_id, "GENERATE_MP4_FAILED", None)
        flag = "CALLBACK_EXCEPTION" if video.exception else "SUCCESS"
        return _record(task_id, flag, self.link(video))

    def link(self, video: Video) -> str:
        """Return the link that is told now; a stale one is renewed."""
        now = self.now()
        if video.link_lasts is not None and now >= video.link_at + video.link_lasts:
            video.link_number += video.link_at > 0
            video.link_at = now
        return f"https://files.example.com/{video.task_id}/{video.link_number}.mp4"

    def callback(self, video: Video) -> bytes:
        """Return the body of a video's callback."""
        made = video.fate == "made"
        data = {"task_id": video.task_id, "video_url": self.link(video) if made else None}
        return json.dumps({"code": 200 if made else 500, "msg": "", "data": data}).encode()

    def serve(self, link: str) -> str:
        """Serve a file to its end; return whose it is.

        Raises:
            StepFailed: what the host, the network or our disk did instead.
        """
        self.fetches += 1
        if not self.works("disk"):
            raise Hindered(Reason.DISK, "no room")
        if not self.works("host"):
            raise Trouble(Reason.NETWORK, "no route to the host")
        plain, _, secret = link.partition("?")
        task_id, number = plain.split("/")[3:5]
        video, now = self.videos[task_id], self.now()
        fresh = bool(secret) and self.passes.get(link, 0) > now
        if now >= video.deleted_at or not (fresh or self._is_good(video, number, now)):
            self.refusals += 1
            raise Refused(Reason.LINK_REFUSED, "HTTP 403")
        mood = self.luck.random()
        if mood < self.moody / 8:
            digest = f"{self.luck.getrandbits(64):x}"
            raise Spoiled(Reason.TRUNCATED, "a box ends behind the end", digest)
        if mood < self.moody:
            raise Trouble(Reason.NETWORK, "the body broke off")
        return task_id

    @staticmethod
    def _is_good(video: Video, number: str, now: int) -> bool:
        if video.refused is not None and video.refused[0] <= now < video.refused[1]:
            return False
        stale = video.link_lasts is not None and now >= video.link_at + video.link_lasts
        return number == f"{video.link_number}.mp4" and not stale

    def could_be_had(self, video: Video, at: int) -> bool:
        """Say whether a daemon that runs could have fetched a video then."""
        refused = video.refused is not None and video.refused[0] <= at < video.refused[1]
        # At kie.ai there is a fresh link also for one that is refused.
        return self.works("api", "key", "host", "disk", "down", "asleep", at=at) and (
            self.kind == "kie" or not refused
        )

    def longest_chance(self, video: Video) -> int:
        """Return the longest time in which nothing stood in the way of a known video."""
        longest = run = 0
        begin = max(video.known_at or video.deleted_at, video.completed_at)
        for at in range(begin, video.deleted_at, MINUTE):
            run = run + MINUTE if self.could_be_had(video, at) else 0
            longest = max(longest, run)
        return longest


class Reply:
    """One call on its way, and its answer, as a session hands it out."""

    def __init__(
        self,
        account: Account,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: object,
    ) -> None:
        self._account = account
        self._asked = (path, params, body)
        self.method = method
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.content = self
        self._body = b""

    async def __aenter__(self) -> Self:
        self._body = self._body or self._account.answer(*self._asked)
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        yield self._body


def _envelope(code: int, data: object) -> bytes:
    return json.dumps({"code": code, "msg": "", "data": data}).encode()


def _record(task_id: str, flag: str, link: str | None) -> bytes:
    data = {"taskId": task_id, "successFlag": flag, "response": {"videoUrl": link}}
    return _envelope(200, data)


def draw_video(luck: random.Random, number: int, created_at: int, retention: int) -> Video:
    """Return a video with its own troubles."""
    fate = luck.choices(("made", "failed", "never"), (82, 8, 10))[0]
    completed_at = created_at + luck.randint(40, 240) * SECOND
    refused = None
    if luck.random() < 0.3:
        begins = completed_at - HOUR + int(luck.random() * 2 * HOUR)
        refused = (begins, begins + int(luck.random() * retention / 2))
    if luck.random() < 0.06:
        # Nobody will ever have it, and yet it is lost only with proof.
        refused = (created_at, completed_at + retention)
    return Video(
        task_id=f"v{number}",
        created_at=created_at,
        completed_at=completed_at,
        deleted_at=completed_at + retention,
        fate=fate,  # type: ignore[arg-type] # choices forgets the literals
        exception=luck.random() < 0.1,
        tracked=luck.random() < 0.6,
        heard=False,
        refused=refused,
        link_lasts=luck.randint(1, 36) * HOUR if luck.random() < 0.3 else None,
        forgotten_in_the_end=luck.random() < 0.3,
    )
