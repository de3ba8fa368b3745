"""Tries the public URL as the provider would: name, connection, TLS, test callback, refusals.

Rule: a test callback goes the whole way of a real one and leaves nothing behind but a number in the
tally; that it was this daemon which answered is asked of the daemon itself.
"""

import http.client
import ipaddress
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from daemon.cli.doctor.findings import Group, Sheet
from daemon.cli.doctor.wire import (
    CONNECT_SECONDS,
    HANDSHAKE_SECONDS,
    RESOLVE_SECONDS,
    Deadline,
    Heard,
    Target,
    ask,
    connect,
    days_left,
    look_at_certificate,
    resolve,
)
from daemon.cli.group import Exit
from daemon.client import DaemonRefused, NoDaemon
from daemon.rules.notice import sign
from daemon.rules.rehearsal import HEADER, WRONG_TOKEN, make_body

PROVIDER_SECONDS: Final = 15.0
"""The provider hangs up then."""
SLOW_SECONDS: Final = 5.0
REFUSAL_SECONDS: Final = 5.0
DAYS_WARN: Final = 21.0
DAYS_FAIL: Final = 3.0
ADDRESSES_LIMIT: Final = 4
_MASKED: Final = "***"
_EXPIRED: Final = 10
_SELF_SIGNED: Final = frozenset({18, 19})
_NO_ISSUER: Final = frozenset({20, 21})
_WRONG_NAME: Final = frozenset({62, 64})

_FIREWALL: Final = (
    "no answer at all is what a firewall does: open the port here (ufw allow {port}/tcp) and in "
    "the security group of your hoster; until then every callback is lost and videos are found "
    "only by asking"
)
_HAIRPIN: Final = "tried from this machine: the provider may come another way"

FindTest = Callable[[str], Mapping[str, Any] | None]
"""Asks the daemon what became of a test; None: it knows of none."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What a test callback needs: where to, with which token and key, and whom to ask about it."""

    target: Target
    token: str
    hmac_key: str | None
    callback_path: str
    listen: str
    find_test: FindTest | None
    """None: no daemon answers."""
    deadline: Deadline

    @property
    def shown(self) -> str:
        """The URL without its secret."""
        where = f"{self.target.scheme}://{self.target.place}"
        if self.target.socket_path:
            where = f"unix:{self.target.socket_path}:"
        return f"{where}{self.target.path}/{_MASKED}"


def reach(sheet: Sheet, target: Target, deadline: Deadline) -> str | None:
    """Note whether the target can be reached; return an address to talk to, None: there is none."""
    if target.socket_path:
        return ""
    try:
        addresses = resolve(target.host, target.port, deadline.left(RESOLVE_SECONDS))
    except OSError as error:
        said = "no answer in time" if isinstance(error, TimeoutError) else error.strerror
        sheet.fail(
            Group.NETWORK,
            "DNS",
            f"{target.host} does not resolve ({said}): no callback can arrive",
            "make an A record with this machine's public address, or correct callback.public_url",
            Exit.TRANSIENT,
        )
        return None
    private = [address for address in addresses if not _is_public(address)]
    if private:
        sheet.warn(
            Group.NETWORK,
            "DNS",
            f"{target.host} leads to {private[0]}, a private address: no provider reaches it",
            "callback.public_url needs a name whose addresses are public; this one works on this "
            "machine or network only",
        )
    else:
        sheet.ok(Group.NETWORK, "DNS", f"{target.host} is {', '.join(addresses[:3])}")
    address = _connect(sheet, target, addresses, deadline)
    if address is None or target.scheme != "https":
        return address
    return address if _shake_hands(sheet, target, address, deadline) else None


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return not (parsed.is_private or parsed.is_loopback or parsed.is_link_local)


def _connect(sheet: Sheet, target: Target, addresses: list[str], deadline: Deadline) -> str | None:
    good, bad = [], {}
    for address in addresses[:ADDRESSES_LIMIT]:
        began = time.monotonic()
        try:
            connect(target, address, deadline.left(CONNECT_SECONDS)).close()
            good.append((address, time.monotonic() - began))
        except OSError as error:
            bad[address] = error
    told = ", ".join(f"{address}: {_say(error)}" for address, error in bad.items())
    silent = any(isinstance(error, TimeoutError) for error in bad.values())
    mend = (
        _FIREWALL.format(port=target.port)
        if silent
        else f"start what is to listen on port {target.port} there: the proxy, or the daemon"
    )
    if not good:
        sheet.fail(
            Group.NETWORK,
            "connection",
            f"{target.place} is not reached ({told})",
            mend,
            Exit.TRANSIENT,
        )
        return None
    if bad:
        sheet.warn(
            Group.NETWORK,
            "connection",
            f"{len(good)} of {len(good) + len(bad)} addresses work ({told}); a provider that takes "
            "another one reaches nobody",
            f"{mend}; or remove the record of an address that is not this machine's",
        )
    else:
        sheet.ok(
            Group.NETWORK,
            "connection",
            f"{target.place} in {good[0][1] * 1000:.0f} ms ({_HAIRPIN})",
        )
    return good[0][0]


