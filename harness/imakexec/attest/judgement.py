# SPDX-License-Identifier: GPL-2.0-only
"""Everything that a report needs to know about judged evidence, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from imakexec.attest.checkpoint import Continuity
from imakexec.attest.crosscheck import CrossCheck
from imakexec.attest.log import Layout
from imakexec.attest.plain import Plain, plain
from imakexec.attest.power import ListObservation, Transition
from imakexec.attest.reasons import EXIT_CODES, Flag, Reason, Verdict
from imakexec.attest.timeline import Timeline

JSON_SCHEMA = "imakexec-judgement/1"


@dataclass(frozen=True)
class BankResult:
    """PCR 10 of one bank.

    Args:
        bank: its name, e.g. "sha256".
        expected: the value after all records of the list.
        quoted: the value that the deciding quote vouches for.
        matched_records: after how many records the list gives that value; None if it never does.
    """

    bank: str
    expected: bytes
    quoted: bytes
    matched_records: int | None


@dataclass(frozen=True)
class SnapshotResult:
    """One snapshot beside the judged list.

    Args:
        name: of the snapshot.
        epoch: the boot epoch it was taken in.
        records: in its own list; None if only a quote was taken.
        matched_records: for each of its quotes, after how many records of its own list all banks
            hold the quoted values; None if they never do.
        kept: how many of its leading records the judged list still begins with.
        missing: how many of its records the judged list lacks or contradicts.
        reset_count: the TPM's resetCount at its last quote; None for bare PCR values.
        restart_count: restartCount likewise.
        clock_ms: the TPM's clock at its last quote, in milliseconds; None likewise.
    """

    name: str
    epoch: int
    records: int | None
    matched_records: tuple[int | None, ...]
    kept: int | None
    missing: int | None
    reset_count: int | None
    restart_count: int | None
    clock_ms: int | None


@dataclass(frozen=True)
class ContextRecord:
    """A record near the one at which a list and its quotes part.

    Args:
        index: of the record.
        pcr: that it names.
        template: its name.
        digest: the digest column.
        name: the event or path; what is not UTF-8 is shown as backslash escapes.
        violation: whether the PCR was extended with 0xff bytes, whatever the record says.
    """

    index: int
    pcr: int
    template: str
    digest: bytes
    name: str
    violation: bool


@dataclass(frozen=True)
class Basis:
    """What a checkpoint after this judgement is made of.

    Args:
        item: the judged list.
        key: fingerprint of the key that signed its quotes; None for bare PCR values.
        proven: how many of its leading records are proven, by any quote or checkpoint.
    """

    item: ListObservation
    key: bytes | None
    proven: int


@dataclass(frozen=True)
class Judgement:
    """What the evidence proves.

    Args:
        verdict: the verdict; `exit_code` follows from it.
        reason: the stable reason code.
        sentence: the verdict in one plain sentence.
        action: what the operator should do.
        where: the file, snapshot or record that decided; empty if none did.
        snapshot: the snapshot whose list was judged; empty if it did not come to that.
        layout: byte order of the judged list, and whose digests it holds.
        records: how many records it has.
        first_divergence: index, from 0, of the first record that the quotes do not vouch for or
            after which something is missing; None if there is none.
        context: the records around it, if the list has any there.
        banks: PCR 10 per bank, replayed and quoted.
        timeline: of the judged list.
        snapshots: all snapshots, in order.
        transitions: what lies between them.
        kexecs: how many kexecs were seen between the snapshots, by the TPM's counters.
        cold_boots: how many cold boots were seen between the snapshots, likewise.
        violations: the indices of the violation records in the judged list.
        continuity: how the list relates to a checkpoint; None if none was given.
        checks: file to what comparing the list with the one in it has shown.
        flags: what else a reader should know, sorted.
        basis: of a checkpoint after it; not part of the JSON.
    """

    verdict: Verdict
    reason: Reason
    sentence: str
    action: str
    where: str = ""
    snapshot: str = ""
    layout: Layout | None = None
    records: int | None = None
    first_divergence: int | None = None
    context: tuple[ContextRecord, ...] = ()
    banks: tuple[BankResult, ...] = ()
    timeline: Timeline | None = None
    snapshots: tuple[SnapshotResult, ...] = ()
    transitions: tuple[Transition, ...] = ()
    kexecs: int = 0
    cold_boots: int = 0
    violations: tuple[int, ...] = ()
    continuity: Continuity | None = None
    checks: Mapping[Path, CrossCheck] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    basis: Basis | None = field(default=None, repr=False, compare=False)

    @property
    def exit_code(self) -> int:
        """The exit code of `imakexec verify`."""
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Plain]:
        """The same as plain JSON values, digests in hexadecimal; keys are stable per schema."""
        names = (item.name for item in fields(self) if item.name != "basis")
        members = {name: plain(getattr(self, name)) for name in names}
        return {"schema": JSON_SCHEMA, "exit_code": self.exit_code, **members}
