# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 24: a cold boot is told from a kexec by the TPM's counters, whatever the list is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conftest import Lab, positions
from imakexec import scenario
from imakexec.attest import Reason, Verdict, judge
from imakexec.attest.power import TransitionKind
from imakexec.kernel.build import KernelRequest

pytestmark = pytest.mark.scenario(24)


def test_a_cold_reset_is_not_taken_for_a_kexec(lab: Lab, patched: KernelRequest) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        scenario.kexec_load(session)
        scenario.generate_activity(session, 5)
        scenario.take_snapshot(session, "before-reset")
        scenario.cold_reset(session)
        scenario.take_snapshot(session, "after", quote_after=True)
    run = lab.judge()

    assert [step.kind for step in run.judgement.transitions] == [TransitionKind.COLD]
    assert (run.judgement.kexecs, run.judgement.cold_boots) == (0, 1)
    before, after = run.judgement.snapshots
    assert (before.reset_count, before.restart_count) != (after.reset_count, after.restart_count)
    assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence
    assert len(positions(run.names("after"), "boot_aggregate")) == 1
    assert "kexec_load" not in run.names("after")


def test_a_list_from_before_the_reset_is_stale(lab: Lab, patched: KernelRequest) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        # Without it both boots have the same list, and the old one is as good as the new.
        scenario.generate_activity(session, 3)
        old = scenario.take_snapshot(session, "before-reset")
        scenario.cold_reset(session)
        scenario.take_snapshot(session, "after", quote_after=True)
    evidence = lab.judge().evidence
    before, after = evidence.snapshots
    forged = replace(evidence, snapshots=(before, replace(after, log=old)))

    judgement = judge(forged)
    assert (judgement.verdict, judgement.reason) == (Verdict.TAMPERED, Reason.STALE_LIST)
