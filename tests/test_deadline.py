# SPDX-License-Identifier: GPL-2.0-only
"""A step of the wall clock ends no wait early and lets none go on."""

from __future__ import annotations

import re
import time

import pytest

from imakexec.deadline import Deadline
from imakexec.project import find_project

WALL_CLOCK = re.compile(r"\btime\.(?:time|time_ns|localtime)\(|\bdatetime\.(?:now|utcnow|today)\(")

# Each of them stamps something for people, or relates the clocks of two machines.
STAMPS = {"machine/events.py", "suite/collector.py", "suite/notes.py", "workload.py"}


@pytest.mark.parametrize("step", [-1e9, 1e9])
def test_a_step_of_the_wall_clock_moves_no_deadline(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    now = time.time()
    deadline = Deadline.after(60)
    monkeypatch.setattr(time, "time", lambda: now + step)
    assert 59 < deadline.remaining <= 60
    assert 9 < deadline.within(10).remaining <= 10
    assert not deadline.expired


def test_nothing_else_asks_the_wall_clock() -> None:
    package = find_project() / "harness" / "imakexec"
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if WALL_CLOCK.search(path.read_text(encoding="utf-8"))
    }
    assert found == STAMPS
