# SPDX-License-Identifier: GPL-2.0-only
"""Loads can be repeated, replaced, undone and can fail in any order.

The image that is executed is the one whose segment is filled, and nothing of the others is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from conftest import Lab, late_refusal, mappings, positions
from imakexec import scenario
from imakexec.attest import MeasurementLog, Verdict
from imakexec.kernel.build import KernelRequest
from imakexec.scenario import Load, LoadedKernel, Session

CRASH_MEMORY = "crashkernel=128M"

LEAK_ROUNDS = 50
LEAK_RECORDS = 1500
"""Makes the segment so large that pages which are not given back are noticed."""
LEAK_KIB = 1024
"""What MemFree may differ by after all rounds; a single segment takes 160 KiB."""


@dataclass
class Loads:
    """What is loaded in a guest, as its kernel should see it.

    Attributes:
        waiting: the image that would be executed now; None for none, or for a legacy one.
        loads: how many loads have been measured as kexec_load.
    """

    session: Session
    waiting: LoadedKernel | None = None
    legacy: LoadedKernel | None = None
    loads: int = 0

    def load(self) -> None:
        """Load by kexec_file_load, which replaces whatever waits."""
        self.waiting, self.legacy = scenario.kexec_load(self.session), None
        self.loads += 1

    def load_larger(self) -> None:
        """The same, with a segment of another size."""
        scenario.generate_activity(self.session, 40)
        self.load()

    def load_legacy(self) -> None:
        """Load by kexec_load, which hands nothing over."""
        self.legacy = scenario.kexec_load(self.session, how=Load.LEGACY)
        self.waiting = None

    def unload(self) -> None:
        """Drop what waits."""
        scenario.kexec_unload(self.session)
        self.waiting = self.legacy = None

    def load_crash(self) -> None:
        """Load the crash kernel, which replaces nothing."""
        scenario.kexec_load(self.session, how=Load.CRASH)

    def fail_late(self) -> None:
        """Fail after the segment was added."""
        refusal = late_refusal(self.session)
        self._fail(refusal.image, f"--command-line={refusal.cmdline}")

    def fail_early(self) -> None:
        """Fail before IMA is asked: what is loaded is no kernel."""
        self._fail("/init", "--command-line=x")

    def _fail(self, kernel: str, cmdline: str) -> None:
        command = ["kexec", "-s", "-l", kernel, f"--initrd={scenario.NEXT_INITRD}", cmdline]
        assert self.session.guest.run(command, self.session.budget(), check=False).code != 0

    def check(self) -> None:
        """The kernel has a mapping exactly if an image with a segment waits."""
        assert len(mappings(self.session)) == (1 if self.waiting else 0)


Operation = Callable[[Loads], None]
OPERATIONS: dict[str, Operation] = {
    "load": Loads.load,
    "larger": Loads.load_larger,
    "legacy": Loads.load_legacy,
    "unload": Loads.unload,
    "crash": Loads.load_crash,
    "fail-late": Loads.fail_late,
    "fail-early": Loads.fail_early,
}

SEQUENCES = [
    "load larger",
    "load unload load",
    "load fail-late",
    "larger fail-early",
    "load crash fail-late crash",
    "legacy load",
    "load legacy unload load larger",
]


def random_sequences(count: int) -> list[str]:
    """Sequences of ten operations that end with something to execute; the same in every run."""
    chooser = random.Random(20260301)
    names = sorted(OPERATIONS)
    return [" ".join([*chooser.choices(names, k=9), "load"]) for _ in range(count)]


@pytest.mark.parametrize(
    "sequence",
    [
        *SEQUENCES,
        *random_sequences(1),
        *(pytest.param(text, marks=pytest.mark.nightly) for text in random_sequences(20)[1:]),
    ],
)
def test_the_image_that_waits_is_filled(lab: Lab, patched: KernelRequest, sequence: str) -> None:
    with lab.session(patched, cmdline=CRASH_MEMORY) as session:
        scenario.boot(session)
        loads = Loads(session)
        for name in sequence.split():
            OPERATIONS[name](loads)
            loads.check()
        assert loads.waiting is not None
        measured = scenario.generate_activity(session, 20)
        scenario.take_snapshot(session, "before-execute")
        said = scenario.complaints(scenario.kernel_log(session))
        scenario.kexec_execute(session, loads.waiting)
        scenario.take_snapshot(session, "after", quote_after=True)
        said += scenario.complaints(scenario.kernel_log(session))
    run = lab.judge()

    assert said == ()
    assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence
    names = run.names("after")
    assert set(measured) <= set(names)
    assert len(positions(names, "kexec_load")) == loads.loads
    assert len(positions(names, "kexec_execute")) == 1


def test_after_a_failed_load_the_first_segment_is_not_exceeded(
    lab: Lab, tight: KernelRequest
) -> None:
    """The failed load would have got a larger segment than the image that waits has."""
    with lab.session(tight) as session:
        scenario.boot(session)
        loads = Loads(session)
        loads.load()
        scenario.generate_activity(session, 100)
        loads.fail_late()
        scenario.take_snapshot(session, "before-execute")
        assert loads.waiting is not None
        scenario.kexec_execute(session, loads.waiting)
        scenario.take_snapshot(session, "after", quote_after=True)
        said = scenario.complaints(scenario.kernel_log(session))
    run = lab.judge()

    assert said == ()
    assert run.judgement.verdict is Verdict.TRUNCATED, run.judgement.sentence
    names = run.names("after")
    assert len(positions(names, "kexec_load")) == 1
    _, second_boot = positions(names, "boot_aggregate")
    carried = MeasurementLog.parse(run.raw_log("after")).offset(second_boot)
    assert run.raw_log("before-execute").startswith(run.raw_log("after")[:carried])


def test_a_legacy_image_is_executed_without_a_list(lab: Lab, patched: KernelRequest) -> None:
    """What was loaded before it must not be filled in its place: that memory is free."""
    with lab.session(patched, cmdline="page_poison=1") as session:
        scenario.boot(session)
        loads = Loads(session)
        loads.load()
        loads.load_legacy()
        loads.check()
        assert loads.legacy is not None
        scenario.kexec_execute(session, loads.legacy)
        scenario.take_snapshot(session, "after", quote_after=True)
        said = scenario.complaints(scenario.kernel_log(session))
    run = lab.judge()

    assert said == ()
    names = run.names("after")
    assert len(positions(names, "boot_aggregate")) == 1
    assert not set(names) & {"kexec_load", "kexec_execute"}
    assert run.judgement.verdict is not Verdict.IN_SYNC


# Loads a small image over and over; every other one is replaced, the others are unloaded.
_ROUNDS = """
set -e
i=0
while [ $i -lt $1 ]; do
    i=$((i + 1))
    echo $i >/round.$i
    read -r line </round.$i
    kexec -s -l /boot/next/kernel --command-line="round $i"
    if [ $((i % 2)) = 0 ]; then kexec -s -u; fi
    if kexec -s -l "$2" --command-line="$3" 2>/run/refused; then exit 1; fi
done
kexec -s -u
"""


def test_fifty_rounds_leave_nothing_behind(lab: Lab, patched: KernelRequest) -> None:
    def rounds(session: Session, count: int) -> tuple[list[str], int]:
        refusal = late_refusal(session)
        session.guest.run(
            ["sh", "-c", _ROUNDS, "rounds", str(count), refusal.image, refusal.cmdline],
            session.budget(count),
        )
        vmalloc = session.guest.read_file("/proc/vmallocinfo", session.budget()).decode()
        memory = session.guest.read_file("/proc/meminfo", session.budget()).decode()
        free = next(line.split()[1] for line in memory.splitlines() if line.startswith("MemFree"))
        callers = [line.split()[2] for line in vmalloc.splitlines() if "unpurged" not in line]
        return sorted(callers), int(free)

    with lab.session(patched) as session:
        scenario.boot(session)
        scenario.generate_activity(session, LEAK_RECORDS)
        # The first rounds make what stays: slabs, page cache, per-CPU pages.
        before, free_before = rounds(session, 4)
        after, free_after = rounds(session, LEAK_ROUNDS)
        said = scenario.complaints(scenario.kernel_log(session))

    assert said == ()
    assert after == before
    assert free_before - free_after < LEAK_KIB
