# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 14: whatever the templates of two kernels, the list is carried, or its loss is reported.

The next kernel restores the records of any template whose fields it knows, whatever its own is. It
refuses those of the oldest template, "ima", and formats whose text is longer than the longest name;
both are losses by design, of the whole list, which it must report.
"""

from __future__ import annotations

import re

import pytest

from conftest import Lab, Subject, buffer_of, carried_in, records_of
from imakexec import scenario
from imakexec.attest import MeasurementLog
from imakexec.attest.handover import HEADER_SIZE
from imakexec.project import find_project
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(14)

RECORDS = 600
"""With 4 bytes too few each, the half page to spare is used up."""

FILES = 10
"""Few, because some kernels count records of a format too small."""

LONG_FORMAT = "d-ng|n-ng|sig|d-modsig|modsig|evmsig|xattrnames|xattrlengths|xattrvalues"
"""71 characters: the longest name of a template has 68 (ima_template.c)."""

LEGACY = "ima_template=ima"
TOO_LONG = f"ima_template_fmt={LONG_FORMAT}"

UNKNOWN_FORMAT = "n-ng|d-ngv2"
OLDER = "harness/probe/older-templates.patch"
"""A kernel to which d-ngv2 is unknown."""

LIKE_A_TEMPLATE = ("ima_template_fmt=d|n", "ima_template_fmt=d-ng|n-ng|sig")
"""Formats that are those of the templates "ima" and "ima-sig"."""

PAIRS = [
    ("ima_template=ima-sig", "ima_template=ima-ngv2"),
    ("ima_template=ima-ngv2", "ima_template=ima-sigv2"),
    ("ima_template=ima-sigv2", "ima_template=ima-modsig"),
    ("ima_template=ima-modsig", "ima_template=ima-ng"),
    ("ima_template=evm-sig", LEGACY),
    *((parameter, "") for parameter in LIKE_A_TEMPLATE),
    ("ima_template_fmt=n-ng|d-ng|sig|n", "ima_template_fmt=n-ng|d-ng"),
]

WRITTEN = ("", LEGACY, *(parameter for parameter, _ in PAIRS))
"""All templates once."""


def words(parameter: str) -> frozenset[str]:
    """What suite/defects.py calls a template."""
    kind = "custom format" if parameter.startswith("ima_template_fmt=") else "named"
    more = {"format of a template"} if parameter in LIKE_A_TEMPLATE else set()
    return frozenset({parameter, kind} | more)


def claim_sized(trial: Trial, log: MeasurementLog) -> None:
    """What a marker says of the list is what is written of it."""
    wrong = []
    for marker in (record for record in log if record.name.startswith("kexec_")):
        _, size, count = map(int, re.findall(rb"\d+", marker.buf or b""))
        if (size, count) != (HEADER_SIZE + marker.offset, marker.index):
            wrong.append(f"{marker.name}: {size} bytes for {HEADER_SIZE + marker.offset}")
    trial.claim("sized by what is written", not wrong, ", ".join(wrong))


@pytest.mark.parametrize(
    ("parameter", "next_parameter"),
    [PAIRS[0], *(pytest.param(*pair, marks=pytest.mark.nightly) for pair in PAIRS[1:])],
)
def test_template_matrix(trial: Trial, parameter: str, next_parameter: str) -> None:
    trial.case |= words(parameter)
    with trial.running(cmdline=parameter) as session:
        measured = scenario.generate_activity(session, FILES)
        trial.execute(trial.load(without=parameter, append=next_parameter))

    assert set(measured) <= set(trial.names())
    claim_sized(trial, trial.log())


@pytest.mark.parametrize(
    ("parameter", "refusal"),
    [
        # Its records lack a length, so that the kernel stumbles before it sees the name.
        (LEGACY, "entry header: nr of fields mismatch"),
        (TOO_LONG, "attempting to restore a template name that is too long"),
    ],
    ids=["ima", "too-long"],
)
def test_a_template_that_is_not_restored(trial: Trial, parameter: str, refusal: str) -> None:
    trial.case |= words(parameter)
    trial.expect_loss("the next kernel refuses the template, and with it the list", of_all=True)
    trial.allow(refusal, "Failed to restore the measurement list")
    with trial.running(cmdline=parameter) as session:
        scenario.generate_activity(session, FILES)
        trial.execute(trial.load(without=parameter))

    assert refusal in trial.console
    assert "Failed to restore the measurement list: -22" in trial.console
    assert trial.names()[0] == "boot_aggregate"
    assert trial.names().count("boot_aggregate") == 1
    claim_sized(trial, trial.log("before-execute-0"))


@pytest.mark.nightly
def test_a_field_that_the_next_kernel_does_not_know(
    trial: Trial, subject: Subject, lab: Lab
) -> None:
    trial.case |= {"unknown field"}
    trial.expect_loss("the next kernel does not know a field of the records", of_all=True)
    refusal = f'attempting to initialize the template "{UNKNOWN_FORMAT}" failed'
    trial.allow(refusal)
    parameter = f"ima_template_fmt={UNKNOWN_FORMAT}"
    older = lab.workshop.kernel(subject.request(further=[find_project() / OLDER])).image
    with trial.running(cmdline=parameter, next_kernel=older) as session:
        scenario.generate_activity(session, FILES)
        trial.execute(trial.load(without=parameter))

    assert refusal in trial.console
    reported = "Failed to restore the measurement list" in trial.console
    trial.claim("reported by the next kernel", reported)


@pytest.mark.tight
@pytest.mark.nightly
@pytest.mark.kernels("patched")
@pytest.mark.parametrize("parameter", WRITTEN)
def test_the_whole_list_is_handed_over(trial: Trial, parameter: str) -> None:
    with trial.running(cmdline=parameter) as session:
        scenario.generate_activity(session, RECORDS)
        loaded = trial.load(append=scenario.KEEPS_BUFFER)
        buffer = buffer_of(trial.hand_over(loaded))

    before, carried = trial.readings[-1].log, carried_in(buffer)
    assert not carried.cut
    assert buffer.log.startswith(before)
    assert len(carried.log) == len(records_of(before)) + 1
    claim_sized(trial, carried.log)
