# SPDX-License-Identifier: GPL-2.0-only
"""Whether a TPM vouches for PCR values, and with which state of its counters.

A quote is believed only if a restricted key signed it: such a key signs nothing that begins with
TPM_GENERATED_VALUE unless the TPM made it (TPM 2.0 part 1, "Restricted Attribute").
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from imakexec.attest.log import DIGEST_SIZES
from imakexec.attest.reasons import Reason, Rejection
from imakexec.attest.selection import Selection, shown_indices
from imakexec.attest.structures import (
    HASH_NAMES,
    Alg,
    Attest,
    ClockInfo,
    EccPoint,
    ObjectAttributes,
    PublicArea,
    RsaModulus,
    Scheme,
    Signature,
    StructureError,
    WrongKindError,
)
from imakexec.evidence import AK_PEM, AK_PUBLIC, QuoteRecord

MIN_NONCE_SIZE = 16
_MIN_MODULUS_BITS = 2048

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
# TPM_ECC_CURVE, TPM 2.0 part 2, 6.4.
_CURVES: Mapping[int, ec.EllipticCurve] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1()}

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True)
class AttestationKey:
    """A key whose quotes are to be believed.

    Args:
        key: the public key.
        scheme: that its public area binds it to; None if only the public key is known.
        qualified_name: what the TPM puts into qualifiedSigner of each quote of this key if it is a
            primary in the endorsement hierarchy; None if only the public key is known.
    """

    key: PublicKey
    scheme: Scheme | None
    qualified_name: bytes | None

    @classmethod
    def load(cls, public: bytes, pem: str) -> AttestationKey:
        """Check the attestation key of an evidence folder.

        Args:
            public: TPM2B_PUBLIC bytes.
            pem: what must be the same key as SubjectPublicKeyInfo.

        Raises:
            Rejection: reason ak: not a restricted signing key of one TPM, or not the same key.
        """
        loaded = cls.from_public(public, AK_PUBLIC)
        if cls.from_pem(pem, AK_PEM).fingerprint != loaded.fingerprint:
            raise Rejection(Reason.AK, f"another key than in {AK_PUBLIC}", where=AK_PEM)
        return loaded

    @classmethod
    def from_public(cls, public: bytes, where: str) -> AttestationKey:
        """A key that can sign nothing but what its TPM made, as its own public area says.

        Args:
            public: TPM2B_PUBLIC bytes.
            where: the file that they are from.

        Raises:
            Rejection: reason ak: not a restricted signing key of one TPM, of ECDSA with P-256 or
                P-384, RSASSA or RSAPSS, and SHA-2.
        """
        try:
            area = PublicArea.parse(public)
            _check_attributes(area.attributes)
            _check_hash(area.scheme.hash_alg, "scheme")
            return cls(_checked(_public_key(area.key)), area.scheme, _qualified_name(area))
        except (StructureError, UnsupportedAlgorithm) as error:
            raise Rejection(Reason.AK, f"not an attestation key: {error}", where=where) from None

    @classmethod
    def from_pem(cls, pem: str, where: str) -> AttestationKey:
        """A public key of which nobody says what else it can sign.

        Args:
            pem: SubjectPublicKeyInfo.
            where: the file that it is from.

        Raises:
            Rejection: reason ak: not a key of ECDSA with P-256 or P-384, or of RSA.
        """
        try:
            return cls(_checked(load_pem_public_key(pem.encode())), None, None)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise Rejection(Reason.AK, f"not a public key: {error}", where=where) from None

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the key's SubjectPublicKeyInfo in DER."""
        der = self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(der).digest()

    @property
    def is_known_restricted(self) -> bool:
        """Whether its public area, which says so, is known."""
        return self.scheme is not None


