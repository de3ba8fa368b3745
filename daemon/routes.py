"""Which path of the admin API leads to which handler, and which types go in and out.

Rule: the table is all there is: the listener serves it and the OpenAPI document is made of it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from daemon.diagnosis_views import CallbackTestView, DiagnosisView, TaskDiagnosisView
from daemon.office import Office
from daemon.views import (
    BalancePage,
    BalanceQuery,
    Chart,
    ChartQuery,
    HeldPage,
    HeldView,
    HistoryPage,
    PageQuery,
    RetryRequest,
    StatusView,
    SubmitRequest,
    TaskPage,
    TaskQuery,
    TaskView,
    TaskWithHistory,
    Tracked,
    TrackRequest,
    TrialPage,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One path of the API: its handler in the office and the types that go in and out."""

    method: str
    path: str
    handler: Callable[[Office, web.Request], Awaitable[web.StreamResponse]]
    summary: str
    gives: Mapping[int, Any]
    """HTTP status of success -> type of the body."""
    takes: Any = None
    query: type[msgspec.Struct] | None = None
    errors: tuple[int, ...] = ()
    body_optional: bool = False


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/status",
        handler=Office.status,
        summary="How it stands",
        gives={200: StatusView},
    ),
    Route(
        method="GET",
        path="/v1/tasks",
        handler=Office.tasks,
        summary="Tasks, the newest first",
        query=TaskQuery,
        gives={200: TaskPage},
        errors=(422,),
    ),
    Route(
        method="POST",
        path="/v1/tasks",
        handler=Office.add,
        summary="Adopt tasks that were submitted elsewhere, or submit one",
        takes=TrackRequest | SubmitRequest,
        gives={200: Tracked, 202: Tracked},
        errors=(409, 422),
    ),
    Route(
        method="GET",
        path="/v1/tasks/{task_id}",
        handler=Office.task,
        summary="One task and all that happened to it",
        gives={200: TaskWithHistory},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/tasks/{task_id}/diagnosis",
        handler=Office.task_diagnosis,
        summary="One task, and what the provider says about it now",
        gives={200: TaskDiagnosisView},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/diagnosis",
        handler=Office.diagnosis,
        summary="What only the running daemon knows of itself; it takes some seconds",
        gives={200: DiagnosisView},
    ),
    Route(
        method="GET",
        path="/v1/callback-tests/{nonce}",
        handler=Office.callback_test,
        summary="What became of a test callback in the last minute",
        gives={200: CallbackTestView},
        errors=(404,),
    ),
    Route(
        method="POST",
        path="/v1/tasks/{task_id}/retry",
        handler=Office.retry,
        summary="Ask and fetch again, now",
        takes=RetryRequest,
        body_optional=True,
        gives={202: TaskView},
        errors=(404, 409, 422),
    ),
    Route(
        method="POST",
        path="/v1/tasks/{task_id}/forget",
        handler=Office.forget,
        summary="Acknowledge a task: nobody is asked about it any more",
        gives={200: TaskView},
        errors=(404, 409),
    ),
    Route(
        method="GET",
        path="/v1/export",
        handler=Office.export,
        summary="Tasks with their histories, the newest first",
        query=PageQuery,
        gives={200: HistoryPage},
        errors=(422,),
    ),
    Route(
        method="GET",
        path="/v1/credits",
        handler=Office.balances,
        summary="What the provider said was left of the credits",
        query=BalanceQuery,
        gives={200: BalancePage},
        errors=(422,),
    ),
    Route(
        method="POST",
        path="/v1/notifications/test",
        handler=Office.try_targets,
        summary="Send a test event to every [[notify]], all at once",
        gives={200: TrialPage},
    ),
    Route(
        method="GET",
        path="/v1/chart",
        handler=Office.chart,
        summary="How much was stored, day by day",
        query=ChartQuery,
        gives={200: Chart},
        errors=(422,),
    ),
    Route(
        method="GET",
        path="/v1/quarantine",
        handler=Office.quarantine,
        summary="Callbacks that could not be read, the newest first",
        query=PageQuery,
        gives={200: HeldPage},
        errors=(422,),
    ),
    Route(
        method="GET",
        path="/v1/quarantine/{held_id}",
        handler=Office.held,
        summary="One callback that could not be read",
        gives={200: HeldView},
        errors=(404,),
    ),
    Route(
        method="POST",
        path="/v1/quarantine/{held_id}/forget",
        handler=Office.forget_held,
        summary="Acknowledge a callback that could not be read",
        gives={200: HeldView},
        errors=(404,),
    ),
)
