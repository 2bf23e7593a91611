# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 7: what waits is unloaded, or replaced by an image that is handed no list.

The mapping of its segment goes with it: those pages are free, and whoever gets them must not find
the list written into them.
"""

from __future__ import annotations

import pytest

from conftest import mappings
from imakexec import scenario
from imakexec.scenario import Load
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(7), pytest.mark.under_debug]

POISON = "page_poison=1"
"""For the command line: whoever gets a page that was written to after it was given back says so."""

COUNT = 10
MANY = 400_000
"""Bytes of records: so many pages that the image which takes them over has some of them."""


def test_the_mapping_goes_with_the_image(trial: Trial) -> None:
    """Either system call unloads what the other one has loaded."""
    mapped = 1 if trial.kernel.carries_events_after_load else 0
    trial.case |= {"unload"}
    with trial.running(cmdline=POISON) as session:
        for how in (Load.FILE, Load.LEGACY):
            trial.load()
            assert len(mappings(session)) == mapped
            scenario.kexec_unload(session, how)
            trial.claim("no mapping after an unload", not mappings(session), f"after {how}")
        loaded = trial.load()
        assert len(mappings(session)) == mapped
        measured = scenario.generate_activity(session, COUNT)
        trial.execute(loaded)

    carried = set(measured) & set(trial.names())
    trial.claim("records carried", len(carried) == COUNT, f"{len(carried)} of {COUNT}")


@pytest.mark.nightly
@pytest.mark.symbols("PAGE_POISONING")
def test_pages_that_are_free_again_are_left_alone(trial: Trial) -> None:
    """The second legacy image takes the pages that the first one has made free."""
    trial.case |= {"legacy", "pages reused"}
    trial.expect_loss("kexec_load hands no list over", of_all=True)
    with trial.running(cmdline=POISON) as session:
        scenario.measure_bytes(session, MANY, longest=scenario.LONG_PATHS)
        trial.load()
        trial.load(how=Load.LEGACY)
        legacy = trial.load(how=Load.LEGACY)
        trial.claim("no mapping after a legacy load", not mappings(session), mappings(session))
        trial.execute(legacy)


@pytest.mark.symbols("PAGE_POISONING")
def test_a_legacy_image_is_executed_without_a_list(trial: Trial) -> None:
    """What was loaded before it must not be filled in its place."""
    trial.case |= {"legacy"}
    trial.expect_loss("kexec_load hands no list over", of_all=True)
    with trial.running(cmdline=POISON) as session:
        trial.load()
        legacy = trial.load(how=Load.LEGACY)
        trial.claim("no mapping after a legacy load", not mappings(session), mappings(session))
        trial.execute(legacy)
        handed = scenario.is_handed_a_list(session)

    assert not handed
    assert not set(trial.names()) & {"kexec_load", "kexec_execute"}
