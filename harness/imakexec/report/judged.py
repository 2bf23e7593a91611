# SPDX-License-Identifier: GPL-2.0-only
"""A judgement as a file holds it, "imakexec-judgement/1": of that, what a page shows.

Whoever wrote the file may be wrong or worse, so every member is checked for its type. That they
fit each other is not: an index may point to no record.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from imakexec.attest.judgement import JSON_SCHEMA
from imakexec.strict_json import JsonFault, Value, parse_json

_LARGEST = 64 << 20


@dataclass(frozen=True)
class MarkerNote:
    """What a record says that is or poses as a marker, and what the list itself gives.

    Attributes:
        accepted: whether every rule for markers holds.
        flaws: the rules that do not, in words.
        segment_size: of the segment in bytes, as logged; None if it cannot be read.
        sizes: of the list in bytes, as logged and recomputed; None likewise.
        counts: of its records, as logged and recomputed; None likewise.
    """

    accepted: bool
    flaws: tuple[str, ...]
    segment_size: int | None
    sizes: tuple[int, int] | None
    counts: tuple[int, int] | None

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read a marker."""
        logged, size, count, accepted, flaws = _members(
            value, "logged", "recomputed_size", "recomputed_count", "accepted", "flaws"
        )
        segment = sizes = counts = None
        if logged.value is not None:
            said = _members(logged, "segment_size", "runtime_size", "count")
            segment = said[0].natural()
            sizes = (said[1].natural(), size.natural())
            counts = (said[2].natural(), count.natural())
        return cls(accepted.boolean(), _texts(flaws), segment, sizes, counts)


@dataclass(frozen=True)
class RowNote:
    """One record worth a row of its own, or the records between two such.

    Attributes:
        kind: of `attest.timeline.RowKind`.
        boot: its number in the list.
        index: of the first record.
        count: of the records.
        size: of them in bytes.
        violations: among them.
        marker: of a kexec_load or kexec_execute.
        aggregate: how a boot_aggregate relates to the quotes, `BootAggregateState`; else empty.
    """

    kind: str
    boot: int
    index: int
    count: int
    size: int
    violations: int
    marker: MarkerNote | None = None
    aggregate: str = ""

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read a row."""
        kind, *numbers, marker, aggregate = _members(
            value,
            *("kind", "boot", "index", "count", "size", "violations", "marker", "boot_aggregate"),
        )
        boot, index, count, size, violations = (number.natural() for number in numbers)
        return cls(
            kind=_text(kind),
            boot=boot,
            index=index,
            count=count,
            size=size,
            violations=violations,
            marker=marker.optional(MarkerNote.read),
            aggregate=aggregate.optional(lambda item: _text(*_members(item, "state"))) or "",
        )


@dataclass(frozen=True)
class BootNote:
    """One boot of the list.

    Attributes:
        number: in the list, from 0.
        kind: "cold" or "kexec".
        kernel_version: by its own record; empty if there is none.
    """

    number: int
    kind: str
    kernel_version: str

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read a boot."""
        number, kind, version = _members(value, "number", "kind", "kernel_version")
        return cls(number.natural(), _text(kind), version.optional(_text) or "")


@dataclass(frozen=True)
class HandoverNote:
    """One kexec: the members of `attest.timeline.Handover` of the same names."""

    index: int
    markers: str
    markers_expected: bool
    bytes_used: int
    segment_size: int | None
    fill_percent: float | None
    full: bool | None
    next_size: int | None
    lost: int
    uncounted: int

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read a hand-over."""
        index, markers, expected, used, segment, fill, full, next_size, lost, uncounted = _members(
            value,
            *("index", "markers", "markers_expected", "bytes_used", "segment_size"),
            *("fill_percent", "full", "next_size", "lost", "uncounted"),
        )
        return cls(
            index=index.natural(),
            markers=_text(markers),
            markers_expected=expected.boolean(),
            bytes_used=used.natural(),
            segment_size=segment.optional(Value.natural),
            fill_percent=fill.optional(Value.number),
            full=full.optional(Value.boolean),
            next_size=next_size.optional(Value.natural),
            lost=lost.optional(Value.natural) or 0,
            uncounted=uncounted.natural(),
        )


@dataclass(frozen=True)
class SnapshotNote:
    """One snapshot: the members of `attest.judgement.SnapshotResult` of the same names."""

    name: str
    epoch: int
    records: int | None
    matched_records: tuple[int | None, ...]
    kept: int | None
    missing: int | None
    reset_count: int | None
    restart_count: int | None
    clock_ms: int | None

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read a snapshot."""
        name, epoch, matched, *numbers = _members(
            value,
            *("name", "epoch", "matched_records", "records", "kept", "missing"),
            *("reset_count", "restart_count", "clock_ms"),
        )
        records, kept, missing, reset, restart, clock = (
            number.optional(Value.natural) for number in numbers
        )
        return cls(
            name=_text(name),
            epoch=epoch.natural(),
            records=records,
            matched_records=tuple(item.optional(Value.natural) for item in matched.elements()),
            kept=kept,
            missing=missing,
            reset_count=reset,
            restart_count=restart,
            clock_ms=clock,
        )


