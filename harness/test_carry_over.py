# SPDX-License-Identifier: GPL-2.0-only
"""What is measured between load and execute reaches the next kernel, and replays to the quotes."""

from __future__ import annotations

import pytest

from conftest import Lab, positions
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.attest.timeline import MarkerState
from imakexec.kernel.build import KernelRequest
from imakexec.options import Policy


@pytest.mark.parametrize("count", [1, 25, 200])
def test_records_after_the_load_are_carried(lab: Lab, patched: KernelRequest, count: int) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        measured = scenario.generate_activity(session, count)
        scenario.take_snapshot(session, "before-execute")
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
        complaints = loaded.complaints + scenario.complaints(scenario.kernel_log(session))
    run = lab.judge()

    assert complaints == ()
    assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence
    assert [bank.bank for bank in run.judgement.banks] == ["sha1", "sha256"]
    for bank in run.judgement.banks:
        assert bank.matched_records == run.judgement.records
        assert bank.expected == bank.quoted

    names = run.names("after")
    first_boot, second_boot = positions(names, "boot_aggregate")
    [load] = positions(names, "kexec_load")
    [execute] = positions(names, "kexec_execute")
    assert first_boot < load < execute == second_boot - 1
    assert tuple(names[load + 1 : execute]) == measured
    assert run.raw_log("after").startswith(run.raw_log("before-execute"))


def test_markers_tell_the_size_and_count_of_the_list(lab: Lab, patched: KernelRequest) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        scenario.generate_activity(session, 10)
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    run = lab.judge()

    assert run.judgement.timeline is not None
    [handover] = run.judgement.timeline.handovers
    assert handover.markers is MarkerState.COMPLETE
    load, execute = run.judgement.timeline.markers
    for marker in (load, execute):
        assert marker.logged is not None
        assert marker.flaws == ()
        assert marker.logged.count == marker.index == marker.recomputed_count
        assert marker.logged.runtime_size == marker.recomputed_size
        assert marker.logged.segment_size == handover.segment_size
    assert execute.logged is not None
    assert handover.segment_size is not None
    assert execute.logged.runtime_size < handover.bytes_used <= handover.segment_size


def test_a_policy_loaded_by_init_measures_the_same(lab: Lab, patched: KernelRequest) -> None:
    with lab.session(patched, policy=Policy.LOADED) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        measured = scenario.generate_activity(session, 5)
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    run = lab.judge()

    assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence
    names = run.names("after")
    assert tuple(name for name in names if name in measured) == measured
    assert len(positions(names, "kexec_execute")) == 1
