# SPDX-License-Identifier: GPL-2.0-only
"""A load without a segment to fill is said, and neither the load nor the kexec fails of it.

The list can be larger than a kexec image may be, and the memory to map the segment can be missing.
"""

from __future__ import annotations

from conftest import FAIL_ALLOCATIONS, Lab, Run, allow
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.kernel.build import KernelRequest
from imakexec.scenario import LoadedKernel, Session

SMALL_MIB = 160
LARGE_MIB = 80
"""More than half of what the kernel leaves of the memory, and little enough for the rest."""

MEASURE_MIB = """
i=0
while [ $i -lt "$1" ]; do
    i=$((i + 1))
    echo 1 >/sys/module/imakexec_probe/parameters/large
done
"""


def execute(session: Session, loaded: LoadedKernel) -> str:
    """Execute what was loaded; what the kernels said until then."""
    scenario.generate_activity(session, 10)
    scenario.take_snapshot(session, "before-execute")
    scenario.kexec_execute(session, loaded)
    scenario.take_snapshot(session, "after", quote_after=True)
    return "\n".join(line.text for line in session.machine.console.lines())


def assert_nothing_was_carried(run: Run) -> None:
    """The next kernel has a list of its own, and the verifier misses the other one."""
    names = run.names("after")
    assert names[0] == "boot_aggregate"
    assert names.count("boot_aggregate") == 1
    assert "kexec_load" not in names
    assert run.judgement.verdict is Verdict.OUT_OF_SYNC, run.judgement.sentence


def test_a_segment_that_cannot_be_mapped(lab: Lab, probed: KernelRequest) -> None:
    with lab.session(probed) as session:
        scenario.boot(session)
        for script in (FAIL_ALLOCATIONS, allow("fail")):
            session.guest.run(["sh", "-c", script], session.budget())
        loaded = scenario.kexec_load(session)
        before = session.guest.read_file(scenario.MEASUREMENTS, session.budget())
        said = execute(session, loaded)
    run = lab.judge()

    assert [line.partition("] ")[2] for line in loaded.complaints] == [
        "ima: Could not map the kexec measurement buffer."
    ]
    assert b"kexec_load" not in before, "a segment is announced that nobody will fill"
    assert "Kexec segment is not mapped, carrying no measurements." in said
    assert_nothing_was_carried(run)


def test_a_list_that_is_larger_than_half_of_memory(lab: Lab, probed: KernelRequest) -> None:
    with lab.session(probed, memory_mib=SMALL_MIB) as session:
        scenario.boot(session)
        session.guest.run(
            ["sh", "-c", MEASURE_MIB, "sh", str(LARGE_MIB)], session.budget(LARGE_MIB / 10)
        )
        loaded = scenario.kexec_load(session)
        said = execute(session, loaded)
    run = lab.judge()

    assert [line.partition("] ")[2] for line in loaded.complaints] == [
        "ima: Binary measurement list too large."
    ]
    assert "Kexec segment" not in said, "there is none"
    assert_nothing_was_carried(run)
