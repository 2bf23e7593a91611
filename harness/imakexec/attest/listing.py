# SPDX-License-Identifier: GPL-2.0-only
"""What a list shows on its own, and the PCR values that it leads to: authenticated by nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from imakexec.attest.crosscheck import CrossCheck
from imakexec.attest.log import ByteOrder
from imakexec.attest.plain import Plain, plain
from imakexec.attest.reasons import EXIT_CODES, Verdict
from imakexec.attest.replay import Replay, replay
from imakexec.attest.source import Buffer, SourceKind, WholeList
from imakexec.attest.timeline import Timeline, build_timeline

LIST_SCHEMA = "imakexec-list/1"
PCR_SCHEMA = "imakexec-pcr/1"


@dataclass(frozen=True)
class Part:
    """One file of a list.

    Args:
        path: of the file.
        kind: what it is.
        records: how many it adds to the list.
        buffer: the hand-over buffer that carries them; None in a list.
        others: offsets of further buffers in a memory dump, which hold no more records.
    """

    path: Path
    kind: SourceKind
    records: int
    buffer: Buffer | None
    others: tuple[int, ...]


@dataclass(frozen=True)
class TemplateUse:
    """The records of one template.

    Args:
        name: of the template, or its format.
        fields: the identifiers of its fields; None if they are unknown.
        records: how many there are.
        size: of all of them in bytes, as the kernel hands them over.
    """

    name: str
    fields: tuple[str, ...] | None
    records: int
    size: int


@dataclass(frozen=True)
class Overview:
    """What every view of a list begins with.

    Args:
        parts: the files, in the order of their records.
        repeats_saved_records: whether the last file begins with all that the others hold.
        byteorder: of all integers.
        canonical: whether that is the order of ima_canonical_fmt.
        bank: whose digests stand in the digest column.
        records: how many there are.
        size: of the list in bytes.
        violations: the indices of the violation records.
        contradiction: the first record whose digest column is not the hash of its template data,
            or None.
    """

    parts: tuple[Part, ...]
    repeats_saved_records: bool
    byteorder: ByteOrder
    canonical: bool
    bank: str
    records: int
    size: int
    violations: tuple[int, ...]
    contradiction: int | None

    @classmethod
    def of(cls, whole: WholeList, outcome: Replay) -> Overview:
        """The overview of a list that was replayed."""
        layout = whole.log.layout
        return cls(
            parts=tuple(
                Part(item.path, item.kind, len(item.log), item.buffer, item.others)
                for item in whole.sources
            ),
            repeats_saved_records=whole.repeats_saved_records,
            byteorder=layout.byteorder,
            canonical=layout.byteorder is ByteOrder.LITTLE,
            bank=layout.bank,
            records=len(whole.log),
            size=len(whole.log.data),
            violations=tuple(outcome.violations),
            contradiction=outcome.contradiction,
        )


@dataclass(frozen=True)
class Listing:
    """A list as a story.

    Args:
        overview: of the list.
        templates: those that occur, by name.
        pcrs: the PCRs that the records name, ascending.
        timeline: of the list; without a quote no boot_aggregate can be checked.
        checks: file to what the comparison with the list in it has shown.
    """

    overview: Overview
    templates: tuple[TemplateUse, ...]
    pcrs: tuple[int, ...]
    timeline: Timeline
    checks: Mapping[Path, CrossCheck]

    @property
    def exit_code(self) -> int:
        """The exit code of `imakexec show`."""
        agrees = all(check.agrees for check in self.checks.values())
        return _exit_code(agrees and self.overview.contradiction is None)

    def to_json(self) -> dict[str, Plain]:
        """The same as plain JSON values; keys are stable per schema."""
        head: dict[str, Plain] = {"schema": LIST_SCHEMA, "exit_code": self.exit_code}
        return head | _members(self.overview) | _members(self)


@dataclass(frozen=True)
class ReplayedPcrs:
    """What a list leads to.

    Args:
        overview: of the list.
        pcrs: every PCR that a record names, ascending, to its value per bank.
    """

    overview: Overview
    pcrs: Mapping[int, Mapping[str, bytes]]

    @property
    def exit_code(self) -> int:
        """The exit code of `imakexec pcr`."""
        return _exit_code(self.overview.contradiction is None)

    def to_json(self) -> dict[str, Plain]:
        """The same as plain JSON values, PCR values in hexadecimal; keys are stable per schema."""
        head: dict[str, Plain] = {"schema": PCR_SCHEMA, "exit_code": self.exit_code}
        return head | _members(self.overview) | _members(self)


def list_story(whole: WholeList, checks: Mapping[Path, CrossCheck]) -> Listing:
    """Tell what a list shows.

    Args:
        checks: file to what the comparison with the list in it has shown.
    """
    outcome = replay(whole.log, (), {})
    counts, sizes = Counter[str](), Counter[str]()
    for template, size in whole.log.sizes():
        counts[template.name] += 1
        sizes[template.name] += size
    return Listing(
        overview=Overview.of(whole, outcome),
        templates=tuple(
            TemplateUse(item.name, item.fields, counts[item.name], sizes[item.name])
            for item in whole.log.templates
        ),
        pcrs=tuple(outcome.pcrs),
        timeline=build_timeline(
            whole.log,
            violations=outcome.violations,
            seen=(),
            earlier=(),
            epoch=0,
            first_epoch=None,
        ),
        checks=checks,
    )


def replayed_pcrs(whole: WholeList, banks: Sequence[str], *, processes: int = 1) -> ReplayedPcrs:
    """Replay a list.

    Args:
        banks: of `imakexec.attest.replay.HASHES`, each once.
        processes: as for `replay`.
    """
    outcome = replay(whole.log, banks, dict.fromkeys(banks, ()), processes=processes)
    return ReplayedPcrs(Overview.of(whole, outcome), outcome.pcrs)


def _exit_code(is_consistent: bool) -> int:
    return EXIT_CODES[Verdict.IN_SYNC if is_consistent else Verdict.TAMPERED]


def _members(value: Overview | Listing | ReplayedPcrs) -> dict[str, Plain]:
    names = (item.name for item in fields(value) if item.name != "overview")
    return {name: plain(getattr(value, name)) for name in names}
