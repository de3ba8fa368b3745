"""The paths of the dashboard, and what each answers.

Rule: what a button does is what the admin API does, through the same office; here it is only put
into words. Nobody who cannot be answered is left with an empty page.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qsl

from aiohttp import web

from daemon.asking import Refusal, problem, read_query
from daemon.dashboard.assets import Asset, load_assets, send_asset
from daemon.dashboard.board import Looker, make_row
from daemon.dashboard.films import send_picture, send_video
from daemon.office import Office, in_turns
from daemon.rules.failure import Hindered
from daemon.rules.lifecycle import State
from daemon.rules.task import Task
from daemon.store import StoreFailed
from daemon.views import TaskQuery, view_held, view_step

if TYPE_CHECKING:
    from daemon.dashboard.pages import Pages

PATHS: Final = (
    "GET /",
    "GET /tasks",
    "GET /tasks/{task_id}",
    "POST /tasks/{task_id}/retry",
    "POST /tasks/{task_id}/forget",
    "GET /quarantine/{held_id}",
    "POST /quarantine/{held_id}/forget",
    "GET /static/{tag}/{name}",
    "GET /v1/tasks/{task_id}/video",
    "GET /v1/tasks/{task_id}/thumbnail",
)
LIST_LIMIT: Final = 50
FIELDS_LIMIT: Final = 8
"""Of a form; ours has one."""

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Send: TypeAlias = Callable[..., Awaitable[web.StreamResponse | None]]


@dataclass(slots=True)
class Site:
    """The dashboard of one daemon."""

    office: Office
    credits_low: Callable[[], float]
    _looker: Looker = field(init=False)
    _assets: dict[str, Asset] = field(default_factory=dict)
    _pages: "Pages | None" = None
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._looker = Looker(self.office, self.credits_low)

    def routes(self) -> Iterable[web.RouteDef]:
        """Return what the private listener serves beside the API."""
        handlers: dict[str, _Handler] = {
            "GET /": self.home,
            "GET /tasks": self.list_tasks,
            "GET /tasks/{task_id}": self.task,
            "POST /tasks/{task_id}/retry": partial(self.act, Office.retry_task),
            "POST /tasks/{task_id}/forget": partial(self.act, Office.forget_task),
            "GET /quarantine/{held_id}": self.held,
            "POST /quarantine/{held_id}/forget": self.forget_held,
            "GET /static/{tag}/{name}": self.static,
            "GET /v1/tasks/{task_id}/video": partial(self.film, send_video),
            "GET /v1/tasks/{task_id}/thumbnail": partial(self.film, send_picture),
        }
        for told in PATHS:
            method, path = told.split()
            handler = handlers[told]
            if not path.startswith("/v1/"):
                handler = partial(self._in_words, handler)
            # A GET answers HEAD as well.
            yield web.get(path, handler) if method == "GET" else web.post(path, handler)

    async def home(self, request: web.Request) -> web.StreamResponse:
        """Show the page that answers whether everything is safe, or a part of it."""
        part, looker = request.query.get("part"), self._looker
        if part == "now":
            return await self._answer("now.html", board=await looker.now())
        if part == "shelf":
            is_empty = not await self.office.store.tasks((), 1)
            return await self._answer(
                "shelf_part.html", shelf=None if is_empty else await looker.shelf()
            )
        return await self._show_home(await self._told(request))

    async def _show_home(self, notice: dict[str, Any] | None, status: int = 200) -> web.Response:
        board, shelf = await self._looker.now(), await self._looker.shelf()
        return await self._answer("home.html", status, board=board, shelf=shelf, notice=notice)

    async def list_tasks(self, request: web.Request) -> web.StreamResponse:
        """Show a page of tasks, the newest first."""
        query = read_query(request, TaskQuery)
        states = [state for state in State if state in query.state]
        tasks = await self.office.store.tasks(states, LIST_LIMIT + 1, query.after)
        shown = tasks[:LIST_LIMIT]
        return await self._answer(
            "tasks.html",
            rows=await in_turns(make_row, shown),
            states=[state.value for state in states],
            every=[state.value for state in State],
            counts=await self._looker.counts(),
            older=shown[-1].id if len(tasks) > LIST_LIMIT else None,
            is_first=query.after is None,
            notice=None,
        )

    async def task(self, request: web.Request) -> web.StreamResponse:
        """Show everything about one task, or the part of it that changes."""
        task = await self.office.find(request.match_info["task_id"])
        if request.query.get("part") == "task":
            return await self._answer("task_part.html", **await self._about(task))
        return await self._show_task(task, await self._told(request))

    async def _show_task(
        self, task: Task, notice: dict[str, Any] | None, status: int = 200
    ) -> web.Response:
        about = await self._about(task)
        return await self._answer("task.html", status, notice=notice, **about)

    async def _about(self, task: Task) -> dict[str, Any]:
        steps = await self.office.store.history(task.task_id)
        film, picture = await self._looker.has_film(task)
        return {
            "task": make_row(task),
            "steps": [view_step(step) for step in steps],
            "has_film": film,
            "has_picture": picture,
        }

    async def _told(self, request: web.Request) -> dict[str, Any] | None:
        """Return how the task stands that somebody has just pressed a button of."""
        task = await self.office.store.task(request.query.get("about", ""))
        return None if task is None else {"row": make_row(task), "refusal": None}

    async def act(
        self, do: Callable[[Office, Task], Awaitable[Task]], request: web.Request
    ) -> web.StreamResponse:
        """Do what a button says, and show the page that it was on."""
        on_task = await _read_page(request) == "task"
        task = await self.office.find(request.match_info["task_id"])
        notice: dict[str, Any] = {"row": make_row(task), "refusal": None}
        status = 200
        try:
            task = await do(self.office, task)
            notice["row"] = make_row(task)
        except Refusal as refusal:
            notice["refusal"], status = str(refusal), refusal.response.status
        if request.headers.get("HX-Request") == "true":
            # Its own name: the provider's may have taken the place of a local one.
            if on_task:
                about = await self._about(task)
                return await self._answer("acted_task.html", notice=notice, **about)
            board = await self._looker.now()
            return await self._answer("acted_home.html", notice=notice, board=board)
        if notice["refusal"] is not None:
            show = partial(self._show_task, task) if on_task else self._show_home
            return await show(notice, status)
        place = f"/tasks/{task.task_id}" if on_task else "/"
        return _see_other(f"{place}?about={task.task_id}")

    async def held(self, request: web.Request) -> web.StreamResponse:
        """Show a callback that could not be read."""
        held = await self.office.store.quarantine.one(request.match_info["held_id"])
        if held is None:
            raise _nothing_held()
        return await self._answer("held.html", held=view_held(held), notice=None)

    async def forget_held(self, request: web.Request) -> web.StreamResponse:
        """Note that somebody has seen such a callback."""
        held_id, now = request.match_info["held_id"], self.office.now()
        if await self.office.store.quarantine.forget(held_id, now) is None:
            raise _nothing_held()
        if request.headers.get("HX-Request") == "true":
            return await self._answer("now.html", board=await self._looker.now())
        return _see_other("/")

    async def static(self, request: web.Request) -> web.StreamResponse:
        """Send a file of the fixed table."""
        await self._load()
        asset = self._assets.get(request.match_info["name"])
        if asset is None or asset.url != request.path:
            return problem(404, "not_found", "there is no such file")
        return send_asset(asset)

    async def film(self, send: _Send, request: web.Request) -> web.StreamResponse:
        """Send a task's video, or its picture."""
        task = await self.office.find(request.match_info["task_id"])
        try:
            sent = await send(request, self.office.disk, task, lambda: self.office.stopping)
        except Hindered as failure:
            return problem(503, "unavailable", f"the disk cannot be read: {failure}")
        return sent or problem(404, "not_in_place", f"{task.task_id} has no such file in place")

    async def _in_words(self, handler: _Handler, request: web.Request) -> web.StreamResponse:
        """Answer with a page also where something is wrong."""
        try:
            return await handler(request)
        except Refusal as refusal:
            return await self._answer(
                "error.html",
                refusal.response.status,
                title="That cannot be shown",
                told=str(refusal),
                todo="",
                notice=None,
            )
        except StoreFailed as failure:
            return await self._answer(
                "error.html",
                503,
                title="The ledger cannot be read right now",
                told=f"{failure}. What was acknowledged is on disk; nothing is lost by this page.",
                todo="`journalctl -u suno-videod -e` shows the cause; see to the disk of state_dir",
                notice=None,
            )

    async def _answer(self, name: str, status: int = 200, /, **values: Any) -> web.Response:
        text = await (await self._load()).render(name, **values)
        return web.Response(text=text, status=status, content_type="text/html")

    async def _load(self) -> "Pages":
        """Load the templates and static files once: a thread does it, and callbacks come in."""
        async with self._loading:
            if self._pages is None:
                self._assets = await asyncio.to_thread(load_assets)
                self._pages = await asyncio.to_thread(_make_pages, self._assets)
            return self._pages


def _make_pages(assets: dict[str, Asset]) -> "Pages":
    from daemon.dashboard.pages import Pages  # noqa: PLC0415 - only for who looks

    return Pages(assets)


async def _read_page(request: web.Request) -> str | None:
    """Return the page that a button was on; None where the form does not say.

    aiohttp's own reader of forms raises whatever comes to it at a body that is none.
    """
    body = (await request.read()).decode(errors="replace")
    with suppress(ValueError):
        return dict(parse_qsl(body, max_num_fields=FIELDS_LIMIT)).get("page")
    return None


def _see_other(place: str) -> web.Response:
    return web.Response(status=303, headers={"Location": place})


def _nothing_held() -> Refusal:
    return Refusal(404, "unknown_callback", "the quarantine has no such callback")
