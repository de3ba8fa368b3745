"""The verbs that find out what is wrong: `doctor` and `test-callback`."""

import click

from daemon.cli.group import Exit, Invocation, as_json, cli, print_json


@cli.command()
@click.argument("task_id", required=False)
@as_json
@click.pass_obj
def doctor(invocation: Invocation, task_id: str | None, *, as_json: bool) -> int:
    """Check everything, or one task, and say how to mend what is wrong.

    Nothing is changed, stored or paid for. It takes some seconds, at most a minute.

    Exit code, by what has to be mended first: 3 the configuration, 4 the API key or the credits,
    9 a disk, 5 the task, 1 anything else, 6 the daemon or the network does not answer, which may
    pass. Warnings alone are 0.
    """
    # The other verbs start faster without.
    from daemon.cli.doctor import examining  # noqa: PLC0415
    from daemon.cli.doctor.findings import show  # noqa: PLC0415
    from daemon.client import NoDaemon  # noqa: PLC0415

    if task_id is None:
        sheet = examining.examine(invocation)
    else:
        try:
            sheet = examining.examine_task(invocation, task_id)
        except TimeoutError:
            raise NoDaemon(
                "the daemon does not answer in time", "look at all of it: suno-videod doctor"
            ) from None
    if as_json:
        print_json([{"findings": sheet.plain(), "exit_code": sheet.exit_code()}])
    else:
        show(sheet.findings)
    return sheet.exit_code()


@cli.command("test-callback")
@as_json
@click.pass_obj
def test_callback(invocation: Invocation, *, as_json: bool) -> int:
    """Send a test callback to the public URL and time the answer against 15 s.

    It goes the whole way of a real one, with token and signature, and leaves no task and nothing
    in quarantine. Without callback.public_url it goes to the listener on this machine.

    Exit code: 0 when this daemon answered 200 in time, 6 when it cannot be reached in time, 3 when
    there is no token yet, 1 for everything else.
    """
    from daemon.cli.doctor.examining import examine_callback  # noqa: PLC0415 - likewise
    from daemon.cli.doctor.findings import Verdict, show  # noqa: PLC0415 - likewise

    sheet, url = examine_callback(invocation)
    code = sheet.exit_code()
    tested = any(
        one.check == "test callback" and one.verdict in {Verdict.OK, Verdict.WARNING}
        for one in sheet.findings
    )
    if not tested and not code:
        # Nobody could say that it was this daemon.
        code = Exit.TRANSIENT
    if as_json:
        print_json([{"url": url or None, "findings": sheet.plain(), "exit_code": int(code)}])
    else:
        if url:
            click.echo(f"POST {url}")
        show(sheet.findings)
    return code
