"""The whole diagnosis, and the one of a single callback test or task.

Rule: it ends within a minute, whatever does not answer; a check that cannot be made is named.
"""

from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

import msgspec

from daemon.cli.doctor import judging, machine
from daemon.cli.doctor.findings import Group, Sheet
from daemon.cli.doctor.network import Errand, FindTest, provoke, reach, rehearse
from daemon.cli.doctor.task import judge_task
from daemon.cli.doctor.wire import Deadline, Target, read_target, within
from daemon.cli.group import Exit, Invocation
from daemon.client import Client, DaemonRefused, NoDaemon
from daemon.config import ConfigError, Loaded
from daemon.config.endpoints import format_endpoint
from daemon.config.sections import UnixEndpoint
from daemon.diagnosis_views import DiagnosisView, TaskDiagnosisView
from daemon.lock import StoreRefused
from daemon.token import read_token

SECONDS: Final = 55.0
DIAGNOSIS_SECONDS: Final = 20.0
FIND_SECONDS: Final = 3.0
_ANY: Final[Mapping[str, str]] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - as found


def examine(invocation: Invocation) -> Sheet:
    """Make the whole diagnosis."""
    sheet, deadline = Sheet(), Deadline(SECONDS)
    machine.judge_interpreter(sheet)
    machine.look_at_unit(sheet)
    loaded = _load(sheet, invocation)
    if loaded is None:
        for group in (Group.NETWORK, Group.ANSWER, Group.GENERATION, Group.DOWNLOAD):
            sheet.skip(group, "all", "the configuration has to be right first")
        return sheet
    machine.judge_configuration(sheet, loaded)
    client = invocation.client()
    found = _ask_daemon(sheet, client, deadline)
    if found is None:
        machine.look_at_disk(sheet, loaded)
        for group in (Group.GENERATION, Group.DOWNLOAD):
            sheet.skip(group, "all", "only a running daemon knows")
    else:
        judging.judge(sheet, found, loaded.config.provider.credits_low)
    _examine_url(sheet, loaded, client, deadline, found, thorough=True)
    return sheet


def examine_callback(invocation: Invocation) -> tuple[Sheet, str]:
    """Send a test callback; return what came of it, and the URL it went to, its token masked."""
    sheet, deadline = Sheet(), Deadline(SECONDS)
    loaded = invocation.load()
    client = invocation.client()
    found = None
    if loaded.config.callback.public_url is None:
        # Only the daemon knows its port for sure; of systemd's sockets nobody else does.
        found = _ask_daemon(sheet, client, deadline)
        sheet.findings.clear()
    errand = _examine_url(sheet, loaded, client, deadline, found, thorough=False)
    return sheet, errand.shown if errand else ""


def examine_task(invocation: Invocation, task_id: str) -> Sheet:
    """Look at one task.

    Raises:
        NoDaemon: nobody answers.
        DaemonRefused: the daemon does not know it, or cannot say.
    """
    sheet, deadline = Sheet(), Deadline(SECONDS)
    client = invocation.client()
    asked = within(deadline.left(DIAGNOSIS_SECONDS), client.diagnose_task, task_id)
    judge_task(sheet, msgspec.convert(asked, TaskDiagnosisView))
    return sheet


def _load(sheet: Sheet, invocation: Invocation) -> Loaded | None:
    try:
        return invocation.load()
    except ConfigError as error:
        machine.judge_mistakes(sheet, error)
        return None


def _ask_daemon(sheet: Sheet, client: Client, deadline: Deadline) -> DiagnosisView | None:
    group, check = Group.MACHINE, "daemon"
    try:
        asked = within(deadline.left(DIAGNOSIS_SECONDS), client.get, "/v1/diagnosis")
        return msgspec.convert(asked, DiagnosisView)
    except NoDaemon as absent:
        sheet.fail(
            group,
            check,
            f"{absent}. Nobody takes callbacks or fetches videos; what is in the ledger is safe",
            f"{absent.hint} (as a service: systemctl start suno-videod)",
            Exit.TRANSIENT,
        )
    except DaemonRefused as refused:
        sheet.fail(
            group,
            check,
            f"it runs, and makes no diagnosis: {refused}",
            "it may be an older version: systemctl restart suno-videod",
        )
    except TimeoutError:
        sheet.fail(
            group,
            check,
            f"{client.path} takes questions, and no answer came: the daemon hangs",
            "see what it says: journalctl -u suno-videod -n 50; systemd restarts it by itself",
            Exit.TRANSIENT,
        )
    except msgspec.ValidationError:
        sheet.fail(
            group, check, "it is another version than this command", "systemctl restart suno-videod"
        )
    return None


