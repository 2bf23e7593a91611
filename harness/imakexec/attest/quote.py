# SPDX-License-Identifier: GPL-2.0-only
"""Whether a TPM vouches for PCR values, and with which state of its counters.

A quote is believed only if a restricted key signed it: such a key signs nothing that begins with
TPM_GENERATED_VALUE unless the TPM made it (TPM 2.0 part 1, "Restricted Attribute"). And
pcrDigest alone does not bind the PCR indices, so the signed selection must be exactly the
expected one (CVE-2024-29039 of tpm2-tools is what happens otherwise).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from imakexec.attest.reasons import Reason, Rejection
from imakexec.attest.structures import (
    ECC_NIST_P256,
    HASH_NAMES,
    Alg,
    Attest,
    ClockInfo,
    EccPublic,
    EcdsaSignature,
    ObjectAttributes,
    StructureError,
    WrongKindError,
)
from imakexec.evidence import AK_PEM, AK_PUBLIC, QuoteRecord

QUOTED_PCRS = range(11)
"""PCR 0-9 are what boot_aggregate is made of, PCR 10 is IMA's."""

MIN_NONCE_SIZE = 16

_BITMAP = bytes([0xFF, 0x07, 0x00])
_TPM_RH_ENDORSEMENT = 0x4000000B
_REQUIRED = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.SIGN_ENCRYPT
)
# SHA-1 is absent: it no longer makes a signature trustworthy.
_SIGNATURE_HASHES: Mapping[int, hashes.HashAlgorithm] = {
    Alg.SHA256: hashes.SHA256(),
    Alg.SHA384: hashes.SHA384(),
    Alg.SHA512: hashes.SHA512(),
}


@dataclass(frozen=True)
class AttestationKey:
    """A key that can sign nothing but what its TPM made, as its own public area says.

    Args:
        key: the public key.
        hash_alg: TPM_ALG_ID of the hash that its scheme is bound to.
        qualified_name: what the TPM puts into qualifiedSigner of each quote of this key.
    """

    key: ec.EllipticCurvePublicKey
    hash_alg: int
    qualified_name: bytes

    @classmethod
    def load(cls, public: bytes, pem: str) -> AttestationKey:
        """Check an attestation key.

        Args:
            public: TPM2B_PUBLIC bytes.
            pem: what must be the same key as SubjectPublicKeyInfo.

        Raises:
            Rejection: reason ak: not a restricted ECDSA P-256 signing key of one TPM.
        """
        try:
            area = EccPublic.parse(public)
            return cls(_same_key(area, pem), _scheme_hash(area), _qualified_name(area))
        except StructureError as error:
            raise Rejection(
                Reason.AK, f"not an attestation key: {error}", where=AK_PUBLIC
            ) from None


@dataclass(frozen=True)
class Quote:
    """A quote that holds.

    Args:
        clock_info: the TPM's clock and counters at the quote.
        pcrs: bank to the values of PCR 0-10 in order, as the signature covers them.
        nonce: the nonce that was signed.
    """

    clock_info: ClockInfo
    pcrs: Mapping[str, Sequence[bytes]]
    nonce: bytes

    def pcr(self, index: int) -> dict[str, bytes]:
        """The value of one PCR in each bank."""
        return {bank: values[index] for bank, values in self.pcrs.items()}


def verify_quote(record: QuoteRecord, ak: AttestationKey, banks: Sequence[str]) -> Quote:
    """Check one quote against its key, its nonce and the banks that must be in it.

    Args:
        record: the quote as it was taken.
        ak: the key that must have signed it.
        banks: the banks that the TPM has allocated; each must be quoted, and no other.

    Raises:
        Rejection: with a reason of INVALID_EVIDENCE.
    """
    try:
        attest = Attest.parse(record.attest)
    except WrongKindError as error:
        raise Rejection(Reason.MAGIC_TYPE, f"not a quote: {error}") from None
    except StructureError as error:
        raise Rejection(Reason.ATTEST, f"not a TPMS_ATTEST: {error}") from None
    _check_signature(record, ak)
    if attest.qualified_signer != ak.qualified_name:
        raise Rejection(
            Reason.AK,
            f"signed by {attest.qualified_signer.hex()}, but as a primary key in the endorsement"
            f" hierarchy the key would be {ak.qualified_name.hex()}",
        )
    _check_nonce(record.nonce, attest.extra_data)
    _check_selection(attest, banks)
    return Quote(attest.clock_info, _quoted_pcrs(record, attest, ak), record.nonce)


def check_fresh_nonces(quotes: Sequence[Quote]) -> None:
    """A quote that answers an earlier question says nothing about now.

    Raises:
        Rejection: reason nonce: two quotes have the same nonce.
    """
    seen: set[bytes] = set()
    for quote in quotes:
        if quote.nonce in seen:
            raise Rejection(Reason.NONCE, f"the nonce {quote.nonce.hex()} was used twice")
        seen.add(quote.nonce)


def _same_key(area: EccPublic, pem: str) -> ec.EllipticCurvePublicKey:
    """The key of a public area, if the PEM says the same."""
    missing = _REQUIRED & ~area.attributes
    if missing or area.attributes & ObjectAttributes.DECRYPT:
        raise StructureError(
            f"attributes {area.attributes:#x}: {_REQUIRED:#x} must be set,"
            f" {ObjectAttributes.DECRYPT:#x} must not"
        )
    if area.curve != ECC_NIST_P256:
        raise StructureError(f"curve {area.curve:#06x}, {ECC_NIST_P256:#06x} (P-256) expected")
    numbers = ec.EllipticCurvePublicNumbers(area.x, area.y, ec.SECP256R1())
    try:
        key = numbers.public_key()
        other = load_pem_public_key(pem.encode("ascii"))
    except ValueError as error:
        raise Rejection(Reason.AK, f"not a public key: {error}", where=AK_PEM) from None
    if not isinstance(other, ec.EllipticCurvePublicKey) or other.public_numbers() != numbers:
        raise Rejection(Reason.AK, f"another key than in {AK_PUBLIC}", where=AK_PEM)
    return key


