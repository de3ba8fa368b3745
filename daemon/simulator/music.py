"""The music of the simulated provider: the tasks and tracks that videos are made from.

Rule: an id that was neither made here nor is one of the `sim-` ids below is a music task still in
the making, never a definite no, so that a video of an invented track can be tried.

Sources: https://docs.sunoapi.org/suno-api/generate-music and get-music-generation-details,
https://docs.kie.ai/suno-api/generate-music and get-music-details.
"""

import time
import uuid
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
from aiohttp import hdrs, web

from daemon.simulator.answers import Refused, answer, find_base_url, read_body, read_task_id
from daemon.simulator.files import parse_range
from daemon.simulator.provider import CODE_OK, DIALECTS, Kind, explain, tell_time

UNKNOWN_MUSIC: Final = "sim-unknown-music"
FOREIGN_MUSIC: Final = "sim-foreign-music"
FAILED_MUSIC: Final = "sim-failed-music"
FOREIGN_AUDIO: Final = "sim-foreign-audio"
DEAD_AUDIO: Final = "sim-dead-audio"
"""A track of `FOREIGN_MUSIC` whose file is gone; that of `FOREIGN_AUDIO` is there."""

_FAILURE_CODE = 500
# Silent frames of MPEG-1 layer III, 128 kbit/s at 44.1 kHz: four bytes of header, then zeros.
_FRAMES = 16
_AUDIO = (b"\xff\xfb\x90\x00" + bytes(413)) * _FRAMES
_AUDIO_SECONDS = round(_FRAMES * 1152 / 44_100, 2)


class MusicRequest(msgspec.Struct, frozen=True, rename="camel"):
    """The part of the body of `POST /api/v1/generate` that matters here."""

    prompt: str
    call_back_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MusicTask:
    """A music task; `audio_ids` are its tracks, `param` is the request that made it, as JSON."""

    task_id: str
    status: Literal["PENDING", "SUCCESS", "GENERATE_AUDIO_FAILED"]
    audio_ids: tuple[str, ...] = ()
    prompt: str = ""
    param: str = "{}"
    created_at: float = 0.0


def music_record(kind: Kind, task: MusicTask, base_url: str) -> dict[str, object]:
    """Return the `data` of a music task's record-info; no picture is ever drawn for a track."""
    failed = task.status == "GENERATE_AUDIO_FAILED"
    tracks = [
        {
            "id": audio_id,
            "audioUrl": f"{base_url}/files/{audio_id}.mp3",
            "streamAudioUrl": f"{base_url}/files/{audio_id}.mp3",
            "imageUrl": None,
            "prompt": task.prompt,
            "modelName": "simulated",
            "title": f"Simulated song {number}",
            "tags": "silence",
            "createTime": tell_time(kind, task.created_at),
            "duration": _AUDIO_SECONDS,
        }
        for number, audio_id in enumerate(task.audio_ids, start=1)
    ]
    return {
        "taskId": task.task_id,
        "parentMusicId": "",
        "param": task.param,
        "response": {"taskId": task.task_id, "sunoData": tracks} if tracks else None,
        "status": task.status,
        "type": "GENERATE",
        "errorCode": _FAILURE_CODE if failed else None,
        "errorMessage": explain(_FAILURE_CODE) if failed else None,
    }


class Studio:
    """Makes music tasks and answers for them; `tasks` are those that have an end.

    Music costs no credits and is announced by no callback.
    """

    def __init__(self, kind: Kind) -> None:
        foreign = MusicTask(
            task_id=FOREIGN_MUSIC,
            status="SUCCESS",
            audio_ids=(FOREIGN_AUDIO, DEAD_AUDIO),
            created_at=time.time(),
        )
        failed = MusicTask(task_id=FAILED_MUSIC, status="GENERATE_AUDIO_FAILED")
        self.tasks = {task.task_id: task for task in (foreign, failed)}
        self._kind: Kind = kind

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Serve the music part of the API, and the audio files."""
        router.add_post("/api/v1/generate", self._generate)
        router.add_get("/api/v1/generate/record-info", self._tell_record)
        router.add_get("/files/{audio_id}.mp3", self._send_audio)

    def compose(self, prompt: str, param: str = "{}") -> MusicTask:
        """Make a music task with two tracks, at once."""
        task = MusicTask(
            task_id=uuid.uuid4().hex,
            status="SUCCESS",
            audio_ids=(str(uuid.uuid4()), str(uuid.uuid4())),
            prompt=prompt,
            param=param,
            created_at=time.time(),
        )
        self.tasks[task.task_id] = task
        return task

    def find(self, task_id: str) -> MusicTask | None:
        """Return a music task, or None for the one id that is unknown."""
        if task_id == UNKNOWN_MUSIC:
            return None
        return self.tasks.get(task_id) or MusicTask(task_id=task_id, status="PENDING")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        wanted = await read_body(self._kind, request, MusicRequest)
        if not wanted.call_back_url:
            raise Refused(DIALECTS[self._kind].bad_field_code, "Please enter callBackUrl.")
        task = self.compose(wanted.prompt, (await request.read()).decode(errors="replace"))
        return answer(self._kind, CODE_OK, {"taskId": task.task_id})

    async def _tell_record(self, request: web.Request) -> web.StreamResponse:
        task = self.find(read_task_id(self._kind, request))
        if task is None:
            return answer(self._kind, CODE_OK)
        return answer(self._kind, CODE_OK, music_record(self._kind, task, find_base_url(request)))

    async def _send_audio(self, request: web.Request) -> web.StreamResponse:
        audio_id = request.match_info["audio_id"]
        known = any(audio_id in task.audio_ids for task in self.tasks.values())
        if not known or audio_id == DEAD_AUDIO:
            raise web.HTTPNotFound
        size_bytes = len(_AUDIO)
        # Range has a meaning for GET alone: RFC 9110, 14.2.
        asked = request.headers.get(hdrs.RANGE) if request.method == hdrs.METH_GET else None
        span = parse_range(asked, size_bytes)
        headers: dict[str, str] = {hdrs.ACCEPT_RANGES: "bytes", hdrs.CONTENT_TYPE: "audio/mpeg"}
        if span is None:
            return web.Response(body=_AUDIO, headers=headers)
        if not span:
            headers[hdrs.CONTENT_RANGE] = f"bytes */{size_bytes}"
            return web.Response(status=416, headers=headers)
        headers[hdrs.CONTENT_RANGE] = f"bytes {span.start}-{span.stop - 1}/{size_bytes}"
        return web.Response(status=206, body=_AUDIO[span.start : span.stop], headers=headers)
