# SPDX-License-Identifier: GPL-2.0-only
"""The three TPM structures of a quote, read strictly. All integers are big-endian.

Source: TPM 2.0 Library, part 2 "Structures", revision 1.59; sections are named at each class.
"2B" below is `u16 size | bytes`. Whatever is left over or cut off is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag

TPM_GENERATED_VALUE = 0xFF544347
TPM_ST_ATTEST_QUOTE = 0x8018
_MAX_PCR_BANKS = 16


class Alg(IntEnum):
    """TPM_ALG_ID, 6.3: the algorithms that a quote of this project may name."""

    SHA1 = 0x0004
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    ECDSA = 0x0018
    ECC = 0x0023


ECC_NIST_P256 = 0x0003
"""TPM_ECC_CURVE, 6.4."""

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
class EcdsaSignature:
    """TPMT_SIGNATURE, 11.3.4, of ECDSA: u16 sigAlg | u16 hash | 2B r | 2B s."""

    hash_alg: int
    r: int
    s: int

    @classmethod
    def parse(cls, data: bytes) -> EcdsaSignature:
        """Read a signature.

        Raises:
            StructureError: it is not ECDSA, cut off, or has bytes left over.
        """
        reader = _Reader(data)
        scheme = reader.u16()
        if scheme != Alg.ECDSA:
            raise StructureError(f"signature scheme {scheme:#06x}, {Alg.ECDSA:#06x} expected")
        hash_alg = reader.u16()
        r, s = (int.from_bytes(reader.sized(), "big") for _ in range(2))
        reader.finish()
        return cls(hash_alg, r, s)


@dataclass(frozen=True, slots=True)
class EccPublic:
    """TPM2B_PUBLIC, 12.2.5, of an ECC key whose scheme is ECDSA.

    u16 size | u16 type | u16 nameAlg | u32 objectAttributes | 2B authPolicy
    | u16 symmetric = NULL | u16 scheme, u16 hash | u16 curveID | u16 kdf = NULL | 2B x | 2B y

    Args:
        area: the TPMT_PUBLIC without its size: what the key's Name is the hash of.
    """

    name_alg: int
    attributes: ObjectAttributes
    hash_alg: int
    curve: int
    x: int
    y: int
    area: bytes

    @classmethod
    def parse(cls, data: bytes) -> EccPublic:
        """Read a public area.

        Raises:
            StructureError: it is not an ECDSA key, cut off, or has bytes left over.
        """
        outer = _Reader(data)
        area = outer.sized()
        outer.finish()
        reader = _Reader(area)
        reader.expect(Alg.ECC, "type")
        name_alg = reader.u16()
        attributes = ObjectAttributes(reader.u32())
        reader.sized()
        reader.expect(Alg.NULL, "symmetric")
        reader.expect(Alg.ECDSA, "scheme")
        hash_alg, curve = reader.u16(), reader.u16()
        reader.expect(Alg.NULL, "kdf")
        x, y = (int.from_bytes(reader.sized(), "big") for _ in range(2))
        reader.finish()
        return cls(name_alg, attributes, hash_alg, curve, x, y, area)


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

    def expect(self, alg: Alg, what: str) -> None:
        seen = self.u16()
        if seen != alg:
            raise StructureError(f"{what} is {seen:#06x}, {alg:#06x} ({alg.name}) expected")

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
