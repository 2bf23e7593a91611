# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 22: a list from which records were taken is handed on without them, and whole.

Records can be staged, read by whoever saves them, and deleted. Those that are still staged at a
kexec are carried; those that were deleted are not. What was saved and what the next kernel has are
the whole list together, each record once.
"""

from __future__ import annotations

import errno
import os
import re

import pytest

from conftest import Subject
from imakexec import scenario
from imakexec.attest import MeasurementLog
from imakexec.kernel.build import KernelRequest
from imakexec.scenario import MEASUREMENTS, Session
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(22)

STAGED = f"{MEASUREMENTS}_staged"
COUNT = "/sys/kernel/security/ima/runtime_measurements_count"
RECORDS = 10

# kexec_execute is the last record before the suspension. What is then refused is named by dd, which
# waits for it: the shell has no words for an error, and a program takes too long to start. The
# reports of every device that is shut down stretch the time until the jump.
DELETE_WHEN_SUSPENDED = f"""
busybox mkfifo /run/delete
busybox dd bs=2 of={STAGED} conv=notrunc </run/delete 2>/dev/kmsg &
exec 9>/run/delete
echo 1 >/sys/module/kernel/parameters/initcall_debug
echo 20 >/proc/sys/kernel/printk_delay
(
    read -r before <{COUNT}
    read -r now <{COUNT}
    while [ "$now" = "$before" ]; do read -r now <{COUNT}; done
    printf 'D\\n' >&9
) &
"""


@pytest.fixture
def staging(subject: Subject, trial: Trial) -> KernelRequest:
    """The kernel under test, in a configuration that can stage."""
    if trial.kernel.has_staging:
        return subject.request()
    if not subject.has_ima_option("IMA_STAGING"):
        pytest.skip(f"no log staging before 7.2; this is {trial.kernel.release}")
    return subject.request(symbols=["CONFIG_IMA_STAGING=y"])


def request(session: Session, what: str, *, of: str = STAGED) -> None:
    """Have the kernel stage or delete records."""
    session.guest.write_file(of, f"{what}\n".encode(), session.budget())


def stage(trial: Trial) -> bytes:
    """Stage all records and read them."""
    request(trial.session, "A")
    trial.set_aside = trial.session.guest.read_file(STAGED, trial.session.budget())
    assert trial.set_aside
    trial.snapshot("staged")
    return trial.set_aside


def test_staged_records_are_carried_first(trial: Trial, staging: KernelRequest) -> None:
    with trial.running(kernel=staging) as session:
        measured = [*scenario.generate_activity(session, RECORDS)]
        staged = stage(trial)
        measured += scenario.generate_activity(session, RECORDS)
        loaded = trial.load()
        measured += scenario.generate_activity(session, RECORDS)
        trial.execute(loaded)
        assert trial.set_aside == b"", "the next kernel has them"

    assert trial.readings[-1].own.startswith(staged)
    assert [name for name in trial.names() if name in measured] == measured


@pytest.mark.parametrize("which", ["staged", "first"])
def test_deleted_records_stay_where_they_were_saved(
    trial: Trial, staging: KernelRequest, which: str
) -> None:
    with trial.running(kernel=staging) as session:
        measured = [*scenario.generate_activity(session, RECORDS)]
        if which == "staged":
            saved = stage(trial)
            request(session, "D")
        else:
            whole = session.guest.read_file(MEASUREMENTS, session.budget())
            log = MeasurementLog.parse(whole)
            request(session, str(RECORDS), of=MEASUREMENTS)
            left = session.guest.read_file(MEASUREMENTS, session.budget())
            assert len(MeasurementLog.parse(left)) == len(log) - RECORDS
            saved = trial.set_aside = whole.removesuffix(left)
        trial.snapshot("deleted")
        measured += scenario.generate_activity(session, RECORDS)
        loaded = trial.load()
        measured += scenario.generate_activity(session, RECORDS)
        trial.execute(loaded)
        assert trial.set_aside == saved, "the next kernel has none of them"

    assert [name for name in trial.names() if name in measured] == measured


def test_nothing_is_deleted_once_the_list_is_copied(trial: Trial, staging: KernelRequest) -> None:
    with trial.running(kernel=staging, cpus=2) as session:
        scenario.generate_activity(session, RECORDS)
        staged = stage(trial)
        loaded = trial.load()
        scenario.generate_activity(session, RECORDS)
        trial.snapshot("before-execute")
        trial.execute(loaded, meanwhile=DELETE_WHEN_SUSPENDED)

    said = re.findall(rf"dd: .*{STAGED}.*: (.*)", trial.console)
    assert said == [os.strerror(errno.ESTALE)]
    carried = trial.readings[-1].own.startswith(staged)
    assert carried, "what was refused to be deleted is handed on"
