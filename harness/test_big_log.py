# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 17: a list of many records is carried, or the kernel says that it is too large.

The machine has no TPM, whose extends would take most of the time. test_no_segment.py has a list
that is too large in a machine with one.
"""

from __future__ import annotations

import pytest

from conftest import Subject, meminfo_kib
from imakexec import scenario
from imakexec.errors import GuestFailure
from imakexec.scenario import Session
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(17)

NO_ROOM = "Not enough memory for the kexec measurement buffer."
REFUSED = ("Cannot allocate memory", "syscall kexec_file_load not available")
"""What kexec says of a load for which there is no memory, or no place (EADDRNOTAVAIL)."""
KILLED = "Out of memory: Killed process"
"""What the kernel says where it has no memory left for the load."""
TOO_LARGE = "Binary measurement list too large."

MUCH_MIB = 1024
LITTLE_MIB = 160

SURE_PERCENT = 20
"""Of memory: a list for whose copy and segment there is room too."""

KASLR = ("CONFIG_RANDOMIZE_BASE=y",)
"""The kernel unpacks itself to where there is room for its init_size, which is not its segment."""

LARGER_THAN_THE_KERNEL = 200_000
"""Records of 100 bytes: more than an init_size of 17 MiB."""

FILL_LOW_MEMORY = 6_000
"""Records that take a little less than the 640 KiB."""


def require_little_memory(trial: Trial) -> None:
    """Skip a test on a kernel that needs much for its checks."""
    if trial.kernel.finds_leaks:
        pytest.skip(f"needs a kernel that runs in {LITTLE_MIB} MiB: this one checks its memory")


def fill_memory(session: Session, percent: int) -> tuple[str, int]:
    """Measure a file so often that the list has that share of memory: its path, and how often."""
    memory = meminfo_kib(session, "MemTotal") << 10
    count = memory * percent // 100 // scenario.LONG_PATHS
    return scenario.measure_again(session, count, length=scenario.LONG_PATHS), count


# By day more than in the list of 5597 records that was reported as lost (A1).
@pytest.mark.parametrize("count", [20_000, pytest.param(200_000, marks=pytest.mark.nightly)])
def test_many_records(trial: Trial, count: int) -> None:
    with trial.running(tpm=False, memory_mib=MUCH_MIB) as session:
        path = scenario.measure_again(session, count)
        trial.execute(trial.load())

    carried = trial.names().count(path)
    trial.claim("records carried", carried == count, f"{carried} of {count} carried")


@pytest.mark.nightly
def test_many_records_where_the_kernel_chooses_its_place(trial: Trial, subject: Subject) -> None:
    trial.case |= {"KASLR"}
    kernel = subject.request(symbols=KASLR)
    with trial.running(kernel=kernel, tpm=False, memory_mib=MUCH_MIB) as session:
        path = scenario.measure_again(session, LARGER_THAN_THE_KERNEL)
        trial.execute(trial.load())

    carried = trial.names().count(path)
    trial.claim("records carried", carried == LARGER_THAN_THE_KERNEL, f"{carried} carried")


@pytest.mark.nightly
@pytest.mark.parametrize("percent", [20, 30, 48])
def test_less_than_half_of_memory(trial: Trial, percent: int) -> None:
    """There may be no room for the list and its segment at once: then the load says so."""
    require_little_memory(trial)
    trial.allow(NO_ROOM, because="there need not be room for the list and its segment")
    handed = []
    with trial.running(tpm=False, memory_mib=LITTLE_MIB) as session:
        path, count = fill_memory(session, percent)
        try:
            loaded = trial.load()
        except GuestFailure as refused:
            assert percent > SURE_PERCENT
            said = f"{refused}{trial.console}"
            trial.claim("it says why", any(why in said for why in (*REFUSED, KILLED)), refused)
        else:
            if any(NO_ROOM in said for said in loaded.complaints):
                trial.claim("there is room", percent > SURE_PERCENT)
                trial.expect_loss("there is no room for a segment", of_all=True)
            else:
                handed.append(path)
            trial.execute(loaded)

    carried = trial.names().count(path)
    trial.claim("records carried", not handed or carried == count, f"{carried} of {count} carried")


@pytest.mark.nightly
def test_more_than_half_of_memory(trial: Trial) -> None:
    require_little_memory(trial)
    trial.allow(TOO_LARGE)
    trial.expect_loss("no segment may be that large", of_all=True)
    with trial.running(tpm=False, memory_mib=LITTLE_MIB) as session:
        fill_memory(session, 55)
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
