# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 12: the crash kernel gets nothing, and loading it disturbs no image that waits.

The log has grown so much that the crash image, if it got a segment, would get a larger one than
the image that waits.
"""

from __future__ import annotations

import pytest

from conftest import OVERFLOW, RESTORE_ERRORS, SHOW_ADDRESSES, chosen_arch, mappings
from imakexec import scenario
from imakexec.scenario import Load
from imakexec.suite.room import room_after_load
from imakexec.suite.trial import Trial

pytestmark = [
    pytest.mark.scenario(12),
    pytest.mark.tight,
    pytest.mark.symbols("CRASH_DUMP"),
]

RESERVED = f"crashkernel=128M {SHOW_ADDRESSES}"

ROOM_FOR_EXECUTE = 300
"""Bytes, more than kexec_execute takes."""
BEYOND = 1000
"""Bytes by which the list outgrows the segment."""


def load_crash_kernel(trial: Trial) -> scenario.LoadedKernel:
    """Load it, and see that it leaves neither a mapping nor a record of a load."""
    mapped, markers = mappings(trial.session), trial.snapshot("before-crash-load")
    crash_kernel = trial.load(how=Load.CRASH)
    same = mappings(trial.session) == mapped
    trial.claim("a crash load changes no mapping", same, mappings(trial.session))
    known = markers.count(b"kexec_load\0")
    added = trial.snapshot("crash-load").count(b"kexec_load\0") - known
    trial.claim("a crash load measures no kexec_load", added == 0, f"{added} measured")
    return crash_kernel


def test_a_crash_load_disturbs_no_waiting_image(trial: Trial) -> None:
    trial.case |= {"fits"}
    with trial.running(cmdline=RESERVED) as session:
        loaded = trial.load()
        room = room_after_load(session, trial.kernel.extra_memory)
        scenario.measure_bytes(session, room.free - ROOM_FOR_EXECUTE)
        load_crash_kernel(trial)
        trial.execute(loaded)


def test_a_crash_load_makes_no_overflow_worse(trial: Trial) -> None:
    trial.case |= {"exceeds"}
    trial.expect_loss("the list has outgrown the segment of the image that waits")
    trial.allow(*OVERFLOW)
    if trial.kernel.copies_bytes:
        trial.allow(*RESTORE_ERRORS)
    with trial.running(cmdline=RESERVED) as session:
        loaded = trial.load()
        room = room_after_load(session, trial.kernel.extra_memory)
        scenario.measure_bytes(session, room.free + BEYOND)
        load_crash_kernel(trial)
        trial.execute(loaded)

    if trial.kernel.carries_events_after_load:
        reported = any(text in trial.console for text in OVERFLOW)
        trial.claim("the overflow is reported", reported)


def test_the_kernel_after_a_panic_is_handed_nothing(
    trial: Trial, pytestconfig: pytest.Config
) -> None:
    trial.case |= {"panic"}
    trial.expect_loss("a kernel that panics hands no list over", of_all=True)
    with trial.running(cmdline=RESERVED) as session:
        crash_kernel = load_crash_kernel(trial)
        trial.claim("no mapping for a crash image alone", not mappings(session))
        trial.load()
        trial.panic(crash_kernel)
        if not chosen_arch(pytestconfig).handover.in_device_tree:  # else it is gone once restored
            trial.case |= {"panic, shown"}
            trial.claim("nothing is handed over", not scenario.is_handed_a_list(session))
