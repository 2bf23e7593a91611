# SPDX-License-Identifier: GPL-2.0-only
"""Writes measurement lists in every form that a kernel has, and replays them, as naive as can be.

It shares no code and no table with what it tests. Written from the kernel's ima_fs.c,
ima_template_lib.c and ima_crypto.c: each record is kept as its fields, and whatever form is asked
for is made from them anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

Order = Literal["little", "big"]
ORDERS: tuple[Order, ...] = ("little", "big")
BANKS = ("sha1", "sha256", "sha384", "sha512")

BUILT_IN: Mapping[str, str] = {
    "ima": "d|n",
    "ima-ng": "d-ng|n-ng",
    "ima-sig": "d-ng|n-ng|sig",
    "ima-ngv2": "d-ngv2|n-ng",
    "ima-sigv2": "d-ngv2|n-ng|sig",
    "ima-buf": "d-ng|n-ng|buf",
    "ima-modsig": "d-ng|n-ng|sig|d-modsig|modsig",
    "evm-sig": "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
}
TAGGED = ("d-ng", "d-ngv2", "d-modsig")
STRINGS = ("n", "n-ng", "xattrnames")
WIDTHS = {"iuid": 4, "igid": 4, "imode": 2}
BLOBS = ("sig", "buf", "modsig", "evmsig", "xattrlengths", "xattrvalues")
FIELDS = ("d", *TAGGED, *STRINGS, *WIDTHS, *BLOBS)

Value = bytes | int


@dataclass(frozen=True)
class Entry:
    """One measurement.

    Args:
        template: the name that the record has: of a built-in template, or a format.
        values: of its fields: numbers of iuid, igid and imode, bytes of all others; strings with
            their NUL.
        digest: the digest column, if it is not to be the right one.
    """

    template: str
    values: tuple[Value, ...]
    pcr: int = 10
    violation: bool = False
    digest: bytes | None = None

    @property
    def fields(self) -> list[str]:
        return BUILT_IN.get(self.template, self.template).split("|")

    def parts(self, order: Order) -> list[bytes]:
        return [
            value.to_bytes(WIDTHS[field], order) if isinstance(value, int) else value
            for field, value in zip(self.fields, self.values, strict=True)
        ]

    def data(self, order: Order) -> bytes:
        """What stands behind the template's name, the length before it aside."""
        parts = self.parts(order)
        if self.template == "ima":
            name = parts[1].rstrip(b"\0")
            return parts[0] + len(name).to_bytes(4, order) + name
        return b"".join(len(part).to_bytes(4, order) + part for part in parts)

    def hashed(self, order: Order) -> bytes:
        if self.template != "ima":
            return self.data(order)
        parts = self.parts(order)
        return parts[0] + parts[1] + bytes(256 - len(parts[1]))

    def column(self, order: Order, bank: str) -> bytes:
        digest = hashlib.new(bank, self.hashed(order)).digest()
        if self.violation:
            return bytes(len(digest))
        return digest if self.digest is None else self.digest

    def pack(self, order: Order = "little", bank: str = "sha1") -> bytes:
        data = self.data(order)
        size = b"" if self.template == "ima" else len(data).to_bytes(4, order)
        name = self.template.encode()
        head = self.pcr.to_bytes(4, order) + self.column(order, bank)
        return head + len(name).to_bytes(4, order) + name + size + data

    def line(self, order: Order = "little", bank: str = "sha1") -> bytes:
        """In the ASCII list."""
        words = [b"%2d" % self.pcr, self.column(order, bank).hex().encode(), self.template.encode()]
        shown = map(_shown, self.fields, self.values)
        return b" ".join([*words, *shown]) + b"\n"


def _shown(field: str, value: Value) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    if field in STRINGS:
        return value.split(b"\0", maxsplit=1)[0]
    if field in TAGGED and value:
        tag, digest = value.split(b"\0", maxsplit=1)
        return tag + digest.hex().encode()
    return value.hex().encode()


def pack(entries: Sequence[Entry], order: Order = "little", bank: str = "sha1") -> bytes:
    return b"".join(entry.pack(order, bank) for entry in entries)


def ascii_list(entries: Sequence[Entry], order: Order = "little", bank: str = "sha1") -> bytes:
    return b"".join(entry.line(order, bank) for entry in entries)


def handover(
    entries: Sequence[Entry],
    order: Order = "little",
    *,
    size: int | None = None,
    count: int | None = None,
) -> bytes:
    """struct ima_kexec_hdr and the records; a size less than theirs cuts them."""
    records = pack(entries, order)
    size = 24 + len(records) if size is None else size
    count = len(entries) if count is None else count
    header = (1).to_bytes(2, order) + bytes(6) + size.to_bytes(8, order) + count.to_bytes(8, order)
    return (header + records)[:size]


@dataclass(frozen=True)
class NaiveReading:
    """How far a list is one.

    Args:
        ends: where each of its records ends.
        fault: the reason code of what is wrong with the next one; None if there is none.
    """

    ends: list[int]
    fault: str | None