@dataclass(frozen=True)
class Quote:
    """PCR values, and who says so.

    Args:
        clock_info: the TPM's clock and counters at the quote; None for bare values, which nobody
            has signed.
        pcrs: bank to PCR index to value, as the signature covers them.
        nonce: the nonce that was signed.
    """

    clock_info: ClockInfo | None
    pcrs: Mapping[str, Mapping[int, bytes]]
    nonce: bytes

    def pcr(self, index: int) -> dict[str, bytes]:
        """The value of one PCR in each bank."""
        return {bank: values[index] for bank, values in self.pcrs.items()}


def verify_quote(
    record: QuoteRecord, ak: AttestationKey, selection: Selection, *, primary: bool = True
) -> Quote:
    """Check one quote against its key, its nonce and the PCRs that must be in it.

    Args:
        record: the quote as it was taken.
        ak: the key that must have signed it.
        selection: what must be quoted, and nothing else.
        primary: whether the key must be a primary in the endorsement hierarchy. The TPM shows
            resetCount and restartCount with an offset to a key in any other hierarchy.

    Raises:
        Rejection: with a reason of INVALID_EVIDENCE.
    """
    try:
        attest = Attest.parse(record.attest)
    except WrongKindError as error:
        raise Rejection(Reason.MAGIC_TYPE, f"not a quote: {error}") from None
    except StructureError as error:
        raise Rejection(Reason.ATTEST, f"not a TPMS_ATTEST: {error}") from None
    scheme = _check_signature(record, ak)
    if primary and attest.qualified_signer != ak.qualified_name:
        expected = "unknown" if ak.qualified_name is None else ak.qualified_name.hex()
        raise Rejection(
            Reason.AK,
            f"signed by {attest.qualified_signer.hex()}, but as a primary key in the endorsement"
            f" hierarchy the key would be {expected}",
        )
    _check_nonce(record.nonce, attest.extra_data)
    selection.check(attest.selections)
    values = _quoted_pcrs(record, attest, selection, HASH_NAMES[scheme.hash_alg])
    return Quote(attest.clock_info, values, record.nonce)


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


def _check_attributes(attributes: ObjectAttributes) -> None:
    if _REQUIRED & ~attributes or attributes & ObjectAttributes.DECRYPT:
        raise StructureError(
            f"attributes {attributes:#x}: {_REQUIRED:#x} must be set,"
            f" {ObjectAttributes.DECRYPT:#x} must not"
        )


def _check_hash(alg: int, what: str) -> None:
    if alg not in _SIGNATURE_HASHES:
        raise StructureError(f"{what} hash {alg:#06x} is not one of SHA-2")


def _public_key(numbers: EccPoint | RsaModulus) -> PublicKey:
    try:
        if isinstance(numbers, RsaModulus):
            return rsa.RSAPublicNumbers(numbers.exponent, numbers.modulus).public_key()
        if numbers.curve not in _CURVES:
            raise StructureError(f"curve {numbers.curve:#06x} is neither P-256 nor P-384")
        curve = _CURVES[numbers.curve]
        return ec.EllipticCurvePublicNumbers(numbers.x, numbers.y, curve).public_key()
    except ValueError as error:
        raise StructureError(str(error)) from None


def _checked(key: object) -> PublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, tuple(map(type, _CURVES.values()))):
            raise StructureError(f"curve {key.curve.name} is neither P-256 nor P-384")
        return key
    if not isinstance(key, rsa.RSAPublicKey):
        raise StructureError("neither a key of ECDSA nor of RSA")
    if key.key_size < _MIN_MODULUS_BITS:
        raise StructureError(f"an RSA key of {key.key_size} bits, {_MIN_MODULUS_BITS} expected")
    return key


def _qualified_name(area: PublicArea) -> bytes:
    """The qualified name of a primary key in the endorsement hierarchy.

    TPM 2.0 part 1, sections 16 and 26: Name = nameAlg || H(TPMT_PUBLIC) and
    QN = nameAlg || H(QN of the parent || Name), where a hierarchy's QN is its handle.
    """
    _check_hash(area.name_alg, "name")
    prefix, hash_name = area.name_alg.to_bytes(2, "big"), HASH_NAMES[area.name_alg]
    name = prefix + hashlib.new(hash_name, area.area).digest()
    parent = _TPM_RH_ENDORSEMENT.to_bytes(4, "big")
    return prefix + hashlib.new(hash_name, parent + name).digest()


