# SPDX-License-Identifier: GPL-2.0-only
"""The crash kernel gets nothing, and loading it disturbs no image that waits."""

from __future__ import annotations

import pytest

from conftest import Lab, mappings, positions, records_of
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.kernel.build import KernelRequest
from imakexec.scenario import Load, Session

RESERVED = "crashkernel=128M"


def event_names(session: Session) -> list[str]:
    """What has been measured so far."""
    raw = session.guest.read_file(scenario.MEASUREMENTS, session.budget())
    return [record.name for record in records_of(raw)]


def test_a_crash_load_makes_no_mapping_and_no_event(lab: Lab, tight: KernelRequest) -> None:
    with lab.session(tight, cmdline=RESERVED) as session:
        scenario.boot(session)
        crash = scenario.kexec_load(session, how=Load.CRASH)
        mapped, names = mappings(session), event_names(session)
        scenario.kexec_unload(session, Load.CRASH)
        complaints = crash.complaints + scenario.complaints(scenario.kernel_log(session))

    assert complaints == ()
    assert mapped == []
    assert "kexec_load" not in names
    assert scenario.NEXT_KERNEL in names, "the crash image itself is measured"


@pytest.mark.parametrize("growth", [0, 1500, 1900])
def test_a_crash_load_disturbs_no_waiting_image(
    lab: Lab, tight: KernelRequest, growth: int
) -> None:
    """With enough growth the crash image would get a larger segment than the one that waits."""
    with lab.session(tight, cmdline=RESERVED) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        mapped = mappings(session)
        if growth:
            scenario.measure_bytes(session, growth)
        scenario.kexec_load(session, how=Load.CRASH)
        assert mappings(session) == mapped
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    run = lab.judge()

    names = run.names("after")
    assert len(positions(names, "kexec_load")) == 1
    # A page has room for what these loads measure, unless something more was measured.
    if growth == 0 or positions(names, "kexec_execute"):
        assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence
    else:
        assert run.judgement.verdict is Verdict.TRUNCATED, run.judgement.sentence


def test_the_kernel_after_a_panic_is_handed_nothing(lab: Lab, patched: KernelRequest) -> None:
    with lab.session(patched, cmdline=RESERVED) as session:
        scenario.boot(session)
        scenario.kexec_load(session)
        crash = scenario.kexec_load(session, how=Load.CRASH, append=scenario.KEEPS_BUFFER)
        scenario.crash(session, crash)
        content = scenario.read_handover_buffer(session)

    assert content is None
