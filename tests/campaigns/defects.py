"""Defects that somebody could plant in the daemon, and the test that has to notice each.

Rule: an entry names the text that it replaces, which stands in the tree exactly once, so a daemon
that moved on cannot leave an entry behind in silence. What has to notice it is as narrow as can be.
"""

from dataclasses import dataclass
from typing import Final

POWERCUTS: Final = ("powercuts", "--size", "15", "--seed", "20261122")
"""Only a power cut shows what was not synced; root alone can play one."""


@dataclass(frozen=True, slots=True)
class Change:
    """One text of a file, and what takes its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Defect:
    """A defect, and the tests, or the campaign, that must fail because of it."""

    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...] = ()
    campaign: tuple[str, ...] = ()

    @property
    def is_quick(self) -> bool:
        """Whether a test of a second or two has to notice it."""
        return not self.campaign


def _defect(name: str, file: str, old: str, new: str, *tests: str) -> Defect:
    return Defect(name, (Change(f"daemon/{file}", old, new),), tuple(f"tests/{t}" for t in tests))


def _cut(name: str, *changes: tuple[str, str, str]) -> Defect:
    made = tuple(Change(f"daemon/{file}", old, new) for file, old, new in changes)
    return Defect(name, made, campaign=POWERCUTS)


DEFECTS: Final = (
    _cut(
        "the ledger is synced as NORMAL",
        ("database.py", '"PRAGMA synchronous = FULL"', '"PRAGMA synchronous = NORMAL"'),
        ("database.py", "_FULL: Final = 2", "_FULL: Final = 1"),
    ),
    _cut(
        "the partial file is not synced",
        ("disk.py", "        sync(descriptor)\n", "        pass\n"),
    ),
    _cut(
        "the folder is not synced after the rename",
        (
            "disk.py",
            "            os.fsync(folder)\n            os.fsync(partials)\n",
            "",
        ),
    ),
    _cut(
        "stored is committed before the file is in place",
        (
            "download.py",
            "            held = await self._disk.publish(part, path, task.sha256)\n",
            (
                "            at = self._now()\n"
                "            moved = await self._move(task, Cause.PUBLISHED, stored_at=at)\n"
                "            held = await self._disk.publish(part, path, task.sha256)\n"
                "            return moved\n"
            ),
        ),
    ),
    _defect(
        "a callback is acknowledged before its commit",
        "callback.py",
        "    await receiver.intake.commit(heard)\n",
        "    committing = asyncio.ensure_future(receiver.intake.commit(heard))\n"
        "    committing.add_done_callback(lambda done: done.exception())\n"
        "    return Answered.ACCEPTED\n",
        "stations/test_callback.py::test_a_commit_that_fails_is_a_503_and_the_next_one_works",
    ),
    _defect(
        "the end of a body without length is believed",
        "attempt.py",
        "            await self._fetch_again()\n",
        "            part.total_bytes = part.end\n",
        "stations/test_download.py::test_two_different_downloads_without_a_length_prove_nothing",
    ),
    Defect(
        "Content-Range is ignored",
        (
            Change(
                "daemon/rules/transfer.py",
                "if (first, last) != (request.start, end - 1):",
                "if first < 0:",
            ),
            Change(
                "daemon/rules/transfer.py",
                "return Offer(first, total, request.validator, framed)",
                "return Offer(request.start, total, request.validator, framed)",
            ),
        ),
        ("tests/stations/test_download_hosts.py::test_a_part_that_does_not_continue_is_dropped",),
    ),
    _defect(
        "the part is kept when the whole comes",
        "attempt.py",
        "                await part.reset()\n                segment = Segment(0)\n",
        "                segment = Segment(0)\n",
        "stations/test_download_hosts.py::test_another_version_takes_the_place_of_the_old_one",
    ),
    _defect(
        "a weak ETag continues a part",
        "rules/transfer.py",
        """return etag if re.fullmatch(r'"[\\x21\\x23-\\x7e]{0,200}"', etag) else None""",
        "return etag",
        "stations/test_download.py::test_without_a_strong_validator_it_begins_anew",
    ),
    _defect(
        "bodies are decompressed on the way",
        "outbound.py",
        "        auto_decompress=False,\n",
        "        auto_decompress=True,\n",
        "stations/test_outbound.py::test_a_compressed_body_is_handed_on_as_it_came",
    ),
    _defect(
        "the overlap is not compared",
        "attempt.py",
        "if block and block != await self._part.read(start, len(block)):",
        "if block and not await self._part.read(start, len(block)):",
        "stations/test_download.py::test_the_same_validator_over_other_bytes_is_caught",
    ),
    _defect(
        "the boxes of a film are not walked",
        "disk.py",
        "                film = inspect(file, size_bytes)\n",
        '                film = Film(*(None,) * 6, "faststart")\n',
        "stations/test_download.py::test_what_is_no_whole_film_never_gets_a_name",
    ),
    _defect(
        "CALLBACK_EXCEPTION is a failure",
        "rules/notice.py",
        '"CALLBACK_EXCEPTION": (Evidence.PENDING, None),',
        '"CALLBACK_EXCEPTION": (Evidence.FAILURE, Reason.GENERATE_FAILED),',
        "rules/test_notice_answers.py::test_flags",
    ),
    _defect(
        "the clock alone ends a task",
        "rules/verdict.py",
        "    if not lost:\n        return None\n",
        "    if not lost and now < task.deadline_at:\n        return None\n",
        "stations/test_patience.py::test_a_deadline_without_proof_ends_nothing",
    ),
    _defect(
        "tasks end while a gate is shut",
        "patience.py",
        "on_trial = not any(self.gates.is_shut(name) for name in TRIAL_GATES)",
        "on_trial = True",
        "stations/test_patience.py::test_while_a_gate_is_shut_nothing_is_lost",
    ),
    _defect(
        "a cancellation is swallowed",
        "disk.py",
        "            running.exception()\n        raise\n",
        "            return running.result()\n        raise\n",
        "stations/test_disk.py::test_what_was_begun_is_finished_before_a_cancellation_is_felt",
    ),
    _defect(
        "a sync that failed is tried again",
        "disk.py",
        "        path.unlink(missing_ok=True)\n        raise\n",
        "        sync(descriptor)\n",
        "stations/test_disk.py::test_a_file_whose_sync_failed_is_never_trusted_again",
    ),
    _defect(
        "a write is cancelled with its caller",
        "disk.py",
        "return await asyncio.shield(running)",
        "return await running",
        "stations/test_disk.py::test_what_was_begun_is_finished_before_a_cancellation_is_felt",
    ),
    _defect(
        "the file is closed under a write",
        "partial.py",
        "            await undisturbed(self._write(start, block))\n",
        "            await self._write(start, block)\n",
        "stations/test_partial.py::test_a_cancelled_call_leaves_no_file_open_and_no_false_record",
    ),
    _defect(
        "progress is recorded before the sync",
        "partial.py",
        "        try:\n            await self._disk.run(sync_or_remove,",
        "        await self._record(self.spans, self.total_bytes, self.validator)\n"
        "        try:\n            await self._disk.run(sync_or_remove,",
        "stations/test_partial.py::test_a_file_whose_sync_fails_is_not_recorded",
    ),
    _defect(
        "a wrong key fails the task",
        "rules/verdict.py",
        "        if answer.outcome in _GATED:\n",
        "        if answer.outcome is Outcome.KEY:\n"
        '            return Verdict(Cause.DECLINED, {"reason": Reason.UNAUTHORIZED})\n'
        "        if answer.outcome in _GATED:\n",
        "stations/test_poller.py::test_a_wrong_key_holds_all_questions_and_no_task_fails",
    ),
    _defect(
        "the queue is filled once and never again",
        "queue.py",
        "            await sleep_until(heard, wait_ms / 1000)\n",
        "            await asyncio.Event().wait()\n",
        "stations/test_queue.py::test_a_task_is_found_by_the_bell_and_by_its_time",
    ),
    _defect(
        "a host may ask for any pause",
        "rules/schedule.py",
        "return max(pause, min(retry_after_ms, RETRY_AFTER_LIMIT_MS))",
        "return max(pause, retry_after_ms)",
        "rules/test_schedule.py::test_the_host_cannot_shorten_or_stretch_a_pause",
    ),
    _defect(
        "the provider may ask for any pause",
        "provider.py",
        "min(int(wish * 1000), RETRY_AFTER_LIMIT_MS)",
        "int(wish * 1000)",
        "stations/test_provider.py",
    ),
    _defect(
        "claims outlive their process",
        "store.py",
        "            await store.release_claims()\n",
        "            await store.counts()\n",
        "stations/test_store.py::test_a_claim_has_one_owner_until_the_process_ends",
    ),
    _defect(
        "the ballast is never given up",
        "ballast.py",
        "            self._path.unlink()\n",
        "            raise OSError\n",
        "stations/test_ballast.py::test_a_full_disk_is_not_felt_while_there_is_ballast",
    ),
    _defect(
        "a failed sync of the ledger is survived",
        "store.py",
        "    if failure.fatal:\n        raise failure\n",
        "",
        "stations/test_hard_times.py::test_only_a_failed_sync_or_a_damaged_file_ends_the_process",
        "stations/test_callback.py",
        "campaigns/test_syscalls.py::test_a_callback_whose_commit_was_not_synced_is_refused",
    ),
    _defect(
        "a log that was taken away is not missed",
        "inspection.py",
        "    elif lock.was_open and not log.exists():\n",
        "    elif lock.was_open and lock.is_new:\n",
        "stations/test_damage.py::test_a_log_that_was_taken_away_is_missed",
    ),
    _defect(
        "a damaged log is believed",
        "inspection.py",
        "    if damage:\n",
        "    if damage and lock.is_new:\n",
        "stations/test_damage.py::test_a_log_that_was_cut_is_found",
    ),
    _defect(
        "the watchdog is fed although a loop is late",
        "watchdog.py",
        "        if not late:\n",
        "        if True:\n",
        "stations/test_watchdog.py::test_a_loop_that_stops_is_shown_and_starves_it",
    ),
    _defect(
        "the gate of a host never opens again",
        "hosts.py",
        "            self._gates.open(_PREFIX + host)\n            return\n",
        "            return\n",
        "stations/test_hosts.py::test_a_host_that_answers_is_in_no_trouble",
    ),
    _defect(
        "a lost answer is no doubt",
        "provider.py",
        "receipt = Receipt(fate=Fate.UNKNOWN,",
        "receipt = Receipt(fate=Fate.DEFERRED,",
        "stations/test_submitter.py::test_two_cuts_leave_it_open",
    ),
    _defect(
        "a call that a crash interrupted is sent like a new one",
        "intents.py",
        "SET calling = 0, doubts = doubts + 1, unheard = unheard + 1,\n",
        "SET calling = 0,\n",
        "stations/test_intents.py::test_a_call_that_a_crash_interrupted_is_in_doubt",
    ),
    _defect(
        "a decision overwrites newer news",
        "store.py",
        "WHERE id = :id AND version = :version RETURNING",
        "WHERE id = :id AND :version RETURNING",
        "stations/test_store.py::test_a_decision_is_made_anew_when_the_row_changed",
    ),
    _defect(
        "a file that is there already is overwritten",
        "disk.py",
        "            os.link(part, name, src_dir_fd=partials, dst_dir_fd=folder, "
        "follow_symlinks=False)\n",
        "            os.replace(part, name, src_dir_fd=partials, dst_dir_fd=folder)\n",
        "stations/test_disk.py",
        "stations/test_download_publish.py",
    ),
    _defect(
        "a failure takes a success back",
        "statements.py",
        "CASE WHEN excluded.cause = 'declined' AND task.link IS NOT NULL THEN 'hinted'\n",
        "CASE WHEN excluded.cause = 'declined' AND false THEN 'hinted'\n",
        "stations/test_store_receive.py::test_a_callback_moves_a_task_as_the_table_says",
    ),
    _defect(
        "two workers may have one task",
        "store.py",
        "WHERE task_id = :task_id AND claimed_at IS NULL AND fetch_at <= :now",
        "WHERE task_id = :task_id AND fetch_at <= :now",
        "stations/test_store.py::test_a_claim_has_one_owner_until_the_process_ends",
    ),
    _defect(
        "a callback is believed before it is confirmed",
        "callback.py",
        'trusted=receiver.section().trust == "callback",',
        "trusted=True,",
        "stations/test_callback.py::test_under_confirm_a_callback_only_makes_the_question_due",
    ),
    _defect(
        "a callback that nobody can read is dropped",
        "callback.py",
        "    if notice is None:\n",
        "    if notice is None:\n        return Answered.QUARANTINED\n    if notice is None:\n",
        "stations/test_callback.py::test_what_cannot_be_read_is_kept_and_acknowledged",
    ),
    _defect(
        "a commit that hangs is an error of ours",
        "callback.py",
        "    except (StoreFailed, TimeoutError) as failure:\n",
        "    except StoreFailed as failure:\n",
        "stations/test_callback.py::test_a_commit_that_hangs_is_a_503",
    ),
    _defect(
        "a second daemon takes the ledger, too",
        "lock.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "stations/test_database.py::test_a_second_daemon_is_refused_while_the_first_one_lives",
    ),
    _defect(
        "damage that was found is not written down",
        "soundness.py",
        "            note_damage(state_dir, found)\n",
        "",
        "stations/test_damage.py::test_a_large_ledger_is_checked_beside_the_work",
    ),
    _defect(
        "a backup is not checked",
        "backup.py",
        "        if found is not None:\n",
        '        if found == "never":\n',
        "stations/test_backup.py::test_a_damaged_ledger_is_no_backup",
    ),
    _defect(
        "a restored backup asks about nothing",
        "restore.py",
        "await store.restoration.ask_again(now) if terms.has_key else 0",
        "0",
        "stations/test_backup.py",
    ),
    _defect(
        "a restored backup sends its wishes again",
        "restore.py",
        "    await store.restoration.hold_wishes()\n",
        "",
        "stations/test_backup.py",
    ),
    _defect(
        "a file that is shorter on the disk is believed",
        "disk.py",
        "            if found != size_bytes:\n",
        "            if found > size_bytes:\n",
        "stations/test_disk.py::test_what_is_no_whole_film_is_spoiled",
    ),
    _defect(
        "what the record says beyond the file is believed",
        "partial.py",
        "partial.spans = Spans.parse(spans).cut(on_disk)",
        "partial.spans = Spans.parse(spans)",
        "stations/test_partial.py::test_only_what_record_and_disk_agree_on_is_believed",
    ),
    _defect(
        "a length of the whole is not compared at the end",
        "attempt.py",
        "        if segment.end is not None and position < segment.end:\n",
        "        if segment.end is not None and position < 0:\n",
        "stations/test_download.py::test_a_cut_is_never_taken_for_the_end",
        "stations/test_download_hosts.py",
    ),
    _defect(
        "a hop is not judged again",
        "outbound.py",
        "    link = next_link(here, location, policy)\n",
        "    link = replace(here, text=location)\n",
        "stations/test_outbound.py",
        "stations/test_address_guard.py",
    ),
    _defect(
        "one answer is enough to disown a task",
        "rules/schedule.py",
        "        denials.count >= UNKNOWN_LIMIT\n",
        "        denials.count >= 1\n",
        "rules/test_schedule.py::test_unknown_by_proof",
        "stations/test_poller.py::test_denials_in_one_breath_are_one",
    ),
    _defect(
        "a full disk charges the task",
        "rules/verdict.py",
        "            attempts = max(0, task.attempts - (task.state == State.WANTED))\n",
        "            attempts = task.attempts\n",
        "rules/test_verdict_failures.py::test_our_own_disk_charges_no_attempt",
    ),
    _defect(
        "a call that a crash interrupted is never sent again",
        "fittings.py",
        "    await store.intents.recover(now())\n",
        "",
        "stories/test_submit_stories.py::test_a_kill_between_intent_and_answer_loses_nothing",
    ),
)
