# SPDX-License-Identifier: GPL-2.0-only
"""What a prefix promises decides what its run must show; anything else is a fault."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imakexec.attest import Judgement, Reason, Verdict
from imakexec.series.promises import Promise, Seen, list_faults, promise_of, verdict_faults

_LOSES = Promise(copies_at_execute=False, writes_markers=False)
_COPIES = Promise(copies_at_execute=True, writes_markers=False)
_MARKS = Promise(copies_at_execute=True, writes_markers=True)


def _judged(verdict: Verdict, reason: Reason) -> Judgement:
    return Judgement(verdict=verdict, reason=reason, sentence="A sentence.", action="Nothing.")


def _seen(*names: str, loads: int = 1) -> Seen:
    return Seen(
        loads=loads,
        until_load=("early1", "early2"),
        after_load=("late1", "late2"),
        names=("boot_aggregate", *names),
        complaints=(),
        judgement=_judged(Verdict.IN_SYNC, Reason.MATCH),
    )


_EARLY, _ALL = ("early1", "early2"), ("early1", "early2", "late1", "late2")
_MARKED = ("early1", "early2", "kexec_load", "late1", "late2", "kexec_execute")


def test_the_promise_grows_with_the_series() -> None:
    promises = [promise_of(patches) for patches in range(9)]
    assert promises == [_LOSES] * 5 + [_COPIES] * 2 + [_MARKS] * 2


@pytest.mark.parametrize(
    ("promise", "names"), [(_LOSES, _EARLY), (_COPIES, _ALL), (_MARKS, _MARKED)]
)
def test_a_kept_promise(promise: Promise, names: tuple[str, ...]) -> None:
    assert list(list_faults(promise, _seen(*names))) == []


@pytest.mark.parametrize(
    ("promise", "names", "fault"),
    [
        (_COPIES, _EARLY, "2 of 2 records measured after the load are lost"),
        (_COPIES, _ALL[:3], "1 of 2 records measured after the load are lost"),
        (_COPIES, _ALL[1:], "1 of 2 records measured until the load are lost"),
        # The control: a base that carries what it cannot carry was not the base.
        (_LOSES, _ALL, "2 records measured after the load are carried, unexpectedly"),
        (_LOSES, ("early1",), "1 of 2 records measured until the load are lost"),
        (_MARKS, _MARKED[:-1], "0 kexec_execute events in the list, 1 were due"),
        (_MARKS, _ALL + _MARKED[-1:], "0 kexec_load events in the list, 1 were due"),
        (_COPIES, _ALL + _MARKED[-1:], "1 kexec_execute events in the list, 0 were due"),
    ],
)
def test_a_broken_promise(promise: Promise, names: tuple[str, ...], fault: str) -> None:
    assert list(list_faults(promise, _seen(*names))) == [fault]


def test_every_load_has_its_marker() -> None:
    twice = (*_EARLY, "kexec_load", "kexec_load", "late1", "late2", "kexec_execute")
    assert list(list_faults(_MARKS, _seen(*twice, loads=2))) == []
    assert list(list_faults(_MARKS, _seen(*_MARKED, loads=2))) == [
        "1 kexec_load events in the list, 2 were due"
    ]


def test_a_complaint_of_the_kernel_is_a_fault() -> None:
    seen = replace(_seen(*_ALL), complaints=("ima: Could not map the segment.",))
    assert list(list_faults(_COPIES, seen)) == ["the kernel says: ima: Could not map the segment."]


@pytest.mark.parametrize(
    ("promise", "verdict", "reason"),
    [
        (_LOSES, Verdict.OUT_OF_SYNC, Reason.NO_MARKERS),
        (_COPIES, Verdict.IN_SYNC, Reason.MATCH),
        (_MARKS, Verdict.IN_SYNC, Reason.MATCH),
    ],
)
def test_the_verdict_that_is_due(promise: Promise, verdict: Verdict, reason: Reason) -> None:
    due = replace(_seen(), judgement=_judged(verdict, reason))
    assert list(verdict_faults(promise, due)) == []
    other = replace(_seen(), judgement=_judged(Verdict.TRUNCATED, Reason.SEGMENT_FULL))
    first, sentence = verdict_faults(promise, other)
    assert first == f"TRUNCATED (segment_full), {verdict} ({reason}) was due"
    assert sentence == "A sentence."
