"""The provider in a box: music, videos, credits, callbacks and files on one port.

Rule: it is a provider as the documents describe it, and knows nothing of the daemon. State is in
memory and belongs to whoever holds the `Simulator`; faults are data (`faults`).

A running simulator is scripted and watched over HTTP as well: `POST /simulator/api-faults` takes
an `ApiFaults`, `GET /simulator/requests` shows what was asked and how callbacks were answered.
"""

import asyncio
import math
import secrets
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from aiohttp import hdrs, web

from daemon.simulator.answers import (
    Refused,
    answer,
    find_base_url,
    json_response,
    read_body,
    read_task_id,
    reply,
)
from daemon.simulator.callbacks import CallbackSender, Post
from daemon.simulator.faults import (
    FORGED_FILE,
    NO_FAULTS,
    SCENARIOS,
    ApiFaults,
    Faults,
    FileFault,
    Reply,
)
from daemon.simulator.files import answer_file, close_connection, send_file, shows
from daemon.simulator.films import Film
from daemon.simulator.music import Studio
from daemon.simulator.provider import (
    CODE_OK,
    CODE_UNAUTHORIZED,
    DIALECTS,
    FreshLinkRequest,
    GenerateRequest,
    SimulatedTask,
    SimulatorOptions,
    record,
)

_REMEMBERED: Final = 10_000
_SHUTDOWN_SECONDS: Final = 0.5


class AskedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request that reached the API or the file host; `at` is Unix time."""

    at: float
    method: str
    path: str
    task_id: str | None
    range: str | None
    if_range: str | None


class Simulator:
    """A provider with its state, which a test may read and change at any time.

    `requests` are the newest that reached the API or the file host. `next_faults` holds for the
    next accepted `mp4/generate`, whatever its `audioId`. `music` has the tasks of `generate`.
    """

    def __init__(self, options: SimulatorOptions, post: Post) -> None:
        self.options = options
        self.base_url = ""
        self.credits = options.credits
        self.tasks: dict[str, SimulatedTask] = {}
        self.requests: deque[AskedRequest] = deque(maxlen=_REMEMBERED)
        self.callbacks = CallbackSender(options, post)
        self.music = Studio(options.kind)
        self.next_faults: Faults | None = None
        self._dialect = DIALECTS[options.kind]
        self._api_replies: deque[Reply] = deque()
        self._api_path = ""

    def app(self) -> web.Application:
        """Return the application; its clean-up ends the callbacks that are still to come."""
        app = web.Application(middlewares=[self._attend])
        app.router.add_post("/api/v1/mp4/generate", self._generate)
        app.router.add_get("/api/v1/mp4/record-info", self._tell_record)
        app.router.add_get(self._dialect.credit_path, self._tell_credits)
        if self._dialect.gives_fresh_links:
            app.router.add_post("/api/v1/common/download-url", self._give_fresh_link)
        self.music.add_routes(app.router)
        app.router.add_get(FORGED_FILE, self._send_forged_film)
        app.router.add_get("/files/{task_id:[0-9a-f]{32}}{number:(-[0-9]+)?}.mp4", self._send_film)
        app.router.add_post("/simulator/api-faults", self._take_api_faults)
        app.router.add_get("/simulator/requests", self._show_requests)
        app.on_cleanup.append(self._close_callbacks)
        return app

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Listen while the block runs; yield the base URL. Port 0 takes a free one.

        Raises:
            OSError: the address cannot be bound.
        """
        runner = web.AppRunner(
            self.app(),
            access_log=None,
            # A stalled answer ends when its client has left.
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            bound_host, bound_port = runner.addresses[0][:2]
            name = f"[{bound_host}]" if ":" in bound_host else bound_host
            self.base_url = f"http://{name}:{bound_port}"
            yield self.base_url
        finally:
            await runner.cleanup()

    def add_task(
        self,
        faults: Faults = NO_FAULTS,
        *,
        finished: bool = True,
        callback_url: str = "",
        film: Film | None = None,
    ) -> str:
        """Create a task without `generate` and return its id; `finish` ends an unfinished one."""
        task = self._create_task(
            (uuid.uuid4().hex, str(uuid.uuid4())),
            callback_url,
            self.base_url,
            time.time() if finished else math.inf,
            faults,
        )
        if film is not None:
            task.film = film
        if finished:
            self.callbacks.schedule(task)
        return task.task_id

    def finish(self, task_id: str) -> None:
        """End the generation of a task that `add_task` left unfinished."""
        task = self.tasks[task_id]
        task.completes_at = time.time()
        self.callbacks.schedule(task)

    def script_api(self, faults: ApiFaults) -> None:
        """Answer the next calls by script; an earlier script ends."""
        replies = [Reply(code=code) if isinstance(code, int) else code for code in faults.codes]
        self._api_replies = deque(replies * faults.repeat)
        self._api_path = faults.path

    def _create_task(
        self,
        track: tuple[str, str],
        callback_url: str,
        base_url: str,
        completes_at: float,
        faults: Faults,
    ) -> SimulatedTask:
        task_id = uuid.uuid4().hex
        task = SimulatedTask(
            task_id=task_id,
            track=track,
            callback_url=callback_url,
            base_url=base_url,
            created_at=time.time(),
            completes_at=completes_at,
            film=Film(task_id, self.options.file_size_bytes, self.options.clip),
            faults=faults,
        )
        self.tasks[task_id] = task
        return task

    @web.middleware
    async def _attend(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        if request.path.startswith("/simulator/"):
            return await handler(request)
        self.requests.append(
            AskedRequest(
                at=time.time(),
                method=request.method,
                path=request.path,
                task_id=request.match_info.get("task_id", request.query.get("taskId")),
                range=request.headers.get(hdrs.RANGE),
                if_range=request.headers.get(hdrs.IF_RANGE),
            )
        )
        if not request.path.startswith("/api/v1/"):
            try:
                return await handler(request)
            except ConnectionResetError:
                # Whoever asked is gone, as campaigns have it; aiohttp would log it as our error.
                return web.Response(status=499)
        if self._api_replies and request.path.startswith(self._api_path):
            return await reply(self.options.kind, request, self._api_replies.popleft())
        scheme, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        known = bool(key) if self.options.api_key is None else key == self.options.api_key
        if scheme.lower() != "bearer" or not known:
            return answer(self.options.kind, CODE_UNAUTHORIZED)
        try:
            return await handler(request)
        except Refused as refusal:
            return answer(self.options.kind, refusal.code, message=refusal.message)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        kind, dialect = self.options.kind, self._dialect
        wanted = await read_body(kind, request, GenerateRequest)
        track = (wanted.task_id, wanted.audio_id)
        for task in self.tasks.values():
            if task.track == track:
                data = {"taskId": task.task_id} if dialect.duplicate_names_task else None
                return answer(kind, dialect.duplicate_code, data, "Mp4 record already exists")
        if self.credits < dialect.price_credits:
            return answer(kind, dialect.no_credits_code)
        self.credits -= dialect.price_credits
        faults, self.next_faults = self.next_faults, None
        if faults is None:
            faults, _ = SCENARIOS.get(wanted.audio_id, (NO_FAULTS, ""))
        task = self._create_task(
            track,
            wanted.call_back_url,
            find_base_url(request),
            time.time() + self.options.render_seconds,
            faults,
        )
        self.callbacks.schedule(task)
        await asyncio.sleep(faults.answer_delay_seconds)
        if faults.answer_lost:
            close_connection(request, reset=True)
        if faults.answer is not None:
            return await reply(kind, request, faults.answer)
        return answer(kind, CODE_OK, {"taskId": task.task_id})

    async def _tell_record(self, request: web.Request) -> web.StreamResponse:
        kind = self.options.kind
        task = self.tasks.get(read_task_id(kind, request))
        if task is None:
            return answer(kind, CODE_OK)
        if task.replies_given < len(task.faults.replies):
            task.replies_given += 1
            return await reply(kind, request, task.faults.replies[task.replies_given - 1], task)
        task.renew_link()
        return answer(kind, CODE_OK, record(kind, task, time.time()))

    async def _tell_credits(self, _request: web.Request) -> web.StreamResponse:
        balance = self.credits if self.options.kind == "kie" else math.floor(self.credits)
        return answer(self.options.kind, CODE_OK, balance)

    async def _give_fresh_link(self, request: web.Request) -> web.StreamResponse:
        kind = self.options.kind
        wanted = await read_body(kind, request, FreshLinkRequest)
        plain, _, _ = wanted.url.partition("?")
        for task in self.tasks.values():
            if plain in task.video_urls:
                secret = secrets.token_urlsafe()
                task.passes[secret] = time.time()
                return answer(kind, CODE_OK, f"{plain}?pass={secret}")
        raise Refused(self._dialect.bad_field_code, "url is wrong")

    async def _send_film(self, request: web.Request) -> web.StreamResponse:
        task = self.tasks.get(request.match_info["task_id"])
        if task is None:
            raise web.HTTPNotFound
        age_seconds = time.time() - task.completes_at
        number = int(request.match_info["number"][1:] or 1)
        fault = task.find_file_fault(number)
        if fault is None or not 0 <= age_seconds < self.options.retention_seconds:
            raise web.HTTPNotFound
        secret = request.query.get("pass")
        if secret is not None and not task.admits(secret, time.time()):
            raise web.HTTPForbidden
        spared = secret is not None and not fault.also_fresh
        if spared:
            fault = FileFault()
        sent = answer_file(request.method, request.headers, task.film, task.completes_at, fault)
        met = request.method == hdrs.METH_GET and not spared and shows(fault, sent)
        if met and number == task.link_number:
            task.show_file_fault()
        if fault.bytes_per_second is None:
            fault = msgspec.structs.replace(fault, bytes_per_second=self.options.bytes_per_second)
        return await send_file(request, sent, fault)

    async def _send_forged_film(self, request: web.Request) -> web.StreamResponse:
        film = Film("forged", self.options.file_size_bytes, self.options.clip)
        sent = answer_file(request.method, request.headers, film, 0, FileFault())
        return await send_file(request, sent, FileFault())

    async def _take_api_faults(self, request: web.Request) -> web.StreamResponse:
        try:
            faults = msgspec.json.decode(await request.read(), type=ApiFaults)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        self.script_api(faults)
        return web.Response(status=204)

    async def _show_requests(self, _request: web.Request) -> web.StreamResponse:
        shown = {"requests": list(self.requests), "callbacks": list(self.callbacks.attempts)}
        return json_response(msgspec.json.encode(shown))

    async def _close_callbacks(self, _app: web.Application) -> None:
        await self.callbacks.close()


async def run(
    options: SimulatorOptions,
    post: Post,
    *,
    host: str,
    port: int,
    stop: asyncio.Event,
    announce: Callable[[str], None],
) -> None:
    """Be a provider until `stop` is set; `announce` gets the base URL once it listens.

    Raises:
        OSError: the address cannot be bound.
    """
    async with Simulator(options, post).serve(host, port) as base_url:
        announce(base_url)
        await stop.wait()
