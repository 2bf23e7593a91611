# SPDX-License-Identifier: GPL-2.0-only
"""Whatever byte of a genuine list is changed, it is noticed, or no quote covers it and we say so.

Which bytes no quote covers follows from the kernel's rule alone, worked out here without any code
of the verifier: the kernel extends PCR 10 with the hash of the template data, so that the name of
the template is in no PCR; and it extends 0xff bytes for a violation, whatever its data says. Both
sets must be the same: that of the mutations which pass, and that of those which nobody can detect.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations

import pytest
from evidence_maker import Rec, ng, pack
from genuine import event, first_sight, genuine, records_of, split, with_list

from imakexec.attest import Flag, Judgement, Reason, Verdict, judge
from imakexec.evidence import Evidence

VECTOR = "violations"
BYTES = ("byte", "byte left out", "byte doubled")
PRINTABLE = range(0x21, 0x7F)
"""What the name of a template can be made of."""


class Part(StrEnum):
    """What a byte of a record belongs to."""

    PCR = "pcr"
    DIGEST = "digest"
    NAME_LEN = "name_len"
    NAME = "name"
    DATA_LEN = "data_len"
    FIELD_LEN = "field_len"
    FIELD = "field"


@dataclass(frozen=True)
class Change:
    """One mutation of a list.

    Args:
        kind: what is done.
        at: the offset of the byte, or the index of the record.
        to: the byte's new value, or the other record's index.
    """

    kind: str
    at: int
    to: int = -1


class List:
    """A list, and which of its bytes belong to what."""

    def __init__(self, log: bytes) -> None:
        self.log = log
        self.records = split(log)
        assert pack(self.records) == log
        self.parts = [
            (index, part) for index, record in enumerate(self.records) for part in _parts(record)
        ]
        assert len(self.parts) == len(log)

    def changes(self) -> Iterator[Change]:
        """Every bit of every byte, the extremes, each byte left out and doubled; each record
        left out, doubled, and in the place of each other."""
        for at, byte in enumerate(self.log):
            for value in sorted({*(byte ^ 1 << bit for bit in range(8)), 0, 0xFF} - {byte}):
                yield Change("byte", at, value)
            yield Change("byte left out", at)
            yield Change("byte doubled", at)
        yield from self.record_changes()

    def few_changes(self) -> Iterator[Change]:
        """One bit of every byte, and all that can be done to whole records."""
        for at, byte in enumerate(self.log):
            yield Change("byte", at, byte ^ 1 << at % 8)
        yield from self.record_changes()

    def changes_of_the_last_record(self) -> Iterator[Change]:
        """All that can be done to its bytes, one bit of every other, and whole records."""
        start = len(self.log) - len(self.records[-1].pack())
        yield from (item for item in self.changes() if item.kind in BYTES and item.at >= start)
        yield from (item for item in self.few_changes() if item.kind != "byte" or item.at < start)

    def record_changes(self) -> Iterator[Change]:
        for index in range(len(self.records)):
            yield Change("record left out", index)
            yield Change("record doubled", index)
        for one, other in combinations(range(len(self.records)), 2):
            yield Change("records swapped", one, other)

    def changed(self, change: Change) -> bytes:
        log, at = self.log, change.at
        if change.kind == "byte":
            return log[:at] + bytes([change.to]) + log[at + 1 :]
        if change.kind == "byte left out":
            return log[:at] + log[at + 1 :]
        if change.kind == "byte doubled":
            return log[: at + 1] + log[at:]
        records = list(self.records)
        if change.kind == "record left out":
            del records[at]
        elif change.kind == "record doubled":
            records.insert(at, records[at])
        else:
            records[at], records[change.to] = records[change.to], records[at]
        return pack(records)

    def is_uncovered(self, change: Change) -> bool:
        """Whether the changed list extends the PCR as the genuine one does, and is still one.

        A boot_aggregate is none under another template, and the list must have one per boot.
        """
        if change.kind == "records swapped":
            one, other = self.records[change.at], self.records[change.to]
            return one == other or (one.violation and other.violation)
        if change.kind != "byte":
            return False
        index, part = self.parts[change.at]
        record = self.records[index]
        if part is Part.NAME:
            return change.to in PRINTABLE and event(record) != "boot_aggregate"
        return part is Part.FIELD and record.violation

    def is_said(self, change: Change, judgement: Judgement, usual: Judgement) -> bool:
        """Whether a judgement says that what was changed is not authenticated."""
        if change.kind == "records swapped":
            one, other = change.at, change.to
            return self.records[one] == self.records[other] or _tells(judgement, one, other)
        index, part = self.parts[change.at]
        if part is Part.NAME:
            return Flag.UNKNOWN_TEMPLATE in set(judgement.flags) - set(usual.flags)
        return _tells(judgement, index)


def _tells(judgement: Judgement, *violations: int) -> bool:
    return Flag.VIOLATIONS in judgement.flags and {*violations} <= set(judgement.violations)


def _parts(record: Rec) -> Iterator[Part]:
    yield from [Part.PCR] * 4 + [Part.DIGEST] * 20 + [Part.NAME_LEN] * 4
    yield from [Part.NAME] * len(record.template) + [Part.DATA_LEN] * 4
    at = 0
    while at < len(record.data):
        [size] = struct.unpack_from("<I", record.data, at)
        yield from [Part.FIELD_LEN] * 4 + [Part.FIELD] * size
        at += 4 + size


def first_boot() -> Evidence:
    """The genuine list of the first boot, with two violations in it, under one quote."""
    evidence = genuine(VECTOR)
    snapshot = evidence.snapshots[0]
    assert snapshot.after is not None
    alone = replace(snapshot, before=snapshot.after, after=None)
    return replace(evidence, boots=evidence.boots[:1], snapshots=(alone,))


def first_boot_with_a_tail() -> Evidence:
    """The same, with a record that was never extended."""
    evidence = first_boot()
    return with_list(evidence, [*records_of(evidence), ng("/never-extended")])


def whole_run() -> Evidence:
    """The genuine list after the kexec, markers and all, at first sight."""
    return first_sight(genuine(VECTOR))


def passing(
    evidence: Evidence, changes: Callable[[List], Iterator[Change]]
) -> Mapping[Change, Judgement]:
    """The changes of the last list after which it is in sync, with their judgements.

    Nothing that is judged may raise an exception, or get exit code 0 and another verdict.
    """
    log = evidence.snapshots[-1].log
    assert log is not None
    whole = List(log)
    passed = {}
    for change in changes(whole):
        judgement = judge(with_list(evidence, whole.changed(change)))
        assert judgement.verdict is not Verdict.INVALID_EVIDENCE, change
        if judgement.exit_code == 0:
            assert (judgement.verdict, judgement.reason) == (Verdict.IN_SYNC, Reason.MATCH)
            passed[change] = judgement
    return passed


def assert_passes_what_is_uncovered(
    evidence: Evidence, changes: Callable[[List], Iterator[Change]]
) -> None:
    usual = judge(evidence)
    assert (usual.verdict, usual.flags) == (Verdict.IN_SYNC, (Flag.VIOLATIONS,))
    log = evidence.snapshots[-1].log
    assert log is not None
    whole = List(log)
    passed = passing(evidence, changes)
    assert set(passed) == {change for change in changes(whole) if whole.is_uncovered(change)}
    unsaid = [
        change
        for change, judgement in passed.items()
        if not whole.is_said(change, judgement, usual)
    ]
    assert unsaid == []


def test_every_byte_of_a_small_list() -> None:
    assert_passes_what_is_uncovered(first_boot(), List.changes)


def test_some_bits_of_every_byte_of_a_list_with_a_kexec() -> None:
    assert_passes_what_is_uncovered(whole_run(), List.few_changes)


@pytest.mark.nightly
def test_every_byte_of_a_list_with_a_kexec() -> None:
    assert_passes_what_is_uncovered(whole_run(), List.changes)


def assert_passes_without_its_tail(changes: Callable[[List], Iterator[Change]]) -> None:
    """Nothing that is done to the list makes up for the tail, but to leave the tail out."""
    evidence = first_boot_with_a_tail()
    usual = judge(evidence)
    assert (usual.verdict, usual.reason) == (Verdict.OUT_OF_SYNC, Reason.UNCOVERED_TAIL)
    assert usual.flags == (Flag.PENDING_TAIL, Flag.VIOLATIONS)
    tail = len(records_of(evidence)) - 1
    assert usual.first_divergence == tail
    assert set(passing(evidence, changes)) == {Change("record left out", tail)}


def test_every_byte_of_a_tail() -> None:
    assert_passes_without_its_tail(List.changes_of_the_last_record)


@pytest.mark.nightly
def test_every_byte_of_a_list_with_a_tail() -> None:
    assert_passes_without_its_tail(List.changes)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (b"ima-ng", b"ima-ngv2"),
        (b"ima-ng", b"n-ng|d-ng"),
        (b"ima-ng", b"buf|n-ng"),
        (b"ima-buf", b"ima-sig"),
        (b"ima-buf", b"n-ng|d-ng|buf"),
    ],
)
def test_a_record_under_the_name_of_another_template_is_told(name: bytes, other: bytes) -> None:
    """More than one byte, and still hashed into nothing: its fields are read as others."""
    evidence = first_boot()
    records = records_of(evidence)
    usual = judge(evidence)
    untold = []
    for index, record in enumerate(records):
        if record.template == name and not record.violation:
            renamed = [*records[:index], replace(record, template=other), *records[index + 1 :]]
            judgement = judge(with_list(evidence, renamed))
            if judgement.exit_code == 0 and set(judgement.flags) <= set(usual.flags):
                untold.append(index)
    assert untold == []


def test_the_violations_are_where_the_mutations_find_them() -> None:
    assert [record.violation for record in records_of(first_boot())].count(True) == 2
    assert [record.violation for record in records_of(whole_run())].count(True) == 2
