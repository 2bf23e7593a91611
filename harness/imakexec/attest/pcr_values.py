# SPDX-License-Identifier: GPL-2.0-only
"""PCR values as tools write them beside a quote, which vouches for them or not.

tpm2_quote writes with `-o` (format "serialized", all integers little-endian, the structures as a C
compiler lays them out on a 64-bit machine; tpm2-tools, lib/pcr.c, pcr_fwrite_serialized()):

    u32 banks | 16 * { u16 alg, u8 size, bitmap[4], pad } | u32 lists
    | lists * { u32 count, 8 * { u16 size, digest[64] } }

or, with `-F values`, nothing but the values, bank by bank, indices ascending. An evidence folder
has {"sha256": {"10": "<hex>"}}.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

from imakexec.attest.log import DIGEST_SIZES
from imakexec.attest.reasons import Reason, Rejection
from imakexec.attest.structures import HASH_NAMES, PcrSelection
from imakexec.strict_json import JsonFault, parse_json

PcrBanks = Mapping[str, Mapping[int, bytes]]
"""Bank to PCR index to value."""

_BANKS = struct.Struct("<I")
_SELECTION = struct.Struct("<HB4sx")
_SELECTIONS_END = _BANKS.size + 16 * _SELECTION.size
_DIGEST = struct.Struct("<H64s")
_LIST_SIZE = 4 + 8 * _DIGEST.size


def read_pcr_values(content: bytes, signed: Sequence[PcrSelection], where: str) -> PcrBanks:
    """Read the values from a file in any of the three forms.

    Args:
        content: of the file.
        signed: the PCRs that the quote covers: it tells the values of a file that has no more.
        where: the file.

    Raises:
        Rejection: reason pcr_digest: it is in none of these forms.
    """
    if len(content) == _joined_size(signed):
        return _split(content, signed, where)
    if content.lstrip()[:1] == b"{":
        return _from_json(content, where)
    if len(content) >= _SELECTIONS_END + 4 + _LIST_SIZE:
        return _from_serialized(content, where)
    raise _no_values(f"{len(content)} bytes, {_joined_size(signed)} are quoted", where)


def _joined_size(selections: Sequence[PcrSelection]) -> int:
    """Of nothing but the values, in bytes."""
    return sum(
        DIGEST_SIZES.get(item.bank, 0) * int.from_bytes(item.bitmap, "little").bit_count()
        for item in selections
    )


def _from_json(content: bytes, where: str) -> PcrBanks:
    try:
        return {
            bank.name: {int(item.name): item.digits() for item in bank.items()}
            for bank in parse_json(content, where).items()
        }
    except (JsonFault, ValueError) as fault:
        raise _no_values(str(fault), where) from None


def _from_serialized(content: bytes, where: str) -> PcrBanks:
    [banks] = _BANKS.unpack_from(content)
    [lists] = _BANKS.unpack_from(content, _SELECTIONS_END)
    start = _SELECTIONS_END + 4
    if banks > 16 or len(content) != start + lists * _LIST_SIZE:
        raise _no_values(f"{banks} banks and {lists} lists in {len(content)} bytes", where)
    entries = (
        _SELECTION.unpack_from(content, _BANKS.size + bank * _SELECTION.size)
        for bank in range(banks)
    )
    signed = [PcrSelection(alg, bitmap[:size]) for alg, size, bitmap in entries]
    digests = b"".join(
        digest
        for at in range(start, len(content), _LIST_SIZE)
        for digest in _digests(content[at : at + _LIST_SIZE], where)
    )
    return _split(digests, signed, where)


def _digests(content: bytes, where: str) -> Iterator[bytes]:
    """The digests of one TPML_DIGEST."""
    [count] = _BANKS.unpack_from(content)
    if count > 8:
        raise _no_values(f"a list of {count} digests", where)
    for number in range(count):
        size, digest = _DIGEST.unpack_from(content, 4 + number * _DIGEST.size)
        if size > len(digest):
            raise _no_values(f"a digest of {size} bytes", where)
        yield digest[:size]


def _split(joined: bytes, selections: Sequence[PcrSelection], where: str) -> PcrBanks:
    """Values one behind the other, bank by bank, indices ascending."""
    values: dict[str, dict[int, bytes]] = {}
    at = 0
    for item in selections:
        if item.hash_alg not in HASH_NAMES or item.bank in values:
            raise _no_values(f"bank {item.bank} is unknown or in it twice", where)
        size, bits = DIGEST_SIZES[item.bank], int.from_bytes(item.bitmap, "little")
        indices = [index for index in range(8 * len(item.bitmap)) if bits >> index & 1]
        ends = [at + size * (number + 1) for number in range(len(indices))]
        values[item.bank] = {
            index: joined[end - size : end] for index, end in zip(indices, ends, strict=True)
        }
        at += size * len(indices)
    if at != len(joined):
        raise _no_values(f"{len(joined)} bytes of values, {at} expected", where)
    return values


def _no_values(what: str, where: str) -> Rejection:
    return Rejection(Reason.PCR_DIGEST, f"not the PCR values of a quote: {what}", where=where)
