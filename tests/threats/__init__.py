# SPDX-License-Identifier: GPL-2.0-only
"""The fifteen threats of the threat model, each as attacks on genuine evidence.

An attack takes the evidence of a vector, or its twin that a key of the test has signed anew, and
returns what the attacker hands in. docs/test-vectors.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evidence_maker import Rec
from genuine import Edit, Twin, genuine

from imakexec.attest import Flag, Reason, Verdict
from imakexec.evidence import Evidence

Attack = Callable[[Evidence], Evidence]
SignedAttack = Callable[[Twin], Twin | Evidence]


@dataclass(frozen=True)
class Threat:
    """One attack and how it must end.

    Args:
        number: of the threat, 1 to 15.
        name: of this form of it.
        vector: of tests/vectors, that it is made from.
        made: makes the evidence that the attacker hands in.
        verdict: the verdict that it must get.
        reason: likewise.
        flags: exactly those of the judgement.
    """

    number: int
    name: str
    vector: str
    made: Callable[[], Evidence]
    verdict: Verdict
    reason: Reason
    flags: frozenset[Flag]

    @property
    def label(self) -> str:
        """The identifier of its test."""
        return f"threat-{self.number:02d}-{self.name.replace(' ', '-')}"


def attack(
    number: int,
    name: str,
    vector: str,
    change: Attack,
    verdict: Verdict,
    reason: Reason,
    *flags: Flag,
) -> Threat:
    """An attack on a genuine vector that needs no signature."""
    return Threat(
        number, name, vector, lambda: change(genuine(vector)), verdict, reason, frozenset(flags)
    )


def signed_attack(
    number: int,
    name: str,
    vector: str,
    change: SignedAttack,
    verdict: Verdict,
    reason: Reason,
    *flags: Flag,
) -> Threat:
    """An attack by somebody whose signatures are believed, on the twin of a vector."""

    def made() -> Evidence:
        result = change(Twin.of(vector))
        return result.evidence if isinstance(result, Twin) else result

    return Threat(number, name, vector, made, verdict, reason, frozenset(flags))


def measured(record: Rec) -> SignedAttack:
    """One more record at the end of the last list, extended as the kernel would have done it."""

    def change(twin: Twin) -> Twin:
        return twin.measured(record)

    return change


def lived(edit: Edit) -> SignedAttack:
    """As if the machine had measured it so, at first sight: only rules for records can object."""

    def change(twin: Twin) -> Twin:
        records = twin.records
        edit(records)
        return twin.first_sight().lived(records)

    return change
