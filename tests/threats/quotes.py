# SPDX-License-Identifier: GPL-2.0-only
"""Threats 1 to 4: quotes that do not say what they are said to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from evidence_maker import AK_ATTRIBUTES, ALG, PCRS_0_TO_10, Attestation, Key
from genuine import (
    Pcrs,
    Twin,
    digest_of,
    extended,
    naive_pcr10,
    records_of,
    with_last_quote,
    with_pcr10,
    with_snapshot,
)

from imakexec.attest import Reason, Verdict
from imakexec.evidence import Evidence, QuoteRecord
from threats import Threat, attack, signed_attack

INVALID, OUT_OF_SYNC = Verdict.INVALID_EVIDENCE, Verdict.OUT_OF_SYNC
MAIN = "main-job"
PCR_16 = b"\0\0\1"
PCRS_0_TO_9_AND_16 = b"\xff\3\1"


def last_quote(change: Callable[[QuoteRecord], QuoteRecord]) -> Callable[[Evidence], Evidence]:
    return lambda evidence: with_last_quote(evidence, change)


# 1: a quote that answers another question.


def earlier_poll(evidence: Evidence) -> Evidence:
    """Key, values and signature of the first poll, under the nonce of the last."""
    first = evidence.snapshots[0].before
    return with_last_quote(evidence, lambda last: replace(first, nonce=last.nonce))


def whole_earlier_poll(evidence: Evidence) -> Evidence:
    """Its nonce too, with the list that goes with it."""
    first, last = evidence.snapshots[0], evidence.snapshots[-1]
    return with_snapshot(evidence, replace(last, before=first.before, log=first.log, after=None))


def same_quote_twice(evidence: Evidence) -> Evidence:
    last = evidence.snapshots[-1]
    return with_snapshot(evidence, replace(last, after=last.before))


def signed_nonce(size: int) -> Callable[[Twin], Twin]:
    return lambda twin: twin.last_falsified(lambda a: replace(a, nonce=a.nonce[:size]))


REPLAYED = (
    attack(1, "quote of an earlier poll", MAIN, earlier_poll, INVALID, Reason.NONCE),
    attack(1, "quote and list of an earlier poll", MAIN, whole_earlier_poll, INVALID, Reason.NONCE),
    attack(1, "one quote before and after", MAIN, same_quote_twice, INVALID, Reason.NONCE),
    attack(
        1,
        "nonce too short",
        MAIN,
        last_quote(lambda last: replace(last, nonce=last.nonce[:-1])),
        INVALID,
        Reason.NONCE,
    ),
    attack(
        1,
        "nonce too long",
        MAIN,
        last_quote(lambda last: replace(last, nonce=last.nonce + b"\0")),
        INVALID,
        Reason.NONCE,
    ),
    attack(
        1,
        "empty nonce asked",
        MAIN,
        last_quote(lambda last: replace(last, nonce=b"")),
        INVALID,
        Reason.NONCE,
    ),
    signed_attack(1, "empty nonce asked and signed", MAIN, signed_nonce(0), INVALID, Reason.NONCE),
    signed_attack(
        1, "guessable nonce asked and signed", MAIN, signed_nonce(15), INVALID, Reason.NONCE
    ),
)


# 2: a quote that no TPM made, or not this one.


def by_key(key: Key) -> Callable[[Twin], Twin]:
    """All of the evidence by a key that is not what an attestation key must be."""
    return lambda twin: Twin(
        replace(twin.evidence, ak_public=key.public, ak_pem=key.pem), key
    ).falsified()


def without(attribute: int) -> Callable[[Twin], Twin]:
    return by_key(Key(attributes=AK_ATTRIBUTES & ~attribute))


def one_quote_by_another_key(twin: Twin) -> Evidence:
    return Twin(twin.evidence, Key()).last_falsified(lambda attestation: attestation).evidence


def signed_as_another(twin: Twin) -> Evidence:
    """The right key in another hierarchy: there the TPM obfuscates its counters."""
    foreign = Key(hierarchy=0x40000001, private=twin.key.private)
    return Twin(twin.evidence, foreign).last_falsified(lambda attestation: attestation).evidence


def other_public_key(evidence: Evidence) -> Evidence:
    other = Key()
    return replace(evidence, ak_public=other.public, ak_pem=other.pem)


def falsified(**members: object) -> Callable[[Twin], Twin]:
    """The last quote with other members, signed."""
    return lambda twin: twin.last_falsified(
        lambda attestation: replace(attestation, **members)  # type: ignore[arg-type]  # by name
    )


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


ATTRIBUTES = {
    "fixedTPM": 1 << 1,
    "fixedParent": 1 << 4,
    "sensitiveDataOrigin": 1 << 5,
    "restricted": 1 << 16,
    "sign": 1 << 18,
}

NOT_FROM_THE_TPM = (
    *(
        signed_attack(2, f"key without {name}", MAIN, without(bit), INVALID, Reason.AK)
        for name, bit in ATTRIBUTES.items()
    ),
    signed_attack(
        2,
        "key that decrypts",
        MAIN,
        by_key(Key(attributes=AK_ATTRIBUTES | 1 << 17)),
        INVALID,
        Reason.AK,
    ),
    attack(2, "wrong public key", MAIN, other_public_key, INVALID, Reason.SIGNATURE),
    attack(
        2,
        "wrong PEM",
        MAIN,
        lambda evidence: replace(evidence, ak_pem=Key().pem),
        INVALID,
        Reason.AK,
    ),
    signed_attack(
        2, "one quote by another key", MAIN, one_quote_by_another_key, INVALID, Reason.SIGNATURE
    ),
    signed_attack(2, "key of another hierarchy", MAIN, signed_as_another, INVALID, Reason.AK),
    attack(
        2,
        "magic altered",
        MAIN,
        last_quote(lambda last: replace(last, attest=flipped(last.attest, 3))),
        INVALID,
        Reason.MAGIC_TYPE,
    ),
    signed_attack(
        2, "magic altered and signed", MAIN, falsified(magic=0xFF544346), INVALID, Reason.MAGIC_TYPE
    ),
    signed_attack(
        2, "TPM2_Certify signed", MAIN, falsified(kind=0x8017), INVALID, Reason.MAGIC_TYPE
    ),
    attack(
        2,
        "trailing byte",
        MAIN,
        last_quote(lambda last: replace(last, attest=last.attest + b"\0")),
        INVALID,
        Reason.ATTEST,
    ),
    signed_attack(
        2, "trailing byte signed", MAIN, falsified(trailing=b"\0"), INVALID, Reason.ATTEST
    ),
    attack(
        2,
        "cut off",
        MAIN,
        last_quote(lambda last: replace(last, attest=last.attest[:-1])),
        INVALID,
        Reason.ATTEST,
    ),
    attack(
        2,
        "PCR digest altered",
        MAIN,
        last_quote(lambda last: replace(last, attest=flipped(last.attest, -32))),
        INVALID,
        Reason.SIGNATURE,
    ),
    attack(
        2,
        "signature altered",
        MAIN,
        last_quote(lambda last: replace(last, signature=flipped(last.signature, -1))),
        INVALID,
        Reason.SIGNATURE,
    ),
    attack(
        2,
        "signature of nothing",
        MAIN,
        last_quote(lambda last: replace(last, signature=b"")),
        INVALID,
        Reason.SIGNATURE,
    ),
)


# 3: another PCR presented as PCR 10. It was reset and extended with the attacker's own list.


def relabelled(bitmap: bytes, indices: tuple[int, ...]) -> Callable[[Twin], Twin]:
    """Quotes of a selection whose last PCR holds what the list without its last record gives.

    Args:
        bitmap: what is signed.
        indices: of the values that are handed in, the last of them as PCR 10.
    """

    def change(twin: Twin) -> Twin:
        records = twin.records[:-1]
        quoted = with_pcr10(twin.evidence.snapshots[-1].before.pcrs, records)
        pcrs = {bank: {i: values[i] for i in indices} for bank, values in quoted.items()}
        banks = twin.evidence.required_banks

        def select(attestation: Attestation) -> Attestation:
            selections = tuple((ALG[bank], bitmap) for bank in banks)
            return replace(attestation, selections=selections, pcr_digest=digest_of(pcrs))

        def sign(last: QuoteRecord) -> QuoteRecord:
            return replace(last, pcrs=pcrs)

        signed = twin.last_falsified(select)
        return replace(signed, evidence=with_last_quote(signed.evidence, sign))

    return change


RELABELLED = (
    signed_attack(
        3, "PCR 16 alone as PCR 10", MAIN, relabelled(PCR_16, (10,)), INVALID, Reason.SELECTION
    ),
    signed_attack(
        3,
        "PCR 0 to 9 and 16",
        MAIN,
        relabelled(PCRS_0_TO_9_AND_16, tuple(range(11))),
        INVALID,
        Reason.SELECTION,
    ),
    signed_attack(
        3,
        "PCR 10 alone",
        MAIN,
        relabelled(b"\0\4\0", (10,)),
        INVALID,
        Reason.SELECTION,
    ),
    signed_attack(
        3,
        "bitmap with a fourth byte",
        MAIN,
        relabelled(PCRS_0_TO_10 + b"\0", tuple(range(11))),
        INVALID,
        Reason.SELECTION,
    ),
)


# 4: banks.


def selections(*chosen: tuple[str, bytes]) -> Callable[[Twin], Twin]:
    """Sign another selection; the values and their digest are of the banks that have a bitmap."""

    def change(twin: Twin) -> Twin:
        quoted = tuple((ALG[bank], bitmap) for bank, bitmap in chosen)
        kept = [bank for bank, bitmap in chosen if any(bitmap)]
        pcrs = {
            bank: twin.evidence.snapshots[-1].before.pcrs[bank] for bank in kept if bank in PRESENT
        }
        digest = digest_of(pcrs)
        twin = twin.last_falsified(lambda a: replace(a, selections=quoted, pcr_digest=digest))
        evidence = with_last_quote(twin.evidence, lambda last: replace(last, pcrs=pcrs))
        return replace(twin, evidence=evidence)

    return change


PRESENT = ("sha1", "sha256")


def swapped_values(evidence: Evidence) -> Evidence:
    return with_last_quote(
        evidence,
        lambda last: replace(last, pcrs={"sha1": last.pcrs["sha256"], "sha256": last.pcrs["sha1"]}),
    )


def values_of_another_list(evidence: Evidence) -> Evidence:
    """PCR 10 as it should have been, under a quote that says otherwise."""
    return with_last_quote(
        evidence, lambda last: replace(last, pcrs=with_pcr10(last.pcrs, records_of(evidence)[:-1]))
    )


def values_cut_elsewhere(evidence: Evidence) -> Evidence:
    """The same bytes, and so the same digest, with a byte of PCR 9 counted to PCR 10."""

    def shifted(last: QuoteRecord) -> QuoteRecord:
        values = last.pcrs["sha256"]
        moved = {**values, 9: values[9][:-1], 10: values[9][-1:] + values[10]}
        return replace(last, pcrs={**last.pcrs, "sha256": moved})

    return with_last_quote(evidence, shifted)


def one_bank_extended(bank: str) -> Callable[[Twin], Twin]:
    """Root extends one bank behind the kernel's back."""
    return lambda twin: twin.with_pcrs(lambda pcrs: extended(pcrs, twin.records[-1], [bank]), at=-1)


