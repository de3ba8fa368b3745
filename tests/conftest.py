"""A skip that only says what this machine lacks is a failure where nothing may be lacking (CI).

Rule: such a skip gives its reason in the words "needs root" or "needs the package NAME".
"""

import re
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

# A slow machine is no failure: what takes too long is found by the timeout of the whole test.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

# A shell starts what it runs in the background with SIGINT ignored, and every child inherits that:
# the stories that press Ctrl-C would press in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LACKING = re.compile(r"\bneeds (root|the package \S+)")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch that `make test` sets in CI."""
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="fail tests that skip for want of root or of a system package",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn such a skip into a failure."""
    report = yield
    skipped = report.skipped and LACKING.search(str(report.longrepr))
    if skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report
