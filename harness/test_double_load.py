# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 2: loads can be repeated, replaced, undone and can fail in any order.

The image that is executed is the one whose segment is filled, and nothing of the others is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from conftest import late_refusal, mappings, meminfo_kib, refuse_early, refuse_late
from imakexec import scenario
from imakexec.scenario import Load, LoadedKernel, Session
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(2)

CRASH_MEMORY = "crashkernel=128M"

LATE_RECORDS = 10
"""Measured after the last load; half a page has room for them."""

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
        loads: how many loads have succeeded that hand a list over.
    """

    trial: Trial
    waiting: LoadedKernel | None = None
    loads: int = 0

    def load(self) -> None:
        """Load by kexec_file_load, which replaces whatever waits."""
        self.waiting = self.trial.load()
        self.loads += 1

    def load_larger(self) -> None:
        """The same, with a segment of another size."""
        scenario.generate_activity(self.trial.session, 40)
        self.load()

    def load_legacy(self) -> None:
        """Load by kexec_load, which hands nothing over."""
        self._drop()
        self.trial.load(how=Load.LEGACY)

    def unload(self) -> None:
        """Drop what waits."""
        self._drop()
        scenario.kexec_unload(self.trial.session)

    def load_crash(self) -> None:
        """Load the crash kernel, which replaces nothing."""
        self.trial.load(how=Load.CRASH)

    def fail_late(self) -> None:
        """Fail after the segment was added."""
        self.trial.case |= {"failed load"}
        refuse_late(self.trial.session)

    def fail_early(self) -> None:
        """Fail before IMA is asked."""
        refuse_early(self.trial.session)

    def _drop(self) -> None:
        if self.waiting is not None:
            self.trial.case |= {"segment dropped"}
        self.waiting = None

    def check(self, step: str) -> None:
        """The kernel has a mapping exactly if an image with a segment waits."""
        due = 1 if self.waiting and self.trial.kernel.carries_events_after_load else 0
        mapped = len(mappings(self.trial.session))
        self.trial.claim("a mapping for what waits", mapped == due, f"{mapped} after {step}")


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


def random_sequences(count: int) -> list[str]:
    """Sequences of ten operations that end with something to execute; the same in every run."""
    chooser = random.Random(20260301)
    names = sorted(OPERATIONS)
    return [" ".join([*chooser.choices(names, k=9), "load"]) for _ in range(count)]


def load_and_execute(trial: Trial, sequence: str) -> None:
    """Load in all these ways, see what waits after each, and execute the last."""
    with trial.running(cmdline=CRASH_MEMORY) as session:
        loads = Loads(trial)
        for step in sequence.split():
            OPERATIONS[step](loads)
            loads.check(step)
        assert loads.waiting is not None
        measured: tuple[str, ...] = ()
        # Else A1 hides what is asked here.
        if trial.kernel.carries_events_after_load:
            measured = scenario.generate_activity(session, LATE_RECORDS)
        trial.execute(loads.waiting)

    names = trial.names()
    assert set(measured) <= set(names)
    due = loads.loads if trial.kernel.has_markers else 0
    counted = names.count("kexec_load")
    trial.claim("a kexec_load for each load", counted == due, f"{counted} of {due}")
    assert names.count("kexec_execute") == (1 if trial.kernel.has_markers else 0)


@pytest.mark.under_debug
@pytest.mark.parametrize("sequence", ["load larger", "load unload load"])
def test_the_image_that_waits_is_filled(trial: Trial, sequence: str) -> None:
    load_and_execute(trial, sequence)


@pytest.mark.symbols("CRASH_DUMP")
@pytest.mark.nightly
@pytest.mark.parametrize(
    "sequence",
    [
        "larger fail-early",
        "load fail-late",
        "load crash fail-late crash",
        "legacy load",
        "load legacy unload load larger",
        *random_sequences(20),
    ],
)
def test_loads_in_any_order(trial: Trial, sequence: str) -> None:
    load_and_execute(trial, sequence)


def test_the_releases_of_half_a_backport(trial: Trial) -> None:
    """6.12.77 to 6.12.93 are bad: image and IMA both own what the list was copied into.

    Nothing is excused here, so that the exit code is what a bisection asks for.
    """
    if not (6, 12, 76) <= trial.kernel.version <= (6, 12, 94):
        pytest.skip("stable trees not given: needs --kernel-tree of Linux 6.12.76 to 6.12.94")
    with trial.running():
        trial.load()
        trial.load()
        trial.execute(trial.load())


# Each load finds a longer list than the one before, and replaces its image.
_GROWING = """
set -e
i=0
while [ $i -lt $1 ]; do
    i=$((i + 1))
    for j in 1 2 3 4 5 6 7 8 9 10; do
        echo $i $j >/grow.$i.$j
        read -r line </grow.$i.$j
    done
    kexec -s -l /boot/next/kernel --command-line="load $i"
done
"""


def areas(session: Session, *owners: str) -> list[str]:
    """The callers of vmalloc() and vmap() whose areas are there, sorted; those of some owners."""
    text = session.guest.read_file("/proc/vmallocinfo", session.budget()).decode()
    callers = [line.split()[2] for line in text.splitlines() if "unpurged" not in line]
    return sorted(name for name in callers if not owners or name.startswith(owners))


@pytest.mark.under_debug
@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.nightly)])
def test_loads_of_a_growing_list(trial: Trial, count: int) -> None:
    with trial.running() as session:
        trial.load()
        first = areas(session, "ima_", "kimage_", "kernel_read_file", "kexec_")
        script = ["sh", "-c", _GROWING, "growing", str(count - 2)]
        session.guest.run(script, session.budget(count))
        loaded = trial.load()
        last = areas(session, "ima_", "kimage_", "kernel_read_file", "kexec_")
        trial.execute(loaded)

    trial.claim("nothing is left of a load", last == first, f"{last}, after one load {first}")
    loads = count if trial.kernel.has_markers else 0
    assert trial.names().count("kexec_load") == loads


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


@pytest.mark.nightly
def test_fifty_rounds_leave_nothing_behind(trial: Trial) -> None:
    def rounds(session: Session, count: int) -> tuple[list[str], int]:
        refusal = late_refusal(session)
        session.guest.run(
            ["sh", "-c", _ROUNDS, "rounds", str(count), refusal.image, refusal.cmdline],
            session.budget(count),
        )
        return areas(session), meminfo_kib(session, "MemFree")

    with trial.running() as session:
        scenario.generate_activity(session, LEAK_RECORDS)
        # The first rounds make what stays: slabs, page cache, per-CPU pages.
        before, free_before = rounds(session, 4)
        after, free_after = rounds(session, LEAK_ROUNDS)

    lost = free_before - free_after
    trial.claim("nothing is left of a load", after == before, f"{after}, before {before}")
    trial.claim("no memory is lost", lost < LEAK_KIB, f"{lost} KiB")
