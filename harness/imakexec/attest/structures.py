# SPDX-License-Identifier: GPL-2.0-only
"""The TPM structures of a quote, read strictly. All integers are big-endian.

Source: TPM 2.0 Library, part 2 "Structures", revision 1.59; sections are named at each class.
"2B" below is `u16 size | bytes`. Whatever is left over or cut off is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

TPM_GENERATED_VALUE = 0xFF544347
TPM_ST_ATTEST_QUOTE = 0x8018
_MAX_PCR_BANKS = 16


class Alg(IntEnum):
    """TPM_ALG_ID, 6.3: the algorithms that a quote and the key under it may name."""

    RSA = 0x0001
    SHA1 = 0x0004
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018
    ECC = 0x0023


# How many numbers a signature of each scheme holds: r and s, or one as long as the modulus.
_SIGNATURE_PARTS: Mapping[int, int] = {Alg.ECDSA: 2, Alg.RSASSA: 1, Alg.RSAPSS: 1}
_KEY_SCHEMES: Mapping[int, tuple[Alg, ...]] = {
    Alg.ECC: (Alg.ECDSA,),
    Alg.RSA: (Alg.RSASSA, Alg.RSAPSS),
}
# An exponent of 0 stands for this one, 12.2.3.5.
_DEFAULT_EXPONENT = 65537

HASH_NAMES: Mapping[int, str] = {
    Alg.SHA1: "sha1",
    Alg.SHA256: "sha256",
    Alg.SHA384: "sha384",
    Alg.SHA512: "sha512",
}


class ObjectAttributes(IntFlag):
    """TPMA_OBJECT, 8.3: the bits that decide what a key can be made to sign."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN_ENCRYPT = 1 << 18


class StructureError(ValueError):
    """The bytes are not the structure that they are meant to be."""


class WrongKindError(StructureError):
    """An attestation structure that no TPM made, or that is no quote."""


@dataclass(frozen=True, slots=True)
class ClockInfo:
    """TPMS_CLOCK_INFO, 10.11.1: u64 clock in ms | u32 resetCount | u32 restartCount | u8 safe.

    Part 1, section 36: resetCount counts TPM Resets and restartCount TPM Restarts and Resumes
    since then. kexec is neither: the pair stays and the clock goes on.
    """

    clock: int
    reset_count: int
    restart_count: int
    safe: bool

    @property
    def pair(self) -> tuple[int, int]:
        """What changes with every power cycle; one of the two alone need not."""
        return (self.reset_count, self.restart_count)


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """TPMS_PCR_SELECTION, 10.6.1: u16 hash | u8 size | bitmap, PCR n in bit n % 8 of byte n / 8."""

    hash_alg: int
    bitmap: bytes

    @property
    def bank(self) -> str:
        """The bank's name, or its algorithm number in hexadecimal if it is none of ours."""
        return HASH_NAMES.get(self.hash_alg, f"{self.hash_alg:#06x}")


@dataclass(frozen=True, slots=True)
class Attest:
    """TPMS_ATTEST, 10.12.8, of type TPM_ST_ATTEST_QUOTE (TPMS_QUOTE_INFO, 10.12.1).

    u32 magic | u16 type | 2B qualifiedSigner | 2B extraData | TPMS_CLOCK_INFO
    | u64 firmwareVersion | u32 n, n * TPMS_PCR_SELECTION | 2B pcrDigest
    """

    qualified_signer: bytes
    extra_data: bytes
    clock_info: ClockInfo
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes

    @classmethod
    def parse(cls, data: bytes) -> Attest:
        """Read a quote.

        Raises:
            WrongKindError: magic or type is not that of a quote made by a TPM.
            StructureError: it is cut off or has bytes left over.
        """
        reader = _Reader(data)
        magic, kind = reader.u32(), reader.u16()
        if magic != TPM_GENERATED_VALUE:
            raise WrongKindError(f"magic {magic:#010x}, {TPM_GENERATED_VALUE:#010x} expected")
        if kind != TPM_ST_ATTEST_QUOTE:
            raise WrongKindError(f"type {kind:#06x}, {TPM_ST_ATTEST_QUOTE:#06x} (quote) expected")
        attest = cls(
            qualified_signer=reader.sized(),
            extra_data=reader.sized(),
            clock_info=_clock_info(reader),
            firmware_version=reader.unsigned(8),
            selections=_selections(reader),
            pcr_digest=reader.sized(),
        )
        reader.finish()
        return attest


