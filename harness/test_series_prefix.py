# SPDX-License-Identifier: GPL-2.0-only
"""Every prefix of the series builds without a warning, boots, and carries what it is meant to."""

from __future__ import annotations

import pytest

from conftest import Kernels, Lab, positions
from imakexec import scenario
from imakexec.attest import Reason, Verdict

COPIES_AT_EXECUTE = 5
"""The first patch that carries what is measured after the load."""
MEASURES_MARKERS = 7
"""The first patch with kexec_load and kexec_execute."""


@pytest.mark.parametrize("patches", range(1, 8))
def test_a_prefix_builds_boots_and_carries(lab: Lab, kernels: Kernels, patches: int) -> None:
    wanted = kernels.request(patches=patches, extra_memory_kb=None)
    assert kernels.build(wanted).warnings == ()

    with lab.session(wanted) as session:
        scenario.boot(session)
        scenario.kexec_load(session)  # the second load replaces the first
        loaded = scenario.kexec_load(session)
        measured = scenario.generate_activity(session, 8)
        scenario.take_snapshot(session, "before-execute")
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
        complaints = loaded.complaints + scenario.complaints(scenario.kernel_log(session))
    run = lab.judge()

    assert complaints == ()
    names = run.names("after")
    if patches < COPIES_AT_EXECUTE:
        expected = (Verdict.OUT_OF_SYNC, Reason.NO_MARKERS)
        assert not set(measured) & set(names)
    else:
        expected = (Verdict.IN_SYNC, Reason.MATCH)
        assert set(measured) <= set(names)
    assert (run.judgement.verdict, run.judgement.reason) == expected, run.judgement.sentence
    loads = 2 if patches >= MEASURES_MARKERS else 0
    assert len(positions(names, "kexec_load")) == loads
    assert len(positions(names, "kexec_execute")) == loads // 2
