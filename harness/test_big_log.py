# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 17: a list of many records is carried, or the kernel says that it is too large.

The machine has no TPM, whose extends would take most of the time. test_no_segment.py has a list
that is too large in a machine with one.
"""

from __future__ import annotations

import re

import pytest

from imakexec import scenario
from imakexec.scenario import Session
from imakexec.suite.oracles import Oracle
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(17)

BYPASS = "activating TPM-bypass"
TOO_LARGE = "Binary measurement list too large."

MUCH_MIB = 1024
LITTLE_MIB = 128


# By day more than in the list of 5597 records that was reported as lost (A1).
@pytest.mark.parametrize("count", [10_000, pytest.param(200_000, marks=pytest.mark.nightly)])
def test_many_records(trial: Trial, count: int) -> None:
    trial.allow(BYPASS)
    with trial.running(tpm=False, memory_mib=MUCH_MIB) as session:
        path = scenario.measure_again(session, count)
        trial.execute(trial.load())

    carried = trial.names().count(path)
    trial.claim("records carried", carried == count, f"{carried} of {count} carried")


@pytest.mark.nightly
def test_more_than_half_of_memory(trial: Trial) -> None:
    trial.allow(BYPASS, TOO_LARGE)
    trial.expect_loss("no segment may be that large")
    trial.waive(Oracle.BOOTS, because="the earlier boot is lost with the list")
    with trial.running(tpm=False, memory_mib=LITTLE_MIB) as session:
        count = memory(session) * 55 // 100 // scenario.LONG_PATHS
        scenario.measure_again(session, count, length=scenario.LONG_PATHS)
        loaded = trial.load()
        trial.claim("the kernel says it", any(TOO_LARGE in said for said in loaded.complaints))
        trial.execute(loaded)

    trial.claim("a list of its own", trial.names().count("boot_aggregate") == 1)


def memory(session: Session) -> int:
    """Bytes of memory that the guest's kernel manages, of which no list may take half."""
    text = session.guest.read_file("/proc/meminfo", session.budget()).decode()
    [kib] = re.findall(r"MemTotal: +(\d+) kB", text)
    return int(kib) << 10
