# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 17: a list of many records is carried, or the kernel says that it is too large.

The machine has no TPM, whose extends would take most of the time. test_no_segment.py has a list
that is too large in a machine with one.
"""

from __future__ import annotations

import pytest

from conftest import meminfo_kib
from imakexec import scenario
from imakexec.suite.oracles import Oracle
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(17)

TOO_LARGE = "Binary measurement list too large."

MUCH_MIB = 1024
LITTLE_MIB = 128

FILL_LOW_MEMORY = 6_000
"""Records that take a little less than the 640 KiB."""


# By day more than in the list of 5597 records that was reported as lost (A1).
@pytest.mark.parametrize("count", [10_000, pytest.param(200_000, marks=pytest.mark.nightly)])
def test_many_records(trial: Trial, count: int) -> None:
    with trial.running(tpm=False, memory_mib=MUCH_MIB) as session:
        path = scenario.measure_again(session, count)
        trial.execute(trial.load())

    carried = trial.names().count(path)
    trial.claim("records carried", carried == count, f"{carried} of {count} carried")


@pytest.mark.nightly
def test_more_than_half_of_memory(trial: Trial) -> None:
    trial.allow(TOO_LARGE)
    trial.expect_loss("no segment may be that large")
    trial.waive(Oracle.BOOTS, because="the earlier boot is lost with the list")
    with trial.running(tpm=False, memory_mib=LITTLE_MIB) as session:
        memory = meminfo_kib(session, "MemTotal") << 10
        count = memory * 55 // 100 // scenario.LONG_PATHS
        scenario.measure_again(session, count, length=scenario.LONG_PATHS)
        loaded = trial.load()
        trial.claim("the kernel says it", any(TOO_LARGE in said for said in loaded.complaints))
        trial.execute(loaded)

    trial.claim("a list of its own", trial.names().count("boot_aggregate") == 1)


def test_a_list_that_fills_low_memory(trial: Trial) -> None:
    """It leaves nothing below 640 KiB for the code that x86 starts its CPUs with."""
    trial.case |= {"low memory"}
    with trial.running(tpm=False, memory_mib=MUCH_MIB) as session:
        scenario.measure_again(session, FILL_LOW_MEMORY)
        trial.execute(trial.load())
