# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 1: what is measured between load and execute is in the next kernel's list.

It stands behind what the load itself has measured and before the next boot_aggregate, with markers
before kexec_execute. What was measured before the load is carried by every kernel.
"""

from __future__ import annotations

import pytest

from conftest import positions
from imakexec import scenario
from imakexec.attest import Reason
from imakexec.options import Policy
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(1)

A_RECORD = 105
"""Bytes that a record of these takes, at most."""


def claim_carried(trial: Trial, measured: tuple[str, ...]) -> None:
    """All records of the gap are carried, in order and in their place."""
    names = trial.names()
    carried = tuple(name for name in names if name in measured)
    trial.claim(
        "records carried", carried == measured, f"{len(carried)} of {len(measured)} carried"
    )
    _, second_boot = positions(names, "boot_aggregate", count=2)
    if carried:
        image = max(names.index(scenario.NEXT_KERNEL), names.index(scenario.NEXT_INITRD))
        assert image < names.index(carried[0])
        assert names.index(carried[-1]) < second_boot
    if trial.kernel.has_markers:
        [load] = positions(names, "kexec_load", count=1)
        [execute] = positions(names, "kexec_execute", count=1)
        assert tuple(names[load + 1 : execute]) == measured
        assert execute == second_boot - 1


@pytest.mark.under_debug
@pytest.mark.parametrize(
    "count", [1, pytest.param(5, marks=pytest.mark.smoke), 15, pytest.param(200)]
)
def test_gap_events(trial: Trial, count: int) -> None:
    trial.case |= {"gap"}
    if trial.kernel.carries_events_after_load and count * A_RECORD > trial.kernel.extra_memory:
        pytest.skip(f"{trial.kernel.release} has no room for {count} records: see scenario 4")
    with trial.running() as session:
        loaded = trial.load()
        measured = scenario.generate_activity(session, count)
        trial.execute(loaded)

    claim_carried(trial, measured)
    banks = trial.judgement.banks
    assert [bank.bank for bank in banks] == ["sha1", "sha256"]
    if trial.kernel.carries_events_after_load:
        assert all(bank.matched_records == trial.judgement.records for bank in banks)
        assert all(bank.expected == bank.quoted for bank in banks)
    else:
        assert trial.judgement.reason is Reason.NO_MARKERS
        assert all(bank.matched_records is None for bank in banks)


@pytest.mark.kernels("patched")
def test_a_policy_loaded_by_init_measures_the_same(trial: Trial) -> None:
    with trial.running(policy=Policy.LOADED) as session:
        loaded = trial.load()
        measured = scenario.generate_activity(session, 5)
        trial.execute(loaded)

    claim_carried(trial, measured)


@pytest.mark.kernels("plain")
def test_what_was_measured_before_the_load_is_carried(trial: Trial) -> None:
    with trial.running() as session:
        measured = scenario.generate_activity(session, 25)
        # kexec -e is the same program as the load: nothing new is measured after it.
        trial.execute(trial.load())

    assert set(measured) <= set(trial.names())