def _shake_hands(sheet: Sheet, target: Target, address: str, deadline: Deadline) -> bool:
    """Note how it stands with TLS; return whether a secret may be sent."""
    context = ssl.create_default_context()
    try:
        with (
            connect(target, address, deadline.left(CONNECT_SECONDS)) as sock,
            context.wrap_socket(sock, server_hostname=target.host) as secured,
        ):
            version = secured.version()
    except ssl.SSLCertVerificationError as error:
        until = look_at_certificate(target, address, deadline.left(HANDSHAKE_SECONDS))
        sheet.fail(Group.NETWORK, "TLS", *_judge_certificate(error, until))
        return False
    except OSError as error:
        sheet.fail(
            Group.NETWORK,
            "TLS",
            f"no handshake with {target.place} ({_say(error)}): no callback can arrive",
            "something else than HTTPS listens there: look at the proxy, or at callback.tls_*",
        )
        return False
    until = look_at_certificate(target, address, deadline.left(HANDSHAKE_SECONDS))
    if until is None:
        sheet.ok(Group.NETWORK, "TLS", f"{version}, the chain verifies")
    else:
        judge_days(sheet, "TLS", f"{version}, the chain verifies", days_left(until))
    return True


def judge_days(sheet: Sheet, check: str, told: str, days: float) -> None:
    """Note how long a certificate is still good."""
    mend = "renew it (certbot renew), and see why that does not happen by itself"
    shown = f"{told}; it ends in {days:.0f} days" if days > 0 else f"{told}; it has ended"
    if days < DAYS_FAIL:
        sheet.fail(Group.NETWORK, check, f"{shown}: then no callback arrives any more", mend)
    elif days < DAYS_WARN:
        sheet.warn(Group.NETWORK, check, shown, mend)
    else:
        sheet.ok(Group.NETWORK, check, shown)


def _judge_certificate(
    error: ssl.SSLCertVerificationError, until: datetime | None
) -> tuple[str, str]:
    code = error.verify_code
    when = f" (valid until {until:%Y-%m-%d})" if until else ""
    means = "the provider may refuse to send callbacks; the token is not sent there"
    if code == _EXPIRED:
        return f"the certificate has ended{when}: {means}", "renew it: certbot renew"
    if code in _SELF_SIGNED:
        return (
            f"the certificate is self-signed{when}: {means}",
            "get one that everybody trusts, such as from Let's Encrypt (certbot, or Caddy)",
        )
    if code in _NO_ISSUER:
        return (
            f"the chain leads to nobody that is trusted here{when}: {means}",
            "serve the whole chain (fullchain.pem, and not cert.pem), from a public authority",
        )
    if code in _WRONG_NAME:
        return (
            f"the certificate is for another name{when}: {means}",
            "get a certificate for the name in callback.public_url",
        )
    return f"{error.verify_message}{when}: {means}", "look at the certificate of the proxy"


def rehearse(sheet: Sheet, errand: Errand, address: str) -> None:
    """Send a test callback, and note what came of it."""
    nonce = secrets.token_hex(16)
    headers = {"Content-Type": "application/json", HEADER: nonce}
    if errand.hmac_key is not None:
        at = int(time.time())
        headers["X-Webhook-Timestamp"] = str(at)
        headers["X-Webhook-Signature"] = sign(errand.hmac_key, nonce, at)
    heard = _send(
        sheet,
        errand,
        address,
        f"{errand.target.path}/{errand.token}",
        "test callback",
        seconds=PROVIDER_SECONDS,
        body=make_body(nonce),
        headers=headers,
    )
    if heard is None:
        return
    if heard.is_redirect:
        sheet.fail(
            Group.ANSWER,
            "test callback",
            f"{heard.status}, a redirect to {_hide(heard.location, errand)!r}: the provider does "
            "not follow it, so no callback arrives",
            "put the address that it leads to into callback.public_url, or take the redirect away",
        )
        return
    note = _find_note(errand, nonce)
    if heard.status == http.client.OK:
        _judge_ok(sheet, errand, heard, note)
    else:
        told, mend = _judge_refused(errand, heard, note)
        sheet.fail(Group.ANSWER, "test callback", told, mend)


def _find_note(errand: Errand, nonce: str) -> Mapping[str, Any] | None:
    try:
        return errand.find_test(nonce) if errand.find_test else None
    except (NoDaemon, DaemonRefused, TimeoutError):
        # It went away meanwhile, and with it what it knew.
        return None


