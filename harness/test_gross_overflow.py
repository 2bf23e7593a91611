# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 4: a list that has long outgrown its segment costs the last records, and says why.

The next kernel boots with a prefix of the list, as long as the segment allows. Both kernels report
the loss, and the verifier calls it one: cut off, by a segment that was full.
"""

from __future__ import annotations

import pytest

from conftest import OVERFLOW, RESTORE_ERRORS, positions
from imakexec import scenario
from imakexec.attest import Reason, Verdict
from imakexec.attest.handover import HEADER_SIZE
from imakexec.suite.room import room_after_load
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(4), pytest.mark.tight, pytest.mark.under_debug]

A_RECORD = 100
"""Bytes that a record of these files takes, at least."""

TOO_MANY = 40
"""Records that have no room."""


@pytest.mark.smoke
def test_gross_overflow(trial: Trial) -> None:
    trial.expect_loss("the list is longer than its segment")
    trial.allow(*OVERFLOW)
    if trial.kernel.copies_bytes:
        trial.allow(*RESTORE_ERRORS)
    with trial.running() as session:
        loaded = trial.load()
        room = room_after_load(session, trial.kernel.extra_memory)
        measured = scenario.generate_activity(session, room.free // A_RECORD + TOO_MANY)
        trial.execute(loaded)

    before, names = trial.log("before-execute-0"), trial.names()
    _, carried = positions(names, "boot_aggregate", count=2)
    ends = [HEADER_SIZE + before.offset(count) for count in range(len(before) + 1)]
    fitting = max(count for count, end in enumerate(ends) if end <= room.segment)
    trial.claim("all that fit are carried", carried == fitting, f"{carried} of {fitting}")
    assert names[:carried] == trial.names("before-execute-0")[:carried]
    assert set(measured) - set(names)
    assert positions(names, "kexec_execute") == []

    report = "Dump measurements failed. Error:-22"
    if trial.kernel.whole_records:
        report = f"Kexec segment is full, carrying {carried} of {len(before) + 1} measurements."
    trial.claim("reported by the first kernel", report in trial.console)
    due = trial.kernel.copies_bytes and ends[fitting] < room.segment
    complains = all(text in trial.console for text in RESTORE_ERRORS)
    trial.claim("restore error of the next kernel", complains == due, f"{complains=}")

    timeline = trial.judgement.timeline
    assert timeline is not None
    assert len(timeline.handovers) == 1
    [handover] = timeline.handovers
    assert handover.whole_prefix
    if not (trial.kernel.has_markers and trial.kernel.carries_events_after_load):
        assert trial.judgement.verdict is Verdict.OUT_OF_SYNC
        assert trial.judgement.reason is Reason.NO_MARKERS
        return
    assert trial.judgement.reason is Reason.SEGMENT_FULL
    assert handover.segment_size == room.segment
    assert handover.next_size is not None
    assert handover.bytes_used <= room.segment < handover.bytes_used + handover.next_size