@dataclass(frozen=True)
class BankNote:
    """PCR 10 of one bank: the members of `attest.judgement.BankResult`, digits for bytes."""

    bank: str
    expected: str
    quoted: str
    matched_records: int | None

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read a bank."""
        bank, expected, quoted, matched = _members(
            value, "bank", "expected", "quoted", "matched_records"
        )
        return cls(_text(bank), _text(expected), _text(quoted), matched.optional(Value.natural))


@dataclass(frozen=True)
class RecordNote:
    """A record near the first one in doubt.

    Attributes:
        index: of the record.
        template: its name.
        digest: the digest column, in hexadecimal.
        name: the event or path.
        violation: whether it is one.
    """

    index: int
    template: str
    digest: str
    name: str
    violation: bool

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read a record."""
        index, template, digest, name, violation = _members(
            value, "index", "template", "digest", "name", "violation"
        )
        return cls(
            index.natural(), _text(template), _text(digest), _text(name), violation.boolean()
        )


@dataclass(frozen=True)
class TimelineNote:
    """A whole list: rows, boots and hand-overs, in order."""

    rows: tuple[RowNote, ...]
    boots: tuple[BootNote, ...]
    handovers: tuple[HandoverNote, ...]

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read a timeline."""
        rows, boots, handovers = _members(value, "rows", "boots", "handovers")
        return cls(
            tuple(map(RowNote.read, rows.elements())),
            tuple(map(BootNote.read, boots.elements())),
            tuple(map(HandoverNote.read, handovers.elements())),
        )


@dataclass(frozen=True)
class JudgementNote:
    """A judgement: the members of `attest.judgement.Judgement` of the same names."""

    verdict: str
    reason: str
    sentence: str
    action: str
    where: str
    snapshot: str
    records: int | None
    first_divergence: int | None
    violations: tuple[int, ...]
    flags: tuple[str, ...]
    banks: tuple[BankNote, ...]
    context: tuple[RecordNote, ...]
    snapshots: tuple[SnapshotNote, ...]
    timeline: TimelineNote | None

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read a document.

        Raises:
            JsonFault: it is none of the form.
        """
        [schema] = _members(value, "schema")
        if _text(schema) != JSON_SCHEMA:
            raise schema.wrong(f"{JSON_SCHEMA!r} expected")
        words = _members(value, "verdict", "reason", "sentence", "action", "where", "snapshot")
        verdict, reason, sentence, action, where, snapshot = map(_text, words)
        records, divergence, violations, flags, banks, context, snapshots, timeline = _members(
            value,
            *("records", "first_divergence", "violations", "flags", "banks", "context"),
            *("snapshots", "timeline"),
        )
        return cls(
            verdict=verdict,
            reason=reason,
            sentence=sentence,
            action=action,
            where=where,
            snapshot=snapshot,
            records=records.optional(Value.natural),
            first_divergence=divergence.optional(Value.natural),
            violations=tuple(item.natural() for item in violations.elements()),
            flags=_texts(flags),
            banks=tuple(map(BankNote.read, banks.elements())),
            context=tuple(map(RecordNote.read, context.elements())),
            snapshots=tuple(map(SnapshotNote.read, snapshots.elements())),
            timeline=timeline.optional(TimelineNote.read),
        )


def read_judgement(path: Path) -> JudgementNote:
    """Read a file.

    Raises:
        JsonFault: it cannot be read, is longer than 64 MiB, or is no such document.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise JsonFault(str(error.strerror), file=path.name) from error
    if len(content) > _LARGEST:
        raise JsonFault(f"longer than {_LARGEST} bytes", file=path.name)
    return JudgementNote.read(parse_json(content, path.name))


def _members(value: Value, *names: str) -> tuple[Value, ...]:
    """These members of an object, which may have others."""
    found = {item.name: item for item in value.items()}
    for name in names:
        if name not in found:
            raise value.wrong(f"member {name!r} is missing")
    return tuple(found[name] for name in names)


def _text(value: Value) -> str:
    """A string as it is, whatever stands in it: the page escapes it."""
    if not isinstance(value.value, str):
        raise value.wrong("a string expected")
    return value.value


def _texts(value: Value) -> tuple[str, ...]:
    return tuple(map(_text, value.elements()))
