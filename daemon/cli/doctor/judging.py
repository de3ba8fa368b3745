"""Judges what the running daemon knows of itself.

Rule: nothing is asked or measured here; a fact goes in, a finding comes out.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from daemon import __version__
from daemon.cli.doctor.findings import Group, Sheet
from daemon.cli.doctor.network import judge_days
from daemon.cli.group import Exit
from daemon.diagnosis_views import DiagnosisView, FolderView, PlaceView, TallyView
from daemon.rules.gate_words import explain_gate
from daemon.wording import age, size

CLOCK_WARN_SECONDS: Final = 60.0
CLOCK_FAIL_SECONDS: Final = 3600.0
SLOW_ANSWER_SECONDS: Final = 5.0
SLOW_DISK: Final = 4 << 20
"""Bytes a second: a few videos at a time come faster from their hosts."""
FEW_INODES: Final = 1_000
LAG_WARN_SECONDS: Final = 0.5
TROUBLE_SHOWN: Final = 3

_STRANGERS: Final = frozenset({"wrong_path", "limited", "wrong_method", "malformed", "cut_off"})
"""What scanners send all day to everybody."""
_REJECTED: Final[Mapping[str, tuple[str, str]]] = {
    "wrong_token": (
        "had a wrong token",
        (
            "if the provider sent them, it was given an old URL: compare it with suno-videod "
            "callback-url"
        ),
    ),
    "bad_signature": (
        "had no good signature and were refused",
        "compare callback.hmac_keys with the key in your account, and look at the clock",
    ),
    "quarantined": (
        "could not be read; they are acknowledged and kept",
        "see them: suno-videod list --state quarantined",
    ),
    "too_large": ("were larger than 64 KiB", "no video callback is: see who sends them"),
    "too_slow": ("came too slowly", "look at the network, and at what the proxy waits for"),
    "encoded": ("came with a Content-Encoding", "let the proxy hand on what it gets as it is"),
    "crowded": (
        "found no room for another connection",
        "limit connections per client in the proxy, as systemd/nginx.conf does",
    ),
    "not_stored": (
        "could not be committed, so the provider was told to come again",
        "look at disk and ledger below, and then: suno-videod check",
    ),
}
_GATES: Final[Mapping[str, tuple[Group, Exit, str]]] = {
    "key": (
        Group.GENERATION,
        Exit.ACCOUNT,
        explain_gate("key").do,
    ),
    "credits": (Group.GENERATION, Exit.ACCOUNT, "buy credits; it opens by itself then"),
    "rate": (
        Group.GENERATION,
        Exit.TRANSIENT,
        "nothing to do: it opens by itself; lower provider.requests_per_second if it comes often",
    ),
    "maintenance": (Group.GENERATION, Exit.TRANSIENT, "nothing to do: it opens by itself"),
    "api": (
        Group.GENERATION,
        Exit.TRANSIENT,
        "see whether provider.base_url is right and can be reached from here; it opens by itself",
    ),
    "disk": (Group.DOWNLOAD, Exit.DISK, "make room, or mount the disk; it opens by itself"),
}


def judge(sheet: Sheet, found: DiagnosisView, credits_low: int) -> None:
    """Note what is to be said of a diagnosis."""
    _judge_listeners(sheet, found)
    _judge_callbacks(sheet, found)
    _judge_provider(sheet, found, credits_low)
    _judge_gates(sheet, found)
    _judge_downloads(sheet, found)
    _judge_process(sheet, found)
    _judge_clock(sheet, found)
    _judge_folder(sheet, "videos' disk", found.videos)
    _judge_folder(sheet, "ledger's disk", found.state)
    _judge_places(sheet, found.places, found.user)
    _judge_ledger(sheet, found)
    _judge_leftovers(sheet, found)
    _judge_trouble(sheet, found)


def _judge_listeners(sheet: Sheet, found: DiagnosisView) -> None:
    heard = [one for one in found.listeners if one.name == "callback"]
    if not heard:
        sheet.fail(
            Group.NETWORK,
            "listener",
            'callback.listen is "": no callback can arrive, videos are found only by asking',
            "set callback.listen, unless that is what you want",
        )
    for one in heard:
        by = "systemd keeps it" if one.passed else "the daemon's own"
        sheet.ok(Group.NETWORK, "listener", f"callbacks are heard on {one.address} ({by})")
    own = found.certificate
    if own is None:
        return
    if own.days_left is None:
        sheet.warn(
            Group.NETWORK, "own certificate", f"{own.path} cannot be read any more", "put it back"
        )
    else:
        judge_days(sheet, "own certificate", own.path, own.days_left)


def _judge_callbacks(sheet: Sheet, found: DiagnosisView) -> None:
    if found.callbacks is None:
        sheet.skip(Group.ANSWER, "callbacks", "the ledger cannot be read")
        return
    tallied = {one.cause: one for one in found.callbacks}
    accepted = tallied.get("accepted")
    if accepted is None:
        sheet.ok(Group.ANSWER, "callbacks", "none in 24 hours; right when no video was ordered")
    else:
        sheet.ok(
            Group.ANSWER,
            "callbacks",
            f"{accepted.count} accepted in 24 hours, the last {age(accepted.last_at)}",
        )
    strangers = [one for one in found.callbacks if one.cause in _STRANGERS]
    if strangers:
        told = "; ".join(f"{_name(one)} {_when(one)}" for one in strangers)
        sheet.ok(Group.ANSWER, "strangers", f"refused in 24 hours: {told}")
    for cause, (told, mend) in _REJECTED.items():
        if cause in tallied:
            one = tallied[cause]
            note = sheet.fail if cause in {"bad_signature", "not_stored"} else sheet.warn
            note(Group.ANSWER, cause.replace("_", " "), f"{one.count} {told}, {_when(one)}", mend)


def _name(one: TallyView) -> str:
    return f"{one.count} {one.cause.replace('_', ' ')}"


def _when(one: TallyView) -> str:
    return f"the last {age(one.last_at)}" + (f" from {one.remote}" if one.remote else "")


def _judge_provider(sheet: Sheet, found: DiagnosisView, credits_low: int) -> None:
    asked, group = found.provider, Group.GENERATION
    if not found.has_key:
        sheet.warn(
            group,
            "API key",
            "provider.api_key is not set: callbacks are believed, and a video whose callback does "
            "not arrive is lost",
            "set it: then every video is found by asking, too",
        )
        return
    if not asked.asked:
        sheet.skip(group, "provider", f"not asked: {asked.message}")
        return
    told = f"{asked.base_url} answered in {asked.seconds or 0:.2f} s"
    if asked.outcome == "answered":
        if (asked.seconds or 0) > SLOW_ANSWER_SECONDS:
            sheet.warn(group, "provider", told, "nothing to do, unless it stays so slow")
        else:
            sheet.ok(group, "provider", f"{told}, and takes the API key")
        _judge_credits(sheet, asked.credits or 0.0, credits_low)
    elif asked.outcome == "key":
        # Its gate has the rest.
        if not any(gate.name == "key" for gate in found.gates):
            sheet.fail(
                group, "API key", f"refused: {asked.message}", _GATES["key"][2], Exit.ACCOUNT
            )
    elif asked.outcome == "odd":
        sheet.warn(
            group, "provider", f"{told}: {asked.message}", "see whether provider.kind is right"
        )
    elif not any(gate.name in {asked.outcome, "api", "rate"} for gate in found.gates):
        sheet.fail(
            group,
            "provider",
            f"{asked.base_url}: {asked.message}. Nothing is lost: it is asked again",
            "see whether provider.base_url is right and can be reached from here (DNS, firewall)",
            Exit.TRANSIENT,
        )


def _judge_credits(sheet: Sheet, left: float, low: int) -> None:
    if left <= 0:
        sheet.fail(
            Group.GENERATION,
            "credits",
            "0 left: no new video can be made; what was paid for is fetched all the same",
            _GATES["credits"][2],
            Exit.ACCOUNT,
        )
    elif left < low:
        sheet.warn(Group.GENERATION, "credits", f"{left:g} left, below {low}", "buy some, in time")
    else:
        sheet.ok(Group.GENERATION, "credits", f"{left:g} left")


def _judge_gates(sheet: Sheet, found: DiagnosisView) -> None:
    for gate in found.gates:
        told = f"gate {gate.name} shut {age(gate.since)}: {gate.reason}"
        if gate.name in _GATES:
            group, code, mend = _GATES[gate.name]
            check = "API key" if gate.name == "key" else gate.name
            sheet.fail(group, check, told, mend, code)
        else:
            sheet.warn(
                Group.DOWNLOAD,
                "host",
                f"{told}. Its videos wait, and are kept in mind",
                "nothing to do: it opens by itself",
            )


def _judge_downloads(sheet: Sheet, found: DiagnosisView) -> None:
    if found.overdue is None:
        sheet.skip(Group.DOWNLOAD, "overdue", "the ledger cannot be read")
    elif found.overdue:
        for told in found.overdue:
            sheet.fail(
                Group.DOWNLOAD, "overdue", told, "see which: suno-videod check, then doctor TASK_ID"
            )
    else:
        sheet.ok(Group.DOWNLOAD, "overdue", "nothing: all that is due was tried")


def _judge_process(sheet: Sheet, found: DiagnosisView) -> None:
    told = (
        f"suno-videod {found.version} as {found.user}, process {found.pid}, started "
        f"{age(found.started_at)}, Python {found.python}"
    )
    if found.version != __version__:
        sheet.warn(
            Group.MACHINE,
            "daemon",
            f"{told}; the command is {__version__}",
            "restart it: systemctl restart suno-videod",
        )
    else:
        sheet.ok(Group.MACHINE, "daemon", told)
    lag = found.loop_lag_seconds
    if lag > LAG_WARN_SECONDS:
        sheet.warn(
            Group.MACHINE,
            "load",
            f"the daemon woke up {lag:.2f} s too late: callbacks are answered as much later",
            "see what else needs the processor (top)",
        )
    else:
        sheet.ok(Group.MACHINE, "load", f"the daemon wakes up within {lag * 1000:.0f} ms")


def _judge_clock(sheet: Sheet, found: DiagnosisView) -> None:
    off = found.clock_off_seconds
    if off is None:
        sheet.skip(Group.MACHINE, "clock", "the provider has told no time yet to compare with")
        return
    way = "ahead of" if off > 0 else "behind"
    told = f"{abs(off):.0f} s {way} the provider's"
    mend = "set it: timedatectl set-ntp true"
    if abs(off) > CLOCK_FAIL_SECONDS:
        sheet.fail(Group.MACHINE, "clock", f"{told}: deadlines are wrong, so nothing expires", mend)
    elif abs(off) > CLOCK_WARN_SECONDS:
        sheet.warn(
            Group.MACHINE, "clock", f"{told}; from 300 s on, signed callbacks are refused", mend
        )
    else:
        sheet.ok(Group.MACHINE, "clock", told)


def _judge_folder(sheet: Sheet, check: str, folder: FolderView) -> None:
    if folder.error is not None or folder.free_bytes is None:
        sheet.fail(
            Group.MACHINE,
            check,
            f"{folder.path}: {folder.error}. Nothing can be written there",
            "mount it, or give the folder to the daemon's user",
            Exit.DISK,
        )
        return
    free, least = folder.free_bytes, folder.min_free_bytes or 0
    told = f"{size(free)} free in {folder.path}"
    if free < least:
        sheet.fail(
            Group.MACHINE,
            check,
            f"{told}, below disk.min_free ({size(least)}): downloads pause, callbacks are taken",
            "make room: move finished videos away, or lower disk.min_free",
            Exit.DISK,
        )
        return
    if folder.free_inodes is not None and folder.free_inodes < FEW_INODES:
        sheet.fail(
            Group.MACHINE,
            check,
            f"{told}, but only {folder.free_inodes} files more fit on it (inodes)",
            "remove small files from this disk: df -i",
            Exit.DISK,
        )
        return
    speed = folder.speed
    if speed is None:
        sheet.warn(
            Group.MACHINE,
            check,
            f"{told}: nearly full, so nothing was written to try its speed",
            "make room: move finished videos away",
        )
    elif speed.error is not None or not speed.seconds:
        sheet.fail(
            Group.MACHINE,
            check,
            f"{told}, but writing failed: {speed.error}. No video can be kept there",
            "give the folder to the daemon's user, or mount the disk for writing",
            Exit.DISK,
        )
    elif speed.size_bytes / speed.seconds < SLOW_DISK and speed.size_bytes > SLOW_DISK:
        sheet.warn(
            Group.MACHINE,
            check,
            f"{told}; {size(speed.size_bytes)} took {speed.seconds:.1f} s to write and sync",
            "a slow disk makes videos come late, not wrong: see what else writes (iotop)",
        )
    else:
        shown = f"{speed.seconds * 1000:.0f} ms"
        sheet.ok(
            Group.MACHINE, check, f"{told}; {size(speed.size_bytes)} written and synced in {shown}"
        )


def _judge_places(sheet: Sheet, places: Iterable[PlaceView], user: str) -> None:
    good = []
    for place in places:
        told, mode = f"{place.path} ({place.mode or 'mode unknown'})", int(place.mode or "0", 8)
        if not place.writable:
            sheet.fail(
                Group.MACHINE,
                "permissions",
                f"{told}: the daemon's user may not write there",
                f"chown {user} {place.path}",
                Exit.DISK,
            )
        elif not place.own:
            sheet.warn(
                Group.MACHINE,
                "permissions",
                f"{told} belongs to somebody else, who can change it",
                f"chown {user} {place.path}",
            )
        elif mode & ~int(place.most, 8) & 0o777:
            sheet.warn(
                Group.MACHINE,
                "permissions",
                f"{told}: others can read or change it",
                f"chmod {place.most} {place.path}",
            )
        else:
            good.append(told)
    if good:
        sheet.ok(Group.MACHINE, "permissions", ", ".join(good))


def _judge_ledger(sheet: Sheet, found: DiagnosisView) -> None:
    ledger = found.ledger
    told = f"{size(ledger.size_bytes)}, its log {size(ledger.log_bytes or 0)}"
    if ledger.damage is not None:
        sheet.fail(
            Group.MACHINE,
            "ledger",
            f"{told}; {ledger.damage}. What it knows of your videos may be wrong",
            "stop the daemon and put the newest backup in its place (README, Backup and restore)",
        )
    elif not ledger.checked:
        sheet.skip(
            Group.MACHINE,
            "ledger",
            f"{told}: too large for a short look; the daemon reads all of it after each start",
        )
    else:
        copied = (
            f"its last backup {age(ledger.backed_up_at)}"
            if ledger.backed_up_at
            else "no backup was made yet: suno-videod backup FILE"
        )
        sheet.ok(Group.MACHINE, "ledger", f"{told}; it is sound; {copied}")


def _judge_leftovers(sheet: Sheet, found: DiagnosisView) -> None:
    left = found.leftovers
    if left is None:
        sheet.skip(Group.MACHINE, "leftovers", "the ledger or the folder cannot be read")
        return
    if left.quarantined:
        sheet.warn(
            Group.ANSWER,
            "quarantine",
            f"{left.quarantined} callbacks that could not be read, and that nobody has seen yet",
            "see them: suno-videod list --state quarantined; then: suno-videod forget ID",
        )
    if left.files:
        sheet.warn(
            Group.MACHINE,
            "leftovers",
            f"{left.files} partial files ({size(left.size_bytes)}) belong to no open task: "
            f"{', '.join(left.names)}",
            f"they only take room: remove them from {found.videos.path}/.partial/ when you like",
        )
    else:
        sheet.ok(Group.MACHINE, "leftovers", "none")


def _judge_trouble(sheet: Sheet, found: DiagnosisView) -> None:
    if not found.trouble:
        sheet.ok(Group.MACHINE, "log", "no warning and no error since the start")
        return
    shown = "; ".join(
        f"{one.get('event')} {age(str(one['timestamp'])) if one.get('timestamp') else ''}"
        f"{_why(one)}"
        for one in reversed(found.trouble[-TROUBLE_SHOWN:])
    )
    told = f"warnings and errors since the start: {len(found.trouble)}; the last: {shown}"
    if all(one.get("level") == "warning" for one in found.trouble):
        sheet.ok(Group.MACHINE, "log", told)
    else:
        sheet.warn(Group.MACHINE, "log", told, "see all: suno-videod logs --level warning")


def _why(one: Mapping[str, object]) -> str:
    why = one.get("message") or one.get("why") or one.get("reason")
    return f" ({str(why)[:80]})" if why else ""
