# SPDX-License-Identifier: GPL-2.0-only
"""Everything that a report needs to know about judged evidence, for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass, fields

from imakexec.attest.plain import Plain, plain
from imakexec.attest.power import Transition
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
        reset_count: the TPM's resetCount at its last quote.
        restart_count: restartCount likewise.
        clock_ms: the TPM's clock at its last quote, in milliseconds.
    """

    name: str
    epoch: int
    records: int | None
    matched_records: tuple[int | None, ...]
    kept: int | None
    missing: int | None
    reset_count: int
    restart_count: int
    clock_ms: int


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
        records: how many records the judged list has.
        first_divergence: index, from 0, of the first record that the quotes do not vouch for or
            after which something is missing; None if there is none.
        banks: PCR 10 per bank, replayed and quoted.
        timeline: of the judged list.
        snapshots: all snapshots, in order.
        transitions: what lies between them.
        kexecs: how many kexecs were seen between the snapshots, by the TPM's counters.
        cold_boots: how many cold boots were seen between the snapshots, likewise.
        violations: the indices of the violation records in the judged list.
        flags: what else a reader should know, sorted.
    """

    verdict: Verdict
    reason: Reason
    sentence: str
    action: str
    where: str = ""
    snapshot: str = ""
    records: int | None = None
    first_divergence: int | None = None
    banks: tuple[BankResult, ...] = ()
    timeline: Timeline | None = None
    snapshots: tuple[SnapshotResult, ...] = ()
    transitions: tuple[Transition, ...] = ()
    kexecs: int = 0
    cold_boots: int = 0
    violations: tuple[int, ...] = ()
    flags: tuple[Flag, ...] = ()

    @property
    def exit_code(self) -> int:
        """The exit code of `imakexec verify`."""
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Plain]:
        """The same as plain JSON values, digests in hexadecimal; keys are stable per schema."""
        members = {item.name: plain(getattr(self, item.name)) for item in fields(self)}
        return {"schema": JSON_SCHEMA, "exit_code": self.exit_code, **members}
