# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 19: what was loaded is damaged before it is executed.

The purgatory holds every segment against a digest of the load, and loops for ever over what is not
as it was. A list that is written at execute must be left out of that, and nothing else may be.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import PAGE, change_every_copy
from imakexec import scenario
from imakexec.arch import Feature
from imakexec.attest.handover import HEADER_SIZE
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(19), pytest.mark.needs(Feature.VERIFYING_PURGATORY)]


def test_a_changed_initramfs_is_not_started(trial: Trial, ram: Path) -> None:
    with trial.running(ram=ram) as session:
        loaded = trial.load()
        initrd = session.guest.read_file(scenario.NEXT_INITRD, session.budget())
        middle = len(initrd) // 2 // PAGE * PAGE
        assert change_every_copy(ram, initrd[middle : middle + PAGE]) > 0
        trial.execute_refused(loaded)


def test_a_changed_list_is_not_started_if_it_was_copied_at_load(trial: Trial, ram: Path) -> None:
    """Later there is nothing to change but what the kernel writes itself, which must be started."""
    with trial.running(ram=ram) as session:
        scenario.generate_activity(session, 5)
        log = trial.snapshot("before-load")
        assert HEADER_SIZE + len(log) < PAGE
        loaded = trial.load()
        changed = change_every_copy(ram, log, offset=HEADER_SIZE)
        copied_at_load = not trial.kernel.carries_events_after_load
        trial.claim("a list in memory if it is copied at load", bool(changed) == copied_at_load)
        if copied_at_load:
            trial.execute_refused(loaded)
        else:
            trial.execute(loaded)