def _judge_ok(sheet: Sheet, errand: Errand, heard: Heard, note: Mapping[str, Any] | None) -> None:
    time_told = f"{heard.seconds:.2f} s of the {PROVIDER_SECONDS:g} s that the provider waits"
    if errand.find_test is None:
        sheet.skip(
            Group.ANSWER,
            "test callback",
            f"200 after {time_told}, but no daemon can be asked whether that was its answer",
        )
    elif note is None:
        server = f" (it calls itself {heard.server[:40]!r})" if heard.server else ""
        sheet.fail(
            Group.ANSWER,
            "test callback",
            f"something answered 200, but it was not this daemon{server}: callbacks are "
            "acknowledged and thrown away",
            f"let the proxy hand {errand.callback_path}/ on to {errand.listen}; see "
            "systemd/nginx.conf or systemd/Caddyfile. Videos are found only by asking until then",
        )
    elif heard.seconds > SLOW_SECONDS:
        sheet.warn(
            Group.ANSWER,
            "test callback",
            f"200 from this daemon, but only after {time_told}",
            "look at the disk's speed and the load below: a later answer makes the provider "
            "send again, at most three times",
        )
    else:
        sheet.ok(
            Group.ANSWER,
            "test callback",
            f"200 from this daemon after {time_told}; it came from {note['remote'] or 'a socket'}",
        )


def _judge_refused(errand: Errand, heard: Heard, note: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return what happened and how to mend it."""
    lost = "no callback arrives, and videos are found only by asking"
    cause = note["cause"] if note else None
    match cause:
        case "wrong_path":
            came = f"{note['path'] if note else ''}/{_MASKED}".replace("//", "/")
            return (
                (
                    f"404: the request reached this daemon as {came}, and callbacks are heard "
                    f"below {errand.callback_path}/: {lost}"
                ),
                (
                    "the proxy changes the path: with nginx, proxy_pass must have nothing behind "
                    "the host (no slash); or set callback.path to what arrives"
                ),
            )
        case "wrong_token":
            return (
                (
                    f"404: this daemon runs with another token than the configuration has: {lost} "
                    "for whoever uses the new URL"
                ),
                "reload it (systemctl reload suno-videod), or restart it",
            )
        case "wrong_method":
            return (
                f"404: what was sent as POST came as something else: {lost}",
                "the proxy changes the method: take the rewriting rule or the redirect away",
            )
        case "bad_signature":
            return (
                "401: the signature does not fit: callbacks that are signed with this key are lost",
                "reload the daemon after callback.hmac_keys changed; then look at the clock",
            )
        case "not_stored":
            return (
                "503: the ledger did not commit, so the provider is told to come again",
                "look at disk and ledger below",
            )
        case None if heard.is_refusal:
            return (
                f"404 from a suno-videod that is not this one: {lost} here",
                f"let the proxy hand {errand.callback_path}/ on to {errand.listen}",
            )
    shown = _hide(heard.shown(), errand)
    if heard.status in {502, 503, 504}:
        return (
            f"{shown}: the proxy does not reach the daemon: {lost}",
            f"start the daemon, and let the proxy hand the path on to {errand.listen}",
        )
    return (
        f"{shown}, and not this daemon's answer: {lost}",
        (
            f"let the proxy hand {errand.callback_path}/ on to {errand.listen}, as "
            "systemd/nginx.conf and systemd/Caddyfile do"
        ),
    )


def provoke(sheet: Sheet, errand: Errand, address: str) -> None:
    """Send what must be refused, and note who refuses it."""
    path = f"{errand.target.path}/{WRONG_TOKEN}{secrets.token_hex(8)}"
    for check, method, body in (("wrong token", "POST", b"{}"), ("plain GET", "GET", None)):
        heard = _send(
            sheet, errand, address, path, check, seconds=REFUSAL_SECONDS, method=method, body=body
        )
        if heard is None:
            continue
        if heard.is_refusal:
            sheet.ok(Group.ANSWER, check, "404 from the daemon, as it should be")
        elif heard.is_redirect:
            sheet.fail(
                Group.ANSWER,
                check,
                f"{heard.status}, a redirect to {_hide(heard.location, errand)!r}, and not the "
                "daemon's 404",
                "take the redirect away: the provider does not follow it",
            )
        else:
            sheet.fail(
                Group.ANSWER,
                check,
                f"{_hide(heard.shown(), errand)}, and not the daemon's 404: something else answers",
                f"let the proxy hand all below {errand.callback_path}/ on to {errand.listen}",
            )


def _send(
    sheet: Sheet,
    errand: Errand,
    address: str,
    path: str,
    check: str,
    *,
    seconds: float,
    **given: Any,
) -> Heard | None:
    if errand.deadline.is_over:
        sheet.skip(Group.ANSWER, check, "no time is left")
        return None
    limit = errand.deadline.left(seconds)
    try:
        return ask(errand.target, address, path, limit, **given)
    except (OSError, http.client.HTTPException) as error:
        timed_out = isinstance(error, TimeoutError)
        told = f"no answer within {limit:.0f} s" if timed_out else f"no answer: {_say(error)}"
        sheet.fail(
            Group.ANSWER,
            check,
            f"{told}: the provider sends again, at most three times, then never",
            f"see whether the daemon runs and the proxy reaches it at {errand.listen}",
            Exit.TRANSIENT if isinstance(error, OSError) else Exit.UNEXPECTED,
        )
        return None


def _say(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS failed"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _hide(text: str, errand: Errand) -> str:
    """Show what others said without our secret, which they may repeat."""
    return text.replace(errand.token, _MASKED)[:120]
