# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 10: a kernel says in its own list what it loads, what it executes, and how full it was.

kexec_load stands where an image was loaded and kexec_execute at the end of what a boot has
measured. Both are critical data: measured if the policy says so, and checkable like any record.
"""

from __future__ import annotations

import hashlib
import re

import pytest

from conftest import positions
from imakexec import scenario
from imakexec.attest.timeline import MarkerState
from imakexec.options import Policy
from imakexec.scenario import Session
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(10), pytest.mark.under_debug]

PAYLOAD = re.compile(
    rb"kexec_segment_size=\d+;ima_binary_runtime_size=\d+;ima_runtime_measurements_count=\d+;"
)
"""The same three fields in the series and in 6.16 and later."""

# As the message of the patch that adds the events says.
CHECK = """
awk '$5 == "kexec_load" { print $6; exit }' \\
        ascii_runtime_measurements | xxd -r -p | sha256sum
"""
ASCII = "/sys/kernel/security/ima/ascii_runtime_measurements"


def require_markers(trial: Trial) -> None:
    """Skip a kernel that measures no kexec."""
    if not trial.kernel.has_markers:
        pytest.skip(f"{trial.kernel.release} measures no kexec: 6.16 and the series do")


def assert_checkable_in_the_guest(session: Session) -> None:
    """The digest of the first kexec_load is that of its payload, as the ASCII list shows both."""
    script = f"cd /sys/kernel/security/ima; {CHECK}"
    computed = session.guest.run(["sh", "-c", script], session.budget()).text.split()[0]
    lines = session.guest.read_file(ASCII, session.budget()).decode().splitlines()
    [first, *_] = [line.split() for line in lines if " kexec_load " in line] or [[]]
    assert len(first) == 6, "there is no kexec_load"
    pcr, _, template, digest, name, _ = first
    assert (pcr, template, name) == ("10", "ima-buf", "kexec_load")
    assert digest == f"sha256:{computed}"


@pytest.mark.smoke
def test_marker_records(trial: Trial) -> None:
    require_markers(trial)
    with trial.running() as session:
        trial.load()
        loaded = trial.load()
        measured = scenario.generate_activity(session, 10)
        assert_checkable_in_the_guest(session)
        trial.execute(loaded)

    names, records = trial.names(), trial.records()
    first_boot, second_boot = positions(names, "boot_aggregate", count=2)
    loads = positions(names, "kexec_load")
    [execute] = positions(names, "kexec_execute", count=1)
    assert len(loads) == 2
    assert first_boot < loads[0]
    assert execute == second_boot - 1
    assert tuple(names[loads[1] + 1 : execute]) == measured

    for record in (records[index] for index in (*loads, execute)):
        payload = record.buf or b""
        assert PAYLOAD.fullmatch(payload), payload
        assert record.file_digest is not None
        assert record.file_digest.algorithm == "sha256"
        assert record.file_digest.value == hashlib.sha256(payload).digest()

    timeline = trial.judgement.timeline
    assert timeline is not None
    assert len(timeline.handovers) == 1
    [handover] = timeline.handovers
    assert handover.markers is MarkerState.COMPLETE
    assert [marker.index for marker in timeline.markers] == [*loads, execute]
    for marker in timeline.markers:
        assert marker.logged is not None
        assert marker.flaws == ()
        assert marker.logged.count == marker.index == marker.recomputed_count
        assert marker.logged.runtime_size == marker.recomputed_size <= marker.logged.segment_size
    last_load, executed = (marker.logged for marker in timeline.markers[1:])
    assert last_load is not None
    assert executed is not None
    assert last_load.segment_size == executed.segment_size == handover.segment_size
    assert executed.runtime_size < handover.bytes_used <= executed.segment_size


def test_without_a_rule_there_are_no_markers_and_all_is_carried(trial: Trial) -> None:
    require_markers(trial)
    with trial.running(policy=Policy.TCB) as session:
        loaded = trial.load()
        measured = scenario.generate_activity(session, 10)
        trial.execute(loaded)

    names = trial.names()
    assert not {"kexec_load", "kexec_execute"} & set(names)
    assert set(measured) <= set(names)
