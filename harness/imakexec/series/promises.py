# SPDX-License-Identifier: GPL-2.0-only
"""What each prefix of the series promises about a kexec, and whether a run kept it; pure.

A base promises least: what was measured until the load is carried, the rest is lost, and an
attestation fails for it. That this fails as predicted is the control of the whole check.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from imakexec.attest import Judgement, Reason, Verdict

# From which patch of the series on.
_COPIES_AT_EXECUTE = 5
_WRITES_MARKERS = 7


class Carried(StrEnum):
    """How much of what was measured is in the list of the next kernel, from least to most."""

    NONE = "none"
    SOME = "some"
    PART = "part"
    """All of before the last load, and less than all of after it."""
    ALL = "all"


@dataclass(frozen=True)
class Promise:
    """What a kernel does with its measurement list at a kexec.

    Attributes:
        copies_at_execute: it hands over what was measured between load and execute, too.
        writes_markers: it measures kexec_load and kexec_execute.
    """

    copies_at_execute: bool
    writes_markers: bool

    @property
    def verdict(self) -> tuple[Verdict, Reason]:
        """What the verifier must say if something was measured after the load."""
        if self.copies_at_execute:
            return Verdict.IN_SYNC, Reason.MATCH
        return Verdict.OUT_OF_SYNC, Reason.NO_MARKERS

    @property
    def carried(self) -> Carried:
        """Which records are carried: all, or only those of before the load."""
        return Carried.ALL if self.copies_at_execute else Carried.PART


def promise_of(patches: int) -> Promise:
    """What the kernel with the first `patches` patches promises."""
    return Promise(
        copies_at_execute=patches >= _COPIES_AT_EXECUTE,
        writes_markers=patches >= _WRITES_MARKERS,
    )


@dataclass(frozen=True)
class Seen:
    """What was seen of one run: boot, measure, load, measure, execute.

    Attributes:
        loads: how often a kernel was loaded.
        until_load: what was measured before the last load, as event names.
        after_load: what was measured between it and the execute.
        names: the event names in the list of the next kernel, in order.
        complaints: what the kernels said against the hand-over.
        judgement: the verifier's.
    """

    loads: int
    until_load: tuple[str, ...]
    after_load: tuple[str, ...]
    names: tuple[str, ...]
    complaints: tuple[str, ...]
    judgement: Judgement


def carried_of(seen: Seen) -> Carried:
    """How much a run has carried."""
    measured = (*seen.until_load, *seen.after_load)
    if not _missing(measured, seen.names):
        return Carried.ALL
    if not _missing(seen.until_load, seen.names):
        return Carried.PART
    return Carried.NONE if _missing(measured, seen.names) == len(measured) else Carried.SOME


def list_faults(promise: Promise, seen: Seen) -> Iterator[str]:
    """How the list of the next kernel differs from what was promised."""
    for line in seen.complaints:
        yield f"the kernel says: {line}"
    missing = _missing(seen.until_load, seen.names)
    if missing:
        yield f"{missing} of {len(seen.until_load)} records measured until the load are lost"
    missing, all_of_them = _missing(seen.after_load, seen.names), len(seen.after_load)
    if promise.copies_at_execute and missing:
        yield f"{missing} of {all_of_them} records measured after the load are lost"
    if not promise.copies_at_execute and missing != all_of_them:
        yield f"{all_of_them - missing} records measured after the load are carried, unexpectedly"
    yield from _marker_faults(promise, seen)


def _missing(wanted: Sequence[str], names: Sequence[str]) -> int:
    present = set(names)
    return sum(name not in present for name in wanted)


def _marker_faults(promise: Promise, seen: Seen) -> Iterator[str]:
    for marker, times in (("kexec_load", seen.loads), ("kexec_execute", 1)):
        due = times if promise.writes_markers else 0
        found = seen.names.count(marker)
        if found != due:
            yield f"{found} {marker} events in the list, {due} were due"


def verdict_faults(promise: Promise, seen: Seen) -> Iterator[str]:
    """How the verdict differs from the one that was promised."""
    found = (seen.judgement.verdict, seen.judgement.reason)
    if found != promise.verdict:
        yield f"{verdict_words(*found)}, {verdict_words(*promise.verdict)} was due"
        yield seen.judgement.sentence


def verdict_words(verdict: Verdict, reason: Reason) -> str:
    """A verdict and its reason as people write them."""
    return f"{verdict} ({reason})"
