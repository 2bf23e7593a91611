# SPDX-License-Identifier: GPL-2.0-only
"""If kexec_execute is carried, so is every record: also while all CPUs measure during execute."""

from __future__ import annotations

import pytest

from conftest import Lab, Run, positions
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.kernel.build import KernelRequest

CPUS = 2
PROCESSES = 4
"""More than CPUs, so that at any time one waits for the mutex of the list."""

AUDITED = "integrity_audit=1 audit_backlog_limit=1"
"""Every record is audited, with a queue for one message: whoever has added a record, kexec_execute
too, waits for the queue when it has given the list back, so that others come in between."""

# Without the shell that does it, which would be the first to go.
END_OF_STORM = """
for process in $(busybox pidof sh); do
    [ $process = $$ ] || kill $process
done
"""

ROUNDS = [0, 1, *(pytest.param(n, marks=pytest.mark.nightly) for n in range(2, 50))]


def storm(lab: Lab, kernel: KernelRequest) -> Run:
    """Execute a kexec in the middle of a storm."""
    with lab.session(kernel, cpus=CPUS, cmdline=AUDITED) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        scenario.kexec_execute(session, loaded, meanwhile=scenario.storm(PROCESSES))
        scenario.take_snapshot(session, "after", quote_after=True)
    return lab.judge()


@pytest.mark.parametrize("round_", ROUNDS)
def test_nothing_is_lost_in_a_storm(lab: Lab, patched: KernelRequest, round_: int) -> None:
    run = storm(lab, patched)

    assert run.judgement.verdict is Verdict.IN_SYNC, (round_, run.judgement.sentence)
    names = run.names("after")
    _, second_boot = positions(names, "boot_aggregate")
    assert positions(names, "kexec_execute") == [second_boot - 1], "the last record of all"
    assert any(name.startswith("/storm/") for name in names), "there was no storm"


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_marker_never_hides_a_loss(lab: Lab, tight: KernelRequest, round_: int) -> None:
    run = storm(lab, tight)

    names = run.names("after")
    if positions(names, "kexec_execute"):
        assert run.judgement.verdict is Verdict.IN_SYNC, (round_, run.judgement.sentence)
    else:
        assert run.judgement.verdict is Verdict.TRUNCATED, (round_, run.judgement.sentence)


def test_kexec_load_in_a_storm_counts_what_it_sizes(lab: Lab, patched: KernelRequest) -> None:
    with lab.session(patched, cpus=CPUS) as session:
        scenario.boot(session)
        session.guest.run(["sh", "-c", f"{scenario.storm(PROCESSES)} sleep 0.1"], session.budget())
        for _ in range(3):
            scenario.kexec_load(session)
        session.guest.run(["sh", "-c", END_OF_STORM], session.budget())
        # The storm has outgrown the segment of the last load by now.
        scenario.kexec_execute(session, scenario.kexec_load(session))
        scenario.take_snapshot(session, "after", quote_after=True)
    run = lab.judge()

    assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence
    assert any(name.startswith("/storm/") for name in run.names("after")), "there was no storm"
    assert run.judgement.timeline is not None
    markers = run.judgement.timeline.markers
    assert [marker.kind for marker in markers] == ["kexec_load"] * 4 + ["kexec_execute"]
    sizes = [0]
    for record in run.records("after"):
        sizes.append(sizes[-1] + record.size)
    for marker in markers:
        assert marker.logged is not None
        assert marker.logged.count <= marker.index
        assert marker.logged.runtime_size == 24 + sizes[marker.logged.count]
