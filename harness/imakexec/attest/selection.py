# SPDX-License-Identifier: GPL-2.0-only
"""Which PCRs of which banks a quote must vouch for: exactly these, whatever a TPM makes of it.

A TPM silently masks what it does not have: it leaves a bank out or clears its bitmap. And the
digest in a quote does not bind the indices. So the signed selection is compared bit by bit
(CVE-2024-29039 of tpm2-tools is what happens otherwise).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from imakexec.attest.log import DIGEST_SIZES
from imakexec.attest.reasons import Reason, Rejection
from imakexec.attest.replay import IMA_PCR
from imakexec.attest.structures import PcrSelection
from imakexec.errors import UserError

FIRMWARE_AND_IMA = range(11)
"""PCR 0-9 are what boot_aggregate is made of, PCR 10 is IMA's."""

# TCG PC Client Platform TPM Profile: 24 PCRs, so 3 bytes of bitmap.
_PCR_COUNT = 24
_PCRS = re.compile(r"(\d{1,2})(?:-(\d{1,2}))?")


@dataclass(frozen=True)
class Selection:
    """The PCRs that must be quoted.

    Args:
        pcrs: bank to PCR indices, ascending; PCR 10 is among those of each bank.
    """

    pcrs: Mapping[str, tuple[int, ...]]

    @classmethod
    def of_banks(cls, banks: Iterable[str]) -> Selection:
        """PCR 0-10 of each bank: what the harness always quotes."""
        return cls({bank: tuple(FIRMWARE_AND_IMA) for bank in banks})

    @classmethod
    def parse(cls, text: str, *, option: str) -> Selection:
        """Read what tpm2-tools call a PCR list, e.g. "sha1:10+sha256:0,1,2,10"; "0-10" is a range.

        Args:
            text: what the user wrote.
            option: with which.

        Raises:
            UserError: it is none, or a bank is unknown, named twice or has no PCR 10 in it.
        """
        pcrs: dict[str, tuple[int, ...]] = {}
        for part in text.split("+"):
            bank, _, indices = part.partition(":")
            place = f"{option} {text}, bank {bank!r}"
            if bank not in DIGEST_SIZES or bank in pcrs:
                raise UserError(
                    "a bank is unknown or named twice",
                    where=place,
                    remedy=f"name each once, of {', '.join(DIGEST_SIZES)}",
                )
            pcrs[bank] = _indices(indices, place)
        return cls(pcrs)

    @property
    def banks(self) -> tuple[str, ...]:
        """The banks, in the order in which they were named."""
        return tuple(self.pcrs)

    def bitmap(self, bank: str) -> bytes:
        """TPMS_PCR_SELECTION.pcrSelect of a bank."""
        bits = sum(1 << index for index in self.pcrs[bank])
        return bits.to_bytes(_PCR_COUNT // 8, "little")

    def check(self, signed: Sequence[PcrSelection]) -> None:
        """Compare it with what was signed.

        Raises:
            Rejection: reason selection or missing_bank.
        """
        seen = [item.bank for item in signed]
        for item in signed:
            if item.bank not in self.pcrs:
                raise Rejection(Reason.SELECTION, f"bank {item.bank} was quoted unasked")
            if not any(item.bitmap):
                raise Rejection(Reason.MISSING_BANK, f"no PCR of bank {item.bank} was quoted")
            expected = self.bitmap(item.bank)
            if item.bitmap != expected or seen.count(item.bank) != 1:
                raise Rejection(
                    Reason.SELECTION,
                    f"PCR bitmap {item.bitmap.hex()} of bank {item.bank} was signed,"
                    f" {expected.hex()} ({shown_indices(self.pcrs[item.bank])}) once expected",
                )
        missing = [bank for bank in self.pcrs if bank not in seen]
        if missing:
            raise Rejection(
                Reason.MISSING_BANK, f"bank {missing[0]} is allocated but was not quoted"
            )


def shown_indices(indices: Sequence[int]) -> str:
    """Ascending PCR indices for people, e.g. "PCR 0-10"."""
    first, last = indices[0], indices[-1]
    if len(indices) > 2 and last - first + 1 == len(indices):
        return f"PCR {first}-{last}"
    return f"PCR {', '.join(map(str, indices))}"


def _indices(text: str, place: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in text.split(","):
        match = _PCRS.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < _PCR_COUNT:
            raise UserError(
                f"{part!r} names no PCR from 0 to {_PCR_COUNT - 1}",
                where=place,
                remedy="write indices and ranges, as in sha256:0-10 or sha256:0,7,10",
            )
        found.update(range(first, last + 1))
    if IMA_PCR not in found:
        raise UserError(
            f"PCR {IMA_PCR} is not among the PCRs: IMA extends that one",
            where=place,
            remedy=f"quote PCR {IMA_PCR} of every bank that the TPM has allocated",
        )
    return tuple(sorted(found))
