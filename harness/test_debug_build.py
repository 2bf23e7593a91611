# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 18: a kernel that reports its own mistakes has none to report.

It watches locking, RCU, memory, notifiers and lists, and looks for memory that was lost; the
oracles read its reports.
"""

from __future__ import annotations

import pytest

from imakexec import scenario
from imakexec.scenario import Load
from imakexec.suite.defects import LOST
from imakexec.suite.trial import Trial

pytestmark = [
    pytest.mark.scenario(18),
    pytest.mark.debug_build,
    pytest.mark.nightly,
    pytest.mark.symbols("CRASH_DUMP"),
]

CPUS = 2
CRASH_MEMORY = "crashkernel=160M"
RECORDS = 40


def test_loads_leave_no_leak_and_no_report(trial: Trial) -> None:
    with trial.running(cmdline=CRASH_MEMORY) as session:
        for _ in range(2):
            trial.load()
            trial.load(how=Load.CRASH)
            scenario.generate_activity(session, RECORDS)
            trial.load()
            scenario.kexec_unload(session)
            trial.load(how=Load.LEGACY)
            scenario.kexec_unload(session, Load.CRASH)
        scenario.kexec_unload(session)


def test_a_storm_during_execute_breaks_no_rule(trial: Trial) -> None:
    if not trial.kernel.suspends_on_execute:
        trial.waive(*LOST, because="what is measured after the copy is lost: scenario 5")
        trial.allow("Error Communicating to TPM chip", because="the TPM may have been shut down")
    with trial.running(cpus=CPUS):
        trial.load()
        trial.execute(trial.load(), meanwhile=scenario.storm(CPUS, programs=CPUS))

    if trial.kernel.carries_events_after_load:
        assert scenario.storm_paths(CPUS, programs=CPUS) <= set(trial.names()), "there was no storm"
