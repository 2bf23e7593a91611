# SPDX-License-Identifier: GPL-2.0-only
"""A binary list held against another list of the same records: in ASCII, or of another bank.

An ASCII line is made from the binary record as the kernel makes it, and compared as bytes: the
other way round is no way, because a path may hold a newline (kernel: ima_fs.c,
ima_ascii_measurements_show(), and ima_template_lib.c, ima_show_template_data_ascii()):

    "%2d " pcr | digest in hex | " " template | for each field: " " text | newline

Either list may have gone on after the other was read, so that one may end earlier.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from imakexec.attest.log import DIGEST_SIZES, MeasurementLog, Record
from imakexec.attest.replay import HASHES

_TAGGED = ("d-ng", "d-ngv2", "d-modsig")
_STRINGS = ("n", "n-ng", "xattrnames")
_NUMBERS = ("iuid", "igid", "imode")
_COLUMNS = ("pcr", "digest", "template")
_BEGINNING = re.compile(rb"[ \d]\d ([0-9a-f]{40,128}) [!-~]{1,195} ")
_SHOWN = 48


class ListForm(StrEnum):
    """What a list is written in."""

    ASCII = "ascii"
    BINARY = "binary"


@dataclass(frozen=True)
class CrossCheck:
    """What comparing another list with a binary one has shown.

    Args:
        form: of the other list.
        bank: whose digests stand in the other list.
        compared: how many leading records both hold alike.
        difference: what the record after these holds in each list; empty if they do not differ.
        field: the column or field in which they differ; empty likewise.
        missing: how many records follow here after the other list's last one, if they agree.
        further: how many records (in ASCII: lines) follow there after the last one here, likewise.
    """

    form: ListForm
    bank: str
    compared: int
    difference: str = ""
    field: str = ""
    missing: int = 0
    further: int = 0

    @property
    def agrees(self) -> bool:
        """Whether no record that both lists hold differs."""
        return not self.difference


def ascii_bank(text: bytes) -> str | None:
    """The bank whose digests an ASCII list holds, by their length; None if it is no such list."""
    match = _BEGINNING.match(text)
    sizes = {2 * size: bank for bank, size in DIGEST_SIZES.items()}
    return sizes.get(len(match[1])) if match else None


def check_ascii(
    log: MeasurementLog, text: bytes, *, padded: Collection[str] = frozenset()
) -> CrossCheck:
    """Compare an ASCII list, e.g. ascii_runtime_measurements_sha256.

    Args:
        padded: banks whose digests are those of SHA-1, padded with zero bytes.

    Raises:
        ValueError: it is none: see `ascii_bank`.
    """
    bank = ascii_bank(text)
    if bank is None:
        raise ValueError("no ASCII list")
    at, compared = 0, 0
    for record, digest in _with_digests(log, bank, padded):
        if at == len(text):
            break
        line, is_whole = _line(record, digest)
        if not text.startswith(line, at):
            found = _ascii_difference(record, line, text[at : at + len(line)])
            return _differing(ListForm.ASCII, bank, compared, found)
        at += len(line)
        if not is_whole:
            at = (text.find(b"\n", at) + 1) or len(text)
        compared += 1
    further = text.count(b"\n", at)
    return CrossCheck(ListForm.ASCII, bank, compared, missing=len(log) - compared, further=further)


def check_binary(
    log: MeasurementLog, other: MeasurementLog, *, padded: Collection[str] = frozenset()
) -> CrossCheck:
    """Compare another binary list, e.g. binary_runtime_measurements_sha256.

    Args:
        padded: as of `check_ascii`.
    """
    bank, compared = other.layout.bank, 0
    for (record, digest), its in zip(_with_digests(log, bank, padded), other, strict=False):
        found = _binary_difference(replace(record, digest=digest), its)
        if found:
            return _differing(ListForm.BINARY, bank, compared, found)
        compared += 1
    return CrossCheck(
        ListForm.BINARY,
        bank,
        compared,
        missing=len(log) - compared,
        further=len(other) - compared,
    )


@dataclass(frozen=True)
class _Difference:
    field: str
    here: bytes
    there: bytes

    def __str__(self) -> str:
        """Both values from shortly before the first byte that differs."""
        same = _common(self.here, self.there)
        start = max(0, same - _SHOWN // 2)
        here, there = _short(self.here[start:]), _short(self.there[start:])
        return f"{here} in the binary list, {there} in this one"


def _differing(form: ListForm, bank: str, compared: int, found: _Difference) -> CrossCheck:
    return CrossCheck(form, bank, compared, difference=str(found), field=found.field)


def _with_digests(
    log: MeasurementLog, bank: str, padded: Collection[str]
) -> Iterator[tuple[Record, bytes]]:
    """Each record, and its digest column in the list of a bank."""
    size = DIGEST_SIZES[bank]
    make, zero = HASHES["sha1" if bank in padded else bank], bytes(size)
    for record, (_, logged, hashed) in zip(log, log.extends(), strict=True):
        if bank == log.layout.bank:
            yield record, logged
        else:
            yield record, zero if record.is_violation else make(hashed).digest().ljust(size, b"\0")


def _binary_difference(record: Record, its: Record) -> _Difference | None:
    return next(
        (
            _Difference(field, here, there)
            for (field, here), (_, there) in zip(_columns(record), _columns(its), strict=True)
            if here != there
        ),
        None,
    )


def _columns(record: Record) -> Iterator[tuple[str, bytes]]:
    yield "byte order", record.byteorder.encode()
    yield "pcr", b"%d" % record.pcr
    yield "digest", record.digest.hex().encode()
    yield "template", record.template.name.encode()
    yield "data", record.data.hex().encode()


def _line(record: Record, digest: bytes) -> tuple[bytes, bool]:
    """The line of a record as far as it can be told, and whether that is all of it."""
    words = [b"%2d" % record.pcr, digest.hex().encode(), record.template.name.encode()]
    names = record.template.fields
    if names is None:
        return b" ".join(words) + b" ", False
    for name, value in zip(names, record.values(), strict=True):
        text = _text(record, name, value)
        if text is None:
            return b" ".join(words) + b" ", False
        words.append(text)
    return b" ".join(words) + b"\n", True


def _text(record: Record, field: str, value: bytes) -> bytes | None:
    """A field's text; None if the kernel makes no defined text from it."""
    if not value:
        return b""
    if field in _STRINGS:
        return value.partition(b"\0")[0]
    if field in _NUMBERS:
        is_number = len(value) in (1, 2, 4, 8)
        return b"%d" % int.from_bytes(value, record.byteorder.value) if is_number else b""
    if field in _TAGGED:
        tag, _, digest = value.partition(b"\0")
        return tag + digest.hex().encode() if tag.endswith(b":") else None
    return value.hex().encode()


def _ascii_difference(record: Record, line: bytes, seen: bytes) -> _Difference:
    names = (*_COLUMNS, *(record.template.fields or ("data",)))
    # A blank is in no word: the kernel writes "_" for it.
    word = line[: _common(line, seen)].lstrip().count(b" ")
    return _Difference(names[min(word, len(names) - 1)], line, seen)


def _common(here: bytes, there: bytes) -> int:
    """How many leading bytes are the same."""
    pairs = enumerate(zip(here, there, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(here), len(there)))


def _short(value: bytes) -> str:
    text = value[:_SHOWN].decode("ascii", "backslashreplace")
    return f"{text!r}{'...' if len(value) > _SHOWN else ''}"