@dataclass(frozen=True, slots=True)
class Scheme:
    """TPMT_SIG_SCHEME, 11.2.1.5: how a key signs, as TPM_ALG_ID each."""

    alg: int
    hash_alg: int

    def __str__(self) -> str:
        names = {item.value: item.name for item in Alg}
        return " with ".join(
            names.get(value, f"{value:#06x}") for value in (self.alg, self.hash_alg)
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """TPMT_SIGNATURE, 11.3.4.

    u16 sigAlg | u16 hash | 2B r | 2B s      of ECDSA
    u16 sigAlg | u16 hash | 2B sig           of RSASSA and RSAPSS

    Args:
        scheme: with which it was made.
        parts: r and s, or the one number of RSA, big-endian.
    """

    scheme: Scheme
    parts: tuple[bytes, ...]

    @classmethod
    def parse(cls, data: bytes) -> Signature:
        """Read a signature.

        Raises:
            StructureError: it is of none of these schemes, cut off, or has bytes left over.
        """
        reader = _Reader(data)
        alg = reader.one_of(tuple(_SIGNATURE_PARTS), "signature scheme")
        scheme = Scheme(alg, reader.u16())
        parts = tuple(reader.sized() for _ in range(_SIGNATURE_PARTS[alg]))
        reader.finish()
        return cls(scheme, parts)


@dataclass(frozen=True, slots=True)
class EccPoint:
    """TPMS_ECC_PARMS and TPMS_ECC_POINT, 12.2.3.6 and 11.2.5.2: TPM_ECC_CURVE, x and y."""

    curve: int
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class RsaModulus:
    """TPMS_RSA_PARMS and TPM2B_PUBLIC_KEY_RSA, 12.2.3.5 and 11.2.4.5."""

    exponent: int
    modulus: int


@dataclass(frozen=True, slots=True)
class PublicArea:
    """TPM2B_PUBLIC, 12.2.5, of a key that signs.

    u16 size | u16 type | u16 nameAlg | u32 objectAttributes | 2B authPolicy
    | u16 symmetric = NULL | u16 scheme, u16 hash
    | u16 curveID | u16 kdf = NULL | 2B x | 2B y        of an ECC key
    | u16 keyBits | u32 exponent | 2B modulus           of an RSA key

    Args:
        scheme: that it is bound to.
        key: its numbers.
        area: the TPMT_PUBLIC without its size: what the key's Name is the hash of.
    """

    name_alg: int
    attributes: ObjectAttributes
    scheme: Scheme
    key: EccPoint | RsaModulus
    area: bytes

    @classmethod
    def parse(cls, data: bytes) -> PublicArea:
        """Read a public area.

        Raises:
            StructureError: it is no signing key of a scheme named here, cut off, or has bytes
                left over.
        """
        outer = _Reader(data)
        area = outer.sized()
        outer.finish()
        reader = _Reader(area)
        kind = reader.one_of(tuple(_KEY_SCHEMES), "type")
        name_alg = reader.u16()
        attributes = ObjectAttributes(reader.u32())
        reader.sized()
        reader.one_of((Alg.NULL,), "symmetric")
        scheme = Scheme(reader.one_of(_KEY_SCHEMES[kind], "scheme"), reader.u16())
        key = _ecc_point(reader) if kind == Alg.ECC else _rsa_modulus(reader)
        reader.finish()
        return cls(name_alg, attributes, scheme, key, area)


def _ecc_point(reader: _Reader) -> EccPoint:
    curve = reader.u16()
    reader.one_of((Alg.NULL,), "kdf")
    x, y = (int.from_bytes(reader.sized(), "big") for _ in range(2))
    return EccPoint(curve, x, y)


def _rsa_modulus(reader: _Reader) -> RsaModulus:
    bits, exponent = reader.u16(), reader.u32()
    modulus = int.from_bytes(reader.sized(), "big")
    if modulus.bit_length() != bits:
        raise StructureError(f"a modulus of {modulus.bit_length()} bits, {bits} announced")
    return RsaModulus(exponent or _DEFAULT_EXPONENT, modulus)


class _Reader:
    """Takes big-endian values from the front of a structure."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise StructureError(f"cut off: {size} bytes expected at offset {self._at}")
        self._at += size
        return piece

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def u16(self) -> int:
        return self.unsigned(2)

    def u32(self) -> int:
        return self.unsigned(4)

    def sized(self) -> bytes:
        return self.take(self.u16())

    def one_of(self, expected: Sequence[int], what: str) -> int:
        seen = self.u16()
        if seen not in expected:
            names = " or ".join(f"{alg:#06x} ({Alg(alg).name})" for alg in expected)
            raise StructureError(f"{what} is {seen:#06x}, {names} expected")
        return seen

    def finish(self) -> None:
        left = len(self._data) - self._at
        if left:
            raise StructureError(f"{left} bytes left over at offset {self._at}")


def _clock_info(reader: _Reader) -> ClockInfo:
    clock, reset_count, restart_count = reader.unsigned(8), reader.u32(), reader.u32()
    safe = reader.unsigned(1)
    if safe > 1:
        raise StructureError(f"safe is {safe}, 0 or 1 expected")
    return ClockInfo(clock, reset_count, restart_count, bool(safe))


def _selections(reader: _Reader) -> tuple[PcrSelection, ...]:
    count = reader.u32()
    if count > _MAX_PCR_BANKS:
        raise StructureError(f"{count} PCR selections, {_MAX_PCR_BANKS} at most expected")
    return tuple(
        PcrSelection(hash_alg=reader.u16(), bitmap=reader.take(reader.unsigned(1)))
        for _ in range(count)
    )
