# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 24: what ends without a kexec, or without a TPM.

A reboot, a power-off and a panic leave the loaded image alone: nothing is copied. (A cold boot and
what is read after it: test_cold_reset.py.) An execute without an image is refused and changes
nothing. A machine without a TPM carries its list all the same; where the TPM goes away before the
kexec, the verifier notices that the records after it were never extended.
"""

from __future__ import annotations

import pytest

from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.machine.watch import Expected
from imakexec.suite.oracles import Oracle
from imakexec.suite.room import room_after_load
from imakexec.suite.trial import BYPASS, SYSRQ_PANIC, Trial

pytestmark = pytest.mark.scenario(24)

TOO_MUCH = 10_000
"""Bytes of records that the segment has no room for: a kernel that copied them would say so."""

NOT_EXTENDED = "Error Communicating to TPM chip"

REMOVE_TPM = """
set -e
device=$(readlink -f /sys/class/tpm/tpm0/device)
echo "${device##*/}" >"$device/driver/unbind"
"""


@pytest.mark.parametrize(
    ("command", "how"),
    [
        pytest.param("reboot -f", Expected.RESET, id="reboot"),
        pytest.param("poweroff -f", Expected.POWER_OFF, id="poweroff", marks=pytest.mark.nightly),
        pytest.param(
            "echo c >/proc/sysrq-trigger", Expected.PANIC, id="panic", marks=pytest.mark.nightly
        ),
    ],
)
def test_an_end_that_is_no_kexec(trial: Trial, command: str, how: Expected) -> None:
    if how is Expected.PANIC:
        trial.allow(*SYSRQ_PANIC, because="the kernel is told to panic")
    with trial.running() as session:
        trial.load()
        room = room_after_load(session, trial.kernel.extra_memory)
        scenario.measure_bytes(session, room.free + TOO_MUCH)
        trial.end(command, how)

    for text in ("Kexec segment", "Starting new kernel"):
        trial.claim("nothing is copied", text not in trial.console, f"the kernel says {text!r}")
    notified = how is not Expected.PANIC and trial.kernel.carries_events_after_load
    # The series says nothing where it has nothing to do.
    if notified and not trial.kernel.is_ours:
        trial.claim("it is no kexec", "ima: No kexec in progress." in trial.console)


def test_an_execute_without_an_image(trial: Trial) -> None:
    with trial.running() as session:
        refused = session.guest.run(["kexec", "-s", "-e"], session.budget(), check=False)
        trial.claim("refused", refused.code > 0, refused)
        trial.load()
        scenario.kexec_unload(session)
        refused = session.guest.run(["kexec", "-s", "-e"], session.budget(), check=False)
        trial.claim("refused after unload", refused.code > 0, refused)
        measured = scenario.generate_activity(session, 5)
        trial.execute(trial.load())

    carried = [name for name in trial.names() if name in measured]
    trial.claim("records carried", carried == list(measured), f"{len(carried)} of 5 carried")


@pytest.mark.nightly  # By day test_big_log.py has such a machine.
def test_a_machine_without_a_tpm(trial: Trial) -> None:
    trial.case |= {"no TPM"}
    with trial.running(tpm=False) as session:
        loaded = trial.load()
        measured = scenario.generate_activity(session, 5)
        trial.execute(loaded)

    trial.claim("IMA says it", trial.console.count(BYPASS) == 2)
    carried = [name for name in trial.names() if name in measured]
    trial.claim("records carried", carried == list(measured), f"{len(carried)} of 5 carried")


def test_a_tpm_that_is_removed_before_the_kexec(trial: Trial) -> None:
    trial.case |= {"TPM removed"}
    trial.allow(NOT_EXTENDED, because="the TPM is not there any more")
    trial.waive(Oracle.REPLAY, Oracle.COUNTER, because="a TPM that is not there is not extended")
    with trial.running() as session:
        session.guest.tpm_close(session.budget())
        session.guest.run(["sh", "-c", REMOVE_TPM], session.budget())
        measured = scenario.generate_activity(session, 5)
        loaded = trial.load()
        measured += scenario.generate_activity(session, 5)
        before = scenario.read_list(session)
        scenario.kexec_execute(session, loaded)
        after = scenario.read_list(session)

    trial.claim("the kernel says it", trial.console.count(NOT_EXTENDED) >= len(measured))
    carried = [name for name in trial.names() if name in measured]
    trial.claim("records carried", carried == list(measured), f"{len(carried)} of 10 carried")
    trial.claim("the list is carried", after.startswith(before), "not all of it is")
    trial.claim("noticed", trial.judgement.verdict is Verdict.OUT_OF_SYNC, trial.judgement.sentence)