def _examine_url(
    sheet: Sheet,
    loaded: Loaded,
    client: Client,
    deadline: Deadline,
    found: DiagnosisView | None,
    *,
    thorough: bool,
) -> Errand | None:
    token = _find_token(sheet, loaded)
    target = _find_target(sheet, loaded, found)
    if token is None or target is None:
        return None
    callback = loaded.config.callback
    errand = Errand(
        target=target,
        token=token,
        hmac_key=callback.hmac_keys[0].reveal() if callback.hmac_keys else None,
        callback_path=callback.path,
        listen=_bare(_listener(found), callback.path)
        or format_endpoint(callback.listen)
        or "the daemon's listener",
        find_test=_make_find(client, deadline),
        deadline=deadline,
    )
    address = reach(sheet, target, deadline)
    if address is None:
        sheet.skip(Group.ANSWER, "test callback", "the URL cannot be reached as it should be")
        return errand
    rehearse(sheet, errand, address)
    if thorough:
        provoke(sheet, errand, address)
    return errand


def _make_find(client: Client, deadline: Deadline) -> FindTest | None:
    """Return what asks the daemon about a test; None where there is no daemon to ask."""

    def find(nonce: str) -> Mapping[str, Any] | None:
        path = f"/v1/callback-tests/{nonce}"
        try:
            note: Mapping[str, Any] = within(deadline.left(FIND_SECONDS), client.get, path)
        except DaemonRefused as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise
            return None
        return note

    try:
        find("0" * 32)
    except (NoDaemon, DaemonRefused, TimeoutError):
        return None
    return find


def _find_token(sheet: Sheet, loaded: Loaded) -> str | None:
    tokens = loaded.config.callback.tokens
    try:
        token = tokens[0].reveal() if tokens else read_token(loaded.config.state_dir)
    except StoreRefused as refused:
        sheet.fail(
            Group.ANSWER,
            "token",
            f"{refused}. Without it no callback can be tried",
            "run the command as root or as the daemon's own user",
        )
        return None
    if token is None:
        sheet.fail(
            Group.ANSWER,
            "token",
            f"none in {loaded.config.state_dir} yet: there is no URL to give the provider",
            "start the daemon once (suno-videod serve), or set callback.tokens",
            Exit.CONFIGURATION,
        )
    return token


def _find_target(sheet: Sheet, loaded: Loaded, found: DiagnosisView | None) -> Target | None:
    callback = loaded.config.callback
    if callback.public_url is not None:
        return read_target(callback.public_url)
    sheet.warn(
        Group.NETWORK,
        "public URL",
        "callback.public_url is not set: only the listener itself is tried, and no provider is "
        "told where to call",
        "set it to the https address that the provider reaches",
    )
    opened = _listener(found)
    if opened is not None and not opened.startswith("unix:"):
        target = read_target(opened)
        return replace(target, host=_ANY.get(target.host, target.host))
    if opened is not None:
        place = opened.removeprefix("unix:").removesuffix(callback.path)
        return Target("http", "", 80, callback.path, place)
    if isinstance(callback.listen, UnixEndpoint):
        return Target("http", "", 80, callback.path, str(callback.listen.path))
    if callback.listen is None:
        sheet.skip(Group.ANSWER, "test callback", 'callback.listen is "": nothing can arrive')
        return None
    if callback.listen.port == 0:
        sheet.skip(Group.ANSWER, "test callback", "only a running daemon knows its port")
        return None
    host = _ANY.get(callback.listen.host, callback.listen.host)
    scheme = "https" if callback.tls_certificate else "http"
    return Target(scheme, host, callback.listen.port, callback.path)


def _bare(address: str | None, path: str) -> str | None:
    """Return what a proxy is told: nginx changes the path where `proxy_pass` has one."""
    return address and address.removesuffix(path)


def _listener(found: DiagnosisView | None) -> str | None:
    heard = [one.address for one in found.listeners if one.name == "callback"] if found else []
    return heard[0] if heard else None