def one_bank_behind(bank: str) -> Callable[[Twin], Twin]:
    """Each bank replays to a record of the list, but not to the same."""

    def behind(twin: Twin) -> Twin:
        value = naive_pcr10(twin.records[:-1], bank)

        def change(pcrs: Pcrs) -> Pcrs:
            return {**pcrs, bank: {**pcrs[bank], 10: value}}

        return twin.last_with_pcrs(change)

    return behind


BANKS = (
    signed_attack(
        4,
        "sha1 masked by the TPM",
        MAIN,
        selections(("sha1", bytes(3)), ("sha256", PCRS_0_TO_10)),
        INVALID,
        Reason.MISSING_BANK,
    ),
    signed_attack(
        4,
        "sha1 left out",
        MAIN,
        selections(("sha256", PCRS_0_TO_10)),
        INVALID,
        Reason.MISSING_BANK,
    ),
    signed_attack(
        4,
        "sha1 quoted twice",
        MAIN,
        selections(("sha1", PCRS_0_TO_10), ("sha1", PCRS_0_TO_10)),
        INVALID,
        Reason.SELECTION,
    ),
    signed_attack(
        4,
        "another bank quoted",
        MAIN,
        selections(("sha1", PCRS_0_TO_10), ("sha384", PCRS_0_TO_10)),
        INVALID,
        Reason.SELECTION,
    ),
    attack(
        4,
        "bank required that was not quoted",
        MAIN,
        lambda evidence: replace(evidence, required_banks=("sha1", "sha256", "sha384")),
        INVALID,
        Reason.MISSING_BANK,
    ),
    attack(
        4,
        "bank quoted that is not required",
        MAIN,
        lambda evidence: replace(evidence, required_banks=("sha256",)),
        INVALID,
        Reason.SELECTION,
    ),
    attack(4, "values of the other bank", MAIN, swapped_values, INVALID, Reason.PCR_DIGEST),
    attack(
        4, "values that were not quoted", MAIN, values_of_another_list, INVALID, Reason.PCR_DIGEST
    ),
    attack(4, "values cut elsewhere", MAIN, values_cut_elsewhere, INVALID, Reason.PCR_DIGEST),
    *(
        signed_attack(
            4,
            f"{bank} alone extended",
            MAIN,
            one_bank_extended(bank),
            OUT_OF_SYNC,
            Reason.BANKS_DIVERGE,
        )
        for bank in PRESENT
    ),
    *(
        signed_attack(
            4,
            f"{bank} one record behind",
            MAIN,
            one_bank_behind(bank),
            OUT_OF_SYNC,
            Reason.BANKS_DIVERGE,
        )
        for bank in PRESENT
    ),
)

THREATS: tuple[Threat, ...] = (*REPLAYED, *NOT_FROM_THE_TPM, *RELABELLED, *BANKS)