def naive_reading(data: bytes, order: Order, bank: str = "sha1") -> NaiveReading:
    """Read a list without the legacy template, one number after the other."""
    ends = [0]
    try:
        while ends[-1] < len(data):
            ends.append(_naive_end(data, ends[-1], order, hashlib.new(bank).digest_size))
    except ValueError as fault:
        return NaiveReading(ends[1:], str(fault))
    return NaiveReading(ends[1:], None)


def _naive_end(data: bytes, at: int, order: Order, column: int) -> int:
    def number(start: int) -> int:
        return int.from_bytes(data[start : start + 4], order)

    def require(holds: bool, fault: str) -> None:
        if not holds:
            raise ValueError(fault)

    name_at = at + 4 + column + 4
    require(name_at <= len(data), "trailing_bytes")
    require(number(at) <= 23, "pcr_index")
    name_end = name_at + number(name_at - 4)
    require(name_end + 4 <= len(data), "short_record")
    name = data[name_at:name_end]
    require(1 <= len(name) <= 195 and all(33 <= byte <= 126 for byte in name), "template_name")
    end = name_end + 4 + number(name_end)
    require(end <= len(data), "short_record")
    count, field_at = 0, name_end + 4
    while field_at + 4 <= end:
        field_at += 4 + number(field_at)
        count += 1
    fields = BUILT_IN.get(name.decode(), name.decode()).split("|")
    require(field_at == end and count > 0, "field_sum")
    require(count == len(fields) or not set(fields) <= set(FIELDS), "field_sum")
    return end


def naive_pcrs(
    entries: Sequence[Entry],
    order: Order,
    bank: str,
    *,
    padded: bool = False,
    begin: Mapping[int, bytes] | None = None,
) -> dict[int, bytes]:
    """Every PCR that is extended, extended record by record.

    Args:
        padded: the bank is extended with SHA-1, and zero bytes up to its size.
        begin: what PCRs hold before.
    """
    pcrs = dict(begin or {})
    for entry in entries:
        size = hashlib.new(bank).digest_size
        measured = hashlib.new("sha1" if padded else bank, entry.hashed(order)).digest()
        if entry.violation:
            measured = b"\xff" * len(measured)
        measured += bytes(size - len(measured))
        at_reset = b"\xff" * size if 17 <= entry.pcr <= 22 else bytes(size)
        value = pcrs.get(entry.pcr, at_reset) + measured
        pcrs[entry.pcr] = hashlib.new(bank, value).digest()
    return pcrs


def entry(path: str = "/a", *, template: str = "ima-ng", pcr: int = 10) -> Entry:
    """One of any built-in template, with every field filled."""
    samples: dict[str, Value] = {
        "d": bytes(range(20)),
        "d-ng": b"sha256:\0" + bytes(range(32)),
        "d-ngv2": b"verity:sha256:\0" + bytes(range(32)),
        "d-modsig": b"sha1:\0" + bytes(range(20)),
        "n": path.encode() + b"\0",
        "n-ng": path.encode() + b"\0",
        "xattrnames": b"security.selinux|security.ima\0",
        "iuid": 1000,
        "igid": 100,
        "imode": 0o100755,
    }
    fields = BUILT_IN.get(template, template).split("|")
    values = (samples.get(field, field.encode()) for field in fields)
    return Entry(template, tuple(values), pcr)


_NAMES = st.binary(max_size=30).map(lambda name: name.replace(b"\0", b"").replace(b" ", b"_"))
_DIGESTS = st.sampled_from(BANKS).flatmap(
    lambda bank: st.binary(min_size=(size := hashlib.new(bank).digest_size), max_size=size).map(
        lambda digest: bank.encode() + b":\0" + digest
    )
)


_VALUES: Mapping[str, st.SearchStrategy[Value]] = {
    **dict.fromkeys(BLOBS, st.binary(max_size=40)),
    # One letter and a PCR 0 after it would be a length, after a digest of MD5; nothing has that.
    **dict.fromkeys(STRINGS, _NAMES.map(lambda name: b"/b" + name + b"\0")),
    **{field: st.integers(0, 256**width - 1) for field, width in WIDTHS.items()},
    "d": st.sampled_from([16, 20]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    "d-ng": _DIGESTS,
    "d-ngv2": st.tuples(st.sampled_from([b"ima:", b"verity:"]), _DIGESTS).map(b"".join),
    "d-modsig": st.just(b"") | _DIGESTS,
}

FORMATS = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=6).map("|".join)

ENTRIES = st.lists(
    st.one_of(st.sampled_from(sorted(BUILT_IN)), FORMATS).flatmap(
        lambda template: st.builds(
            Entry,
            st.just(template),
            st.tuples(*map(_VALUES.__getitem__, BUILT_IN.get(template, template).split("|"))),
            st.one_of(st.just(10), st.integers(0, 23)),
            st.booleans(),
        )
    ),
    min_size=1,
    max_size=8,
)
"""Lists of every template and many formats, into any PCR, half of them violations."""
