"""S8: machine-made requests against the admin API's own OpenAPI document, over a real daemon.

More of them, each time others: `SCHEMATHESIS_EXAMPLES=2000 .venv/bin/pytest` with this file.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from daemon.config import environment
from daemon.simulator.faults import Faults
from tests.stories.harness import API_KEY
from tests.stories.stage import Stage, failure, success

ADMIN_TOKEN = "token-of-the-admin-in-these-tests"
EXAMPLES = environment().get("SCHEMATHESIS_EXAMPLES", "8")
# What is wrong with a token is a test of its own: the sixth wrong one in a minute is a 429. What a
# printable text is, no JSON schema can say.
NOT_HERE = "ignored_auth,positive_data_acceptance,missing_required_header"


async def test_s8_every_answer_is_as_the_document_says_whatever_is_asked(
    stage: Stage, tmp_path: Path
) -> None:
    """No 5xx, no status and no shape that is not told; a method that is not there is refused."""
    provider = await stage.provider()
    daemon = await stage.daemon(
        provider,
        admin={"listen": "127.0.0.1:0", "token": ADMIN_TOKEN},
        log={"level": "info"},
    )
    task_id = provider.add_task(Faults(callbacks=()))
    await daemon.post(success(task_id, provider.tasks[task_id].video_url))
    await daemon.post(failure("failed-one"))
    await daemon.post(b"unreadable")
    seed = sum(tmp_path.name.encode())
    argv = [
        *(sys.executable, "-m", "schemathesis.cli", "run"),
        f"{daemon.ready['admin_tcp']}/openapi.json",
        *("-H", f"Authorization: Bearer {ADMIN_TOKEN}"),
        *("--max-examples", EXAMPLES, "--seed", str(seed), "--workers", "1"),
        *("--exclude-checks", NOT_HERE, "--warnings", "off"),
        *("--suppress-health-check", "all", "--report", "json", "--report-dir", str(tmp_path)),
    ]
    done = await asyncio.to_thread(
        subprocess.run,
        argv,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert await daemon.get("/healthz") == {"status": "ok"}
    log = json.dumps(daemon.log())
    assert "http.failed" not in log
    assert API_KEY not in log
