# SPDX-License-Identifier: GPL-2.0-only
"""PCR values are read from every form that tools write, and from nothing that only looks so."""

from __future__ import annotations

import json
import struct

import pytest

from imakexec.attest.pcr_values import read_pcr_values
from imakexec.attest.reasons import Reason, Rejection
from imakexec.attest.structures import PcrSelection
from imakexec.errors import UserError
from imakexec.verification import parse_pcr_options

PCR10 = bytes([0, 4, 0])
SIGNED = (PcrSelection(0x4, PCR10), PcrSelection(0xB, bytes([1, 4, 0])))
VALUES = {"sha1": {10: b"a" * 20}, "sha256": {0: b"b" * 32, 10: b"c" * 32}}
JOINED = b"a" * 20 + b"b" * 32 + b"c" * 32


def serialized(
    *, banks: int = 2, lists: int = 1, count: int = 3, sizes: tuple[int, ...] = (20, 32, 32)
) -> bytes:
    """As tpm2-tools write them, from the description in the module under test."""
    head = struct.pack("<I", banks)
    for item in SIGNED:
        head += struct.pack("<HB", item.hash_alg, 3) + item.bitmap + bytes(2)
    head += bytes(4 + 16 * 8 - len(head))
    digests = b""
    for size, value in zip(sizes, (b"a" * 20, b"b" * 32, b"c" * 32), strict=True):
        digests += struct.pack("<H", size) + value.ljust(64, b"\0")
    body = (struct.pack("<I", count) + digests).ljust(4 + 8 * 66, b"\0")
    return head + struct.pack("<I", lists) + body


@pytest.mark.parametrize(
    "content",
    [
        JOINED,
        serialized(),
        json.dumps(
            {b: {str(i): v.hex() for i, v in p.items()} for b, p in VALUES.items()}
        ).encode(),
    ],
    ids=["values", "serialized", "json"],
)
def test_three_forms(content: bytes) -> None:
    assert read_pcr_values(content, SIGNED, "f") == VALUES


@pytest.mark.parametrize(
    "content",
    [
        JOINED[:-1],
        JOINED + b"\0",
        b"\0",
        serialized(banks=17),
        serialized(banks=1 << 31),
        serialized(lists=2),
        serialized(count=9),
        serialized(count=2),
        serialized(sizes=(65, 32, 32)),
        serialized(sizes=(20, 32, 31)),
        serialized()[:-1],
        b"{",
        b'{"sha1": 1}',
        b'{"sha1": {"x": "aa"}}',
        b'{"sha1": {"10": "AA"}}',
    ],
)
def test_no_values(content: bytes) -> None:
    with pytest.raises(Rejection) as caught:
        read_pcr_values(content, SIGNED, "the file")
    assert caught.value.reason is Reason.PCR_DIGEST
    assert caught.value.where == "the file"


@pytest.mark.parametrize("bank", [0xB, 0xC, 0xD])
@pytest.mark.parametrize("first", [0x7B, 0x20, 0x01])
def test_values_that_look_like_another_form(bank: int, first: int) -> None:
    """Many values are as long as a serialized file, and one may begin like JSON."""
    selections = [PcrSelection(bank, bytes([0xFF, 7, 0])), PcrSelection(0x4, bytes([0xFF, 7, 0]))]
    size = {0xB: 32, 0xC: 48, 0xD: 64}[bank]
    content = bytes([first]) + b"x" * (11 * (size + 20) - 1)
    values = read_pcr_values(content, selections, "f")
    assert [len(found) for found in values.values()] == [11, 11]


def test_digest_longer_than_any() -> None:
    selection = struct.pack("<HB", 0xD, 3) + PCR10 + bytes(2)
    head = (struct.pack("<I", 1) + selection).ljust(4 + 16 * 8, b"\0") + struct.pack("<I", 1)
    for size in (64, 65):
        body = struct.pack("<IH", 1, size) + b"d" * 64
        content = head + body.ljust(4 + 8 * 66, b"\0")
        if size == 64:
            assert read_pcr_values(content, (), "f") == {"sha512": {10: b"d" * 64}}
        else:
            with pytest.raises(Rejection, match="a digest of 65 bytes"):
                read_pcr_values(content, (), "f")


def test_bank_that_is_unknown() -> None:
    with pytest.raises(Rejection):
        read_pcr_values(bytes(32), [PcrSelection(0x12, PCR10)], "f")
    with pytest.raises(Rejection):
        read_pcr_values(bytes(40), [SIGNED[0], SIGNED[0]], "f")


def test_single_values() -> None:
    texts = ["sha256:10=" + "aB" * 32, "sha256:0=0x" + "00" * 32, "sha1:10=" + "11" * 20]
    assert parse_pcr_options(texts) == {
        "sha256": {10: b"\xab" * 32, 0: bytes(32)},
        "sha1": {10: b"\x11" * 20},
    }


@pytest.mark.parametrize(
    "texts",
    [
        ["sha256:10"],
        ["10=" + "00" * 32],
        ["sha256:10=" + "00" * 31],
        ["sha256:10=" + "00" * 20],
        ["sha256:24=" + "00" * 32],
        ["md5:10=" + "00" * 16],
        ["sha1:10=" + "0g" * 20],
        ["sha1:10=" + "00" * 20] * 2,
    ],
)
def test_no_single_values(texts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_pcr_options(texts)
    assert caught.value.where.startswith("--pcr")
    assert caught.value.remedy
