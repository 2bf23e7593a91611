# SPDX-License-Identifier: GPL-2.0-only
"""A segment that is too small costs the last records, and the loss explains itself."""

from __future__ import annotations

from conftest import Lab, positions
from imakexec import scenario
from imakexec.attest import MeasurementLog, Reason, Verdict
from imakexec.kernel.build import KernelRequest


def test_what_does_not_fit_is_cut_at_a_record_and_reported(lab: Lab, tight: KernelRequest) -> None:
    with lab.session(tight) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        measured = scenario.generate_activity(session, 100)
        scenario.take_snapshot(session, "before-execute")
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
        complaints = scenario.complaints(scenario.kernel_log(session))
    run = lab.judge()

    assert complaints == (), "the next kernel restores whole records and has nothing to complain of"
    assert (run.judgement.verdict, run.judgement.reason) == (
        Verdict.TRUNCATED,
        Reason.SEGMENT_FULL,
    ), run.judgement.sentence
    names = run.names("after")
    _, second_boot = positions(names, "boot_aggregate")
    assert len(positions(names, "kexec_load")) == 1
    assert positions(names, "kexec_execute") == []

    before = run.raw_log("before-execute")
    carried = MeasurementLog.parse(run.raw_log("after")).offset(second_boot)
    assert run.raw_log("after")[:carried] == before[:carried]
    assert 0 < len(set(measured) - set(names)) < len(measured)

    assert run.judgement.timeline is not None
    [handover] = run.judgement.timeline.handovers
    assert handover.whole_prefix
    assert handover.segment_size is not None
    assert handover.next_size is not None
    assert handover.bytes_used <= handover.segment_size < handover.bytes_used + handover.next_size


def test_the_kernel_says_how_many_records_it_left_behind(lab: Lab, tight: KernelRequest) -> None:
    with lab.session(tight) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        scenario.generate_activity(session, 100)
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    run = lab.judge()

    console = (run.folder / "console.log").read_text()
    carried = positions(run.names("after"), "boot_aggregate")[1]
    assert f"Kexec segment is full, carrying {carried} of " in console
