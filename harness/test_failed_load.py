# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 6: a second load fails, and the image that waits is executed as if nothing had been.

A load can fail before IMA is asked, and after it has sized a segment for it. The log has grown by
then, so that this segment is larger than the one of the image that waits.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import OVERFLOW, SHOW_ADDRESSES, mappings, refuse_early, refuse_late
from imakexec import scenario
from imakexec.scenario import NEXT_KERNEL, Session
from imakexec.suite.room import room_after_load
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(6), pytest.mark.tight, pytest.mark.under_debug]

ROOM_FOR_MARKERS = 600
"""Bytes, more than kexec_execute takes, and a kexec_load of the failed load."""
BEYOND = 1000
"""Bytes by which the list outgrows the segment."""

CORRUPT = "/run/corrupt"
# Without the header that says what it is: Documentation/x86/boot.rst, Documentation/arm64/booting.
_CORRUPT = f"(busybox head -c 1024 /dev/zero; busybox tail -c +1025 {NEXT_KERNEL}) >{CORRUPT}"

HUGE = "/run/huge"
# More than half of the guest's memory, which is what all segments together may take
# (sanity_check_segment_list, kernel/kexec_core.c); a hole, which takes no memory to hold.
_HUGE = f"""
while read -r name kib unit; do
    if [ "$name" = MemTotal: ]; then exec busybox truncate -s $((kib / 2 + 4096))k {HUGE}; fi
done </proc/meminfo
"""


def refuse_corrupt(session: Session) -> None:
    """Fail in kexec-tools: they read the header before the kernel does."""
    session.guest.run(["sh", "-c", _CORRUPT], session.budget())
    says = "Cannot determine the file type"
    scenario.kexec_load_refused(session, says=says, image=CORRUPT)


def refuse_huge(session: Session) -> None:
    """Fail after the segment was added, because the initramfs takes too much memory."""
    session.guest.run(["sh", "-c", _HUGE], session.budget())
    scenario.kexec_load_refused(session, initrd=HUGE)


@pytest.mark.smoke
def test_a_failed_load_costs_nothing(trial: Trial) -> None:
    trial.case |= {"fits"}
    with trial.running(cmdline=SHOW_ADDRESSES) as session:
        loaded = trial.load()
        room = room_after_load(session, trial.kernel.extra_memory)
        mapped, measured = mappings(session), trial.snapshot("loaded")
        refuse_corrupt(session)
        refuse_early(session)
        trial.claim("an early failure changes no mapping", mappings(session) == mapped)
        trial.claim("an early failure is not measured", trial.snapshot("early") == measured)

        scenario.measure_bytes(session, room.free - ROOM_FOR_MARKERS)
        refuse_late(session)
        trial.claim("a failed load changes no mapping", mappings(session) == mapped)
        trial.execute(loaded)

    markers = trial.names().count("kexec_load")
    due = 1 if trial.kernel.has_markers else 0
    trial.claim("a kexec_load for each load", markers == due, f"{markers} of {due}")


@pytest.mark.parametrize(
    "refuse",
    [
        pytest.param(refuse_late, id="late"),
        pytest.param(refuse_huge, id="huge", marks=pytest.mark.nightly),
    ],
)
def test_the_first_segment_is_not_exceeded(trial: Trial, refuse: Callable[[Session], None]) -> None:
    trial.case |= {"exceeds"}
    trial.expect_loss("the list has outgrown the segment of the image that waits")
    trial.allow(*OVERFLOW)
    with trial.running() as session:
        loaded = trial.load()
        room = room_after_load(session, trial.kernel.extra_memory)
        scenario.measure_bytes(session, room.free + BEYOND)
        refuse(session)
        trial.execute(loaded)

    if trial.kernel.whole_records:
        trial.claim("the overflow is reported", any(text in trial.console for text in OVERFLOW))