def _check_signature(record: QuoteRecord, ak: AttestationKey) -> Scheme:
    """The scheme of a signature that holds."""
    try:
        signature = Signature.parse(record.signature)
        _check_hash(signature.scheme.hash_alg, "signature")
    except StructureError as error:
        raise Rejection(Reason.SIGNATURE, f"not a TPMT_SIGNATURE: {error}") from None
    if ak.scheme not in (None, signature.scheme):
        raise Rejection(
            Reason.SIGNATURE, f"made by {signature.scheme}, the key is bound to {ak.scheme}"
        )
    if not _is_signed(signature, ak.key, record.attest):
        raise Rejection(Reason.SIGNATURE, "the signature is not one of this key over this quote")
    return signature.scheme


def _is_signed(signature: Signature, key: PublicKey, data: bytes) -> bool:
    hash_alg = _SIGNATURE_HASHES[signature.scheme.hash_alg]
    is_ecdsa = signature.scheme.alg == Alg.ECDSA
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            if not is_ecdsa:
                return False
            der = encode_dss_signature(*(int.from_bytes(part, "big") for part in signature.parts))
            key.verify(der, data, ec.ECDSA(hash_alg))
            return True
        if is_ecdsa:
            return False
        # The specification allows any salt that fits (part 1, B.7), and says it nowhere.
        scheme = (
            padding.PKCS1v15()
            if signature.scheme.alg == Alg.RSASSA
            else padding.PSS(padding.MGF1(hash_alg), padding.PSS.AUTO)
        )
        key.verify(signature.parts[0], data, scheme, hash_alg)
    except InvalidSignature:
        return False
    return True


def _check_nonce(asked: bytes, signed: bytes) -> None:
    if len(asked) < MIN_NONCE_SIZE:
        raise Rejection(
            Reason.NONCE,
            f"the nonce has {len(asked)} bytes, at least {MIN_NONCE_SIZE} are needed",
        )
    if asked != signed:
        raise Rejection(Reason.NONCE, f"{signed.hex()} was signed, {asked.hex()} was asked for")


def _quoted_pcrs(
    record: QuoteRecord, attest: Attest, selection: Selection, hash_name: str
) -> dict[str, dict[int, bytes]]:
    """The supplied values, if they are exactly what the selection covers and make pcrDigest.

    Args:
        hash_name: of the signature's scheme, which makes pcrDigest.
    """
    banks = [item.bank for item in attest.selections]
    if sorted(record.pcrs) != sorted(banks):
        raise Rejection(
            Reason.PCR_DIGEST, f"values of {sorted(record.pcrs)} given, {sorted(banks)} were quoted"
        )
    values: dict[str, dict[int, bytes]] = {}
    for bank in banks:
        given, quoted = record.pcrs[bank], selection.pcrs[bank]
        if tuple(sorted(given)) != quoted:
            raise Rejection(
                Reason.PCR_DIGEST,
                f"bank {bank}: values of PCR {sorted(given)} given, {shown_indices(quoted)} quoted",
            )
        size = DIGEST_SIZES[bank]
        if any(len(value) != size for value in given.values()):
            raise Rejection(Reason.PCR_DIGEST, f"bank {bank}: a value is not {size} bytes long")
        values[bank] = {index: given[index] for index in quoted}
    joined = b"".join(value for bank in banks for value in values[bank].values())
    digest = hashlib.new(hash_name, joined).digest()
    if digest != attest.pcr_digest:
        raise Rejection(
            Reason.PCR_DIGEST,
            f"the PCR values given hash to {digest.hex()}, {attest.pcr_digest.hex()} was signed",
        )
    return values
