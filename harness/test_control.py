# SPDX-License-Identifier: GPL-2.0-only
"""The base without the series loses what is measured after the load, and we must say so.

This is the control of every run: a harness that takes this kernel for good proves nothing.
"""

from __future__ import annotations

from conftest import Lab, positions
from imakexec import scenario
from imakexec.attest import Reason, Verdict
from imakexec.kernel.build import KernelRequest


def test_the_plain_base_loses_records_after_the_load(lab: Lab, plain: KernelRequest) -> None:
    with lab.session(plain) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        measured = scenario.generate_activity(session, 25)
        scenario.take_snapshot(session, "before-execute")
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    run = lab.judge()

    assert (run.judgement.verdict, run.judgement.reason) == (
        Verdict.OUT_OF_SYNC,
        Reason.NO_MARKERS,
    ), run.judgement.sentence
    assert set(measured) <= set(run.names("before-execute"))
    assert not set(measured) & set(run.names("after"))
    assert len(positions(run.names("after"), "boot_aggregate")) == 2
    assert all(bank.matched_records is None for bank in run.judgement.banks)


def test_the_plain_base_carries_what_was_measured_before_the_load(
    lab: Lab, plain: KernelRequest
) -> None:
    with lab.session(plain) as session:
        scenario.boot(session)
        measured = scenario.generate_activity(session, 25)
        # kexec -e is the same program as the load: nothing new is measured after it.
        loaded = scenario.kexec_load(session)
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    run = lab.judge()

    assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence
    assert set(measured) <= set(run.names("after"))
