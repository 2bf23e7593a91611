# SPDX-License-Identifier: GPL-2.0-only
"""What must be quoted is read from what a user writes, and compared bit by bit."""

from __future__ import annotations

import pytest

from imakexec.attest.reasons import Reason, Rejection
from imakexec.attest.selection import Selection, shown_indices
from imakexec.attest.structures import PcrSelection
from imakexec.errors import UserError

SHA1, SHA256 = 4, 0xB


def test_banks_and_ranges() -> None:
    selection = Selection.parse("sha256:0-2,10+sha1:10", option="-l")
    assert selection.pcrs == {"sha256": (0, 1, 2, 10), "sha1": (10,)}
    assert selection.banks == ("sha256", "sha1")
    assert selection.bitmap("sha256") == bytes([0b111, 0b100, 0])
    assert Selection.of_banks(["sha384"]).bitmap("sha384") == bytes([0xFF, 0x07, 0x00])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "unknown or named twice"),
        ("md5:10", "unknown or named twice"),
        ("sha1:10+sha1:10", "unknown or named twice"),
        ("sha1", "names no PCR"),
        ("sha1:", "names no PCR"),
        ("sha1:10,", "names no PCR"),
        ("sha1:24", "names no PCR"),
        ("sha1:11-10", "names no PCR"),
        ("sha1:-10", "names no PCR"),
        ("sha1:0-9", "PCR 10 is not among"),
        ("sha256:10+sha1:16", "PCR 10 is not among"),
    ],
)
def test_what_is_none(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Selection.parse(text, option="--pcr-list")
    assert "--pcr-list" in caught.value.where
    assert caught.value.remedy


def test_signed_in_any_order_of_banks() -> None:
    selection = Selection.parse("sha1:10+sha256:10", option="-l")
    selection.check([PcrSelection(SHA256, b"\0\4\0"), PcrSelection(SHA1, b"\0\4\0")])


@pytest.mark.parametrize(
    ("signed", "reason"),
    [
        ([], Reason.MISSING_BANK),
        ([(SHA256, b"\0\4\0")], Reason.MISSING_BANK),
        ([(SHA256, b"\0\4\0"), (SHA1, b"\0\0\0")], Reason.MISSING_BANK),
        ([(SHA256, b"\0\4\0"), (SHA1, b"\0\4\1")], Reason.SELECTION),
        ([(SHA256, b"\0\4\0"), (SHA1, b"\0\4")], Reason.SELECTION),
        ([(SHA256, b"\0\4\0"), (SHA1, b"\0\4\0"), (SHA1, b"\0\4\0")], Reason.SELECTION),
        ([(SHA256, b"\0\4\0"), (SHA1, b"\0\4\0"), (0xC, b"\0\4\0")], Reason.SELECTION),
    ],
)
def test_anything_else_is_refused(signed: list[tuple[int, bytes]], reason: Reason) -> None:
    selection = Selection.parse("sha1:10+sha256:10", option="-l")
    with pytest.raises(Rejection) as caught:
        selection.check([PcrSelection(*item) for item in signed])
    assert caught.value.reason is reason


def test_indices_for_people() -> None:
    assert shown_indices((10,)) == "PCR 10"
    assert shown_indices((0, 1, 2)) == "PCR 0-2"
    assert shown_indices((0, 1, 10)) == "PCR 0, 1, 10"
