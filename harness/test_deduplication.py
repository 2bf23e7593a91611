# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 23: what is measured again has one record per boot, and one more after a kexec.

The hash table of a boot has what that boot has measured and not what it has restored. A kernel may
do without the table: then every measurement is a record.
"""

from __future__ import annotations

from collections import Counter

import pytest

from conftest import Subject, positions
from imakexec.scenario import Session
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(23)

NO_TABLE = ("CONFIG_IMA_DISABLE_HTABLE=y",)

PATH = "/same"
# What was written is measured again when it is read, whether or not it has changed.
MEASURE = f"echo same >{PATH} && read -r line <{PATH}"


def measure(session: Session) -> None:
    """Measure the same file with the same content."""
    session.guest.run(["sh", "-c", MEASURE], session.budget())


def records_of_the_file(trial: Trial, **options: object) -> list[int]:
    """Measure it twice, load, once more, execute, and twice there: its records in each boot."""
    with trial.running(**options) as session:
        measure(session)
        measure(session)
        loaded = trial.load()
        measure(session)
        trial.execute(loaded)
        measure(session)
        measure(session)
    return [trial.names(snapshot).count(PATH) for snapshot in ("before-execute-0", "end")]


def test_one_record_per_boot(trial: Trial) -> None:
    seen = records_of_the_file(trial)
    trial.claim("one record per boot", seen == [1, 2], seen)
    for snapshot in ("before-execute-0", "end"):
        records = trial.records(snapshot)
        last_boot = positions(trial.names(snapshot), "boot_aggregate")[-1]
        digests = Counter(record.digest for record in records[last_boot:])
        trial.claim("no digest twice in a boot", max(digests.values()) == 1, snapshot)


def test_every_measurement_without_the_table(trial: Trial, subject: Subject) -> None:
    trial.case |= {"no table"}
    seen = records_of_the_file(trial, kernel=subject.request(symbols=NO_TABLE))
    trial.claim("a record per measurement", seen == [3, 5], seen)