def _scheme_hash(area: EccPublic) -> int:
    if area.hash_alg not in _SIGNATURE_HASHES:
        raise StructureError(f"scheme hash {area.hash_alg:#06x} is not one of SHA-2")
    return area.hash_alg


def _qualified_name(area: EccPublic) -> bytes:
    """The qualified name of a primary key in the endorsement hierarchy.

    TPM 2.0 part 1, sections 16 and 26: Name = nameAlg || H(TPMT_PUBLIC) and
    QN = nameAlg || H(QN of the parent || Name), where a hierarchy's QN is its handle. It matters:
    to a key in any other hierarchy the TPM shows its counters obfuscated.
    """
    if area.name_alg not in _SIGNATURE_HASHES:
        raise StructureError(f"name algorithm {area.name_alg:#06x} is not one of SHA-2")
    prefix = area.name_alg.to_bytes(2, "big")
    name = prefix + _hash(area.name_alg, area.area)
    return prefix + _hash(area.name_alg, _TPM_RH_ENDORSEMENT.to_bytes(4, "big") + name)


def _check_signature(record: QuoteRecord, ak: AttestationKey) -> None:
    try:
        signature = EcdsaSignature.parse(record.signature)
    except StructureError as error:
        raise Rejection(Reason.SIGNATURE, f"not a TPMT_SIGNATURE: {error}") from None
    if signature.hash_alg != ak.hash_alg:
        raise Rejection(
            Reason.SIGNATURE,
            f"hash {signature.hash_alg:#06x}, the key is bound to {ak.hash_alg:#06x}",
        )
    der = encode_dss_signature(signature.r, signature.s)
    try:
        ak.key.verify(der, record.attest, ec.ECDSA(_SIGNATURE_HASHES[ak.hash_alg]))
    except InvalidSignature:
        raise Rejection(
            Reason.SIGNATURE, "the signature is not one of this key over this quote"
        ) from None


def _check_nonce(asked: bytes, signed: bytes) -> None:
    if len(asked) < MIN_NONCE_SIZE:
        raise Rejection(
            Reason.NONCE,
            f"the nonce has {len(asked)} bytes, at least {MIN_NONCE_SIZE} are needed",
        )
    if asked != signed:
        raise Rejection(Reason.NONCE, f"{signed.hex()} was signed, {asked.hex()} was asked for")


def _check_selection(attest: Attest, banks: Sequence[str]) -> None:
    """Exactly PCR 0-10 of exactly the allocated banks, each once.

    A TPM silently masks a bank that it has not allocated: it leaves it out or clears its bitmap.
    """
    seen = [selection.bank for selection in attest.selections]
    for selection in attest.selections:
        if selection.bank not in banks:
            raise Rejection(Reason.SELECTION, f"bank {selection.bank} was quoted unasked")
        if not any(selection.bitmap):
            raise Rejection(Reason.MISSING_BANK, f"no PCR of bank {selection.bank} was quoted")
        if selection.bitmap != _BITMAP or seen.count(selection.bank) != 1:
            raise Rejection(
                Reason.SELECTION,
                f"PCR bitmap {selection.bitmap.hex()} of bank {selection.bank} was signed,"
                f" {_BITMAP.hex()} (PCR 0-10) once expected",
            )
    missing = [bank for bank in banks if bank not in seen]
    if missing:
        raise Rejection(Reason.MISSING_BANK, f"bank {missing[0]} is allocated but was not quoted")


def _quoted_pcrs(
    record: QuoteRecord, attest: Attest, ak: AttestationKey
) -> dict[str, tuple[bytes, ...]]:
    """The supplied values, if they are exactly what the selection covers and make pcrDigest."""
    banks = [selection.bank for selection in attest.selections]
    if sorted(record.pcrs) != sorted(banks):
        raise Rejection(
            Reason.PCR_DIGEST, f"values of {sorted(record.pcrs)} given, {sorted(banks)} were quoted"
        )
    for bank, given in record.pcrs.items():
        if sorted(given) != list(QUOTED_PCRS):
            raise Rejection(
                Reason.PCR_DIGEST, f"bank {bank}: values of PCR {sorted(given)} given, 0-10 quoted"
            )
    values = {bank: tuple(record.pcrs[bank][index] for index in QUOTED_PCRS) for bank in banks}
    for bank in banks:
        size = hashlib.new(bank).digest_size
        if any(len(value) != size for value in values[bank]):
            raise Rejection(Reason.PCR_DIGEST, f"bank {bank}: a value is not {size} bytes long")
    digest = _hash(ak.hash_alg, b"".join(b"".join(values[bank]) for bank in banks))
    if digest != attest.pcr_digest:
        raise Rejection(
            Reason.PCR_DIGEST,
            f"the PCR values given hash to {digest.hex()}, {attest.pcr_digest.hex()} was signed",
        )
    return values


def _hash(alg: int, data: bytes) -> bytes:
    return hashlib.new(HASH_NAMES[alg], data).digest()
