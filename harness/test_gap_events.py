# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 1: what is measured between load and execute is in the next kernel's list.

It stands behind what the load itself has measured and before the next boot_aggregate, with markers
before kexec_execute.
"""

from __future__ import annotations

import pytest

from conftest import positions
from imakexec import scenario
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(1), pytest.mark.under_debug]


@pytest.mark.parametrize(
    "count", [1, pytest.param(5, marks=pytest.mark.smoke), 15, pytest.param(200)]
)
def test_gap_events(trial: Trial, count: int) -> None:
    with trial.running() as session:
        loaded = trial.load()
        measured = scenario.generate_activity(session, count)
        trial.execute(loaded)

    names = trial.names()
    carried = [name for name in names if name in measured]
    trial.claim("records carried", carried == list(measured), f"{len(carried)} of {count} carried")
    _, second_boot = positions(names, "boot_aggregate")
    if carried:
        image = max(names.index(scenario.NEXT_KERNEL), names.index(scenario.NEXT_INITRD))
        assert image < names.index(carried[0])
        assert names.index(carried[-1]) < second_boot
    if trial.kernel.has_markers:
        [load], [execute] = positions(names, "kexec_load"), positions(names, "kexec_execute")
        assert names[load + 1 : execute] == list(measured)
        assert execute == second_boot - 1
