# SPDX-License-Identifier: GPL-2.0-only
"""The binary measurement list, `/sys/kernel/security/ima/binary_runtime_measurements`.

One record (integers in the byte order of the guest, or little-endian with ima_canonical_fmt;
kernel: security/integrity/ima/ima_fs.c, ima_measurements_show()):

    u32 pcr | digest[20] | u32 name_len | name, no NUL | u32 data_len | template data

The digest is SHA1(template data), or 20 zero bytes for a violation; that of the lists per bank of
6.10 and later, e.g. binary_runtime_measurements_sha256, is of that bank and as long. Template data
is one `u32 len | bytes` per field. The legacy template "ima" has no data_len:

    u32 pcr | digest[20] | u32 3 | "ima" | file digest[20] | u32 path_len | path, no NUL

Its file digest has 16 bytes with ima_hash=md5. A template made with ima_template_fmt= has its
format, e.g. "d-ng|n-ng|sig", as its name. The name is hashed into nothing: replay proves the bytes
of the template data, not how they are to be read.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import overload

from imakexec.attest.reasons import Reason, Rejection

# In bytes; by TPM bank.
DIGEST_SIZES: Mapping[str, int] = MappingProxyType(
    {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
)

# Kernel: security/integrity/ima/ima_template.c, builtin_templates[] without "ima".
TEMPLATE_FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ima-ng": ("d-ng", "n-ng"),
        "ima-sig": ("d-ng", "n-ng", "sig"),
        "ima-ngv2": ("d-ngv2", "n-ng"),
        "ima-sigv2": ("d-ngv2", "n-ng", "sig"),
        "ima-buf": ("d-ng", "n-ng", "buf"),
        "ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
        "evm-sig": (
            "d-ng",
            "n-ng",
            "evmsig",
            "xattrnames",
            "xattrlengths",
            "xattrvalues",
            "iuid",
            "igid",
            "imode",
        ),
    }
)

# Kernel: security/integrity/ima/ima_template.c, supported_fields[].
FIELD_IDS = frozenset({"d", "n"}).union(*TEMPLATE_FIELDS.values())

LEGACY_TEMPLATE = "ima"
_LEGACY_NAME = LEGACY_TEMPLATE.encode()

# A format that the kernel accepts has at most 15 fields of at most 12 letters, with separators.
_NAME_LIMIT = 15 * 13
_LAST_PCR = 23
# What is wrong with the last record of a list that was cut in it.
_CUT = frozenset({Reason.SHORT_RECORD, Reason.TRAILING_BYTES})
# SHA-1, and MD5 with ima_hash=md5: no other hash goes with the legacy template.
_LEGACY_DIGESTS: Mapping[int, str] = MappingProxyType({20: "sha1", 16: "md5"})
# IMA_EVENT_NAME_LEN_MAX + 1: the legacy template hashes its path padded to this with zero bytes.
_LEGACY_PATH_SIZE = 256


class ByteOrder(StrEnum):
    """The byte order of the integers in a list."""

    LITTLE = "little"
    BIG = "big"

    @property
    def meaning(self) -> str:
        """What it says about the kernel that wrote the list."""
        if self is ByteOrder.LITTLE:
            return (
                "little-endian, the canonical format (native to a little-endian machine, or made "
                "with ima_canonical_fmt)"
            )
        return "big-endian, the native format of a big-endian machine without ima_canonical_fmt"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the records of a list are laid out.

    Args:
        byteorder: of all its integers, those inside the template data included.
        bank: whose digests stand in the digest column, of `DIGEST_SIZES`: "sha1" but for the
            lists per bank.
    """

    byteorder: ByteOrder
    bank: str

    def __str__(self) -> str:
        return f"{self.byteorder}-endian list with digests of {self.bank}"

    @property
    def header(self) -> struct.Struct:
        """What begins a record: pcr, digest, name_len."""
        return struct.Struct(f"{self._sign}I{DIGEST_SIZES[self.bank]}sI")

    @property
    def u32(self) -> struct.Struct:
        """A length."""
        return struct.Struct(f"{self._sign}I")

    @property
    def _sign(self) -> str:
        return "<" if self.byteorder is ByteOrder.LITTLE else ">"


@dataclass(frozen=True, slots=True)
class Template:
    """How the template data of a record is to be read.

    Args:
        name: the template's name as it stands in the record.
        fields: the identifiers of its fields, or None if they are unknown: then the record is
            replayed, but nothing in it has a meaning.
        is_custom: made with ima_template_fmt=, so that its name is a format.
    """

    name: str
    fields: tuple[str, ...] | None
    is_custom: bool

    @classmethod
    def of(cls, name: str) -> Template:
        """The template of that name: built in, a known format, or unknown."""
        if name == LEGACY_TEMPLATE:
            return cls(name, ("d", "n"), is_custom=False)
        if name in TEMPLATE_FIELDS:
            return cls(name, TEMPLATE_FIELDS[name], is_custom=False)
        fields = tuple(name.split("|"))
        return cls(name, fields if FIELD_IDS.issuperset(fields) else None, is_custom=True)

    @property
    def is_legacy(self) -> bool:
        """Whether records of it have no length before their data."""
        return self.name == LEGACY_TEMPLATE


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest with the algorithm that its field names, e.g. "sha256"."""

    algorithm: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One measurement, as far as it describes itself; nothing here has been verified.

    Args:
        index: position in the list, from 0.
        offset: of its first byte in the list.
        size: in bytes, header included.
        pcr: the PCR that it claims to have been extended into.
        digest: the digest column, as many bytes as a digest of the list's bank has.
        template: how to read `data`.
        data: the template data.
        byteorder: of the lengths inside `data`.
    """

    index: int
    offset: int
    size: int
    pcr: int
    digest: bytes
    template: Template
    data: bytes
    byteorder: ByteOrder

    @property
    def is_violation(self) -> bool:
        """Whether the PCR was extended with 0xff bytes, whatever the record says."""
        return not any(self.digest)

    def field(self, identifier: str) -> bytes | None:
        """The bytes of a field such as "n-ng"; None if it is absent, unknown or not unique."""
        names = self.template.fields
        if names is None or names.count(identifier) != 1:
            return None
        return self.values()[names.index(identifier)]

    @property
    def event(self) -> bytes | None:
        """The event or path without its terminating NUL; None where it has none or is not one."""
        name = self.field("n") if self.field("n-ng") is None else self.field("n-ng")
        if name is None or self.template.is_legacy:
            return name
        return name[:-1] if name.endswith(b"\0") else None

    @property
    def name(self) -> str:
        """`event` for people: what is not UTF-8 is shown as backslash escapes."""
        return (self.event or b"").decode("utf-8", "backslashreplace")

    @property
    def file_digest(self) -> Digest | None:
        """The digest of what was measured: d-ng, d-ngv2 or the legacy digest."""
        legacy = self.field("d")
        if legacy is not None and len(legacy) in _LEGACY_DIGESTS:
            return Digest(_LEGACY_DIGESTS[len(legacy)], legacy)
        for identifier in ("d-ng", "d-ngv2"):
            value = self.field(identifier)
            if value is not None:
                return _tagged_digest(value)
        return None

    @property
    def buf(self) -> bytes | None:
        """The measured bytes themselves, where the template carries them."""
        return self.field("buf")

    def values(self) -> list[bytes]:
        """The bytes of every field, in order, whether the template is known or not."""
        if self.template.is_legacy:
            size = _legacy_digest_size(self.data, self.byteorder)
            return [self.data[:size], self.data[size + 4 :]]
        fields, at = [], 0
        while at < len(self.data):
            start = at + 4
            at = start + int.from_bytes(self.data[at:start], self.byteorder.value)
            fields.append(self.data[start:at])
        return fields


class MeasurementLog(Sequence[Record]):
    """A list that is well formed from its first to its last byte.

    Records are made on demand; beside the bytes themselves the list holds eight bytes per record.
    """

    def __init__(
        self, data: bytes, layout: Layout, offsets: array[int], templates: Iterable[bytes]
    ) -> None:
        self.data = data
        self.layout = layout
        self._offsets = offsets  # one more than records: the last one is the end of the list
        self._templates = {name: Template.of(name.decode("ascii")) for name in templates}
        self._header, self._u32 = layout.header, layout.u32

    @classmethod
    def parse(cls, data: bytes, byteorder: ByteOrder | None = None) -> MeasurementLog:
        """Read a whole list, strictly.

        Args:
            byteorder: of its integers; None for the one in which its first record makes sense.

        Raises:
            Rejection: with reason empty_list, short_record, trailing_bytes, field_sum,
                template_name or pcr_index; `where` names the record and the offset.
        """
        if not data:
            raise Rejection(Reason.EMPTY_LIST, "the list holds no record", where="offset 0")
        layout = detect_layout(data, byteorder) or Layout(byteorder or ByteOrder.LITTLE, "sha1")
        scan = _Scan(data, layout)
        scan.walk()
        if scan.flaw is not None:
            raise scan.rejection(scan.flaw)
        return cls(data, layout, scan.offsets, scan.templates)

    @classmethod
    def parse_whole_records(
        cls, data: bytes, byteorder: ByteOrder | None = None
    ) -> tuple[MeasurementLog, int]:
        """Read as many records as are whole, for a list that was cut at any byte.

        Returns:
            The list of these, and how many bytes of one more record follow.

        Raises:
            Rejection: as `parse`, but for a last record that is cut off.
        """
        layout = detect_layout(data, byteorder) or Layout(byteorder or ByteOrder.LITTLE, "sha1")
        scan = _Scan(data, layout)
        scan.walk()
        if scan.flaw is not None and scan.flaw.reason not in _CUT:
            raise scan.rejection(scan.flaw)
        end = scan.offsets[-1]
        return cls.parse(data[:end], layout.byteorder), len(data) - end

    @classmethod
    def join(cls, parts: Sequence[MeasurementLog]) -> MeasurementLog:
        """One list of lists that follow each other, e.g. saved records and a trimmed list.

        Raises:
            ValueError: they are not all of one layout, or there is none.
        """
        if len({part.layout for part in parts}) != 1:
            raise ValueError("lists of one layout expected")
        offsets, start = array("Q", [0]), 0
        templates: set[bytes] = set()
        for part in parts:
            offsets.extend(start + offset for offset in part._offsets[1:])
            start = offsets[-1]
            templates.update(part._templates)
        return cls(b"".join(part.data for part in parts), parts[0].layout, offsets, templates)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def templates(self) -> tuple[Template, ...]:
        """The templates that occur, by name."""
        return tuple(self._templates[name] for name in sorted(self._templates))

    @property
    def has_custom_templates(self) -> bool:
        """Whether any record was made with ima_template_fmt= or an unknown template."""
        return any(template.is_custom for template in self._templates.values())

    @property
    def has_unknown_templates(self) -> bool:
        """Whether any record has a template whose fields are unknown."""
        return any(template.fields is None for template in self._templates.values())

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self._record(position) for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self._record(position)

    def offset(self, count: int) -> int:
        """The size in bytes of the first `count` records."""
        return self._offsets[count]

    def carried_size(self, count: int) -> int:
        """The same as the kernel hands them over: with SHA-1 in the digest column."""
        surplus = DIGEST_SIZES[self.layout.bank] - DIGEST_SIZES["sha1"]
        return self._offsets[count] - count * surplus

    def sizes(self) -> Iterator[tuple[Template, int]]:
        """For each record: its template, and its size in bytes as the kernel hands it over."""
        data, header = self.data, self._header
        surplus = DIGEST_SIZES[self.layout.bank] - DIGEST_SIZES["sha1"]
        for start, end in pairwise(self._offsets):
            name_start = start + header.size
            name_len = header.unpack_from(data, start)[2]
            yield self._templates[data[name_start : name_start + name_len]], end - start - surplus

    def carrying(self, needle: bytes) -> Iterator[int]:
        """The indices of the records that hold these bytes anywhere, ascending."""
        at = self.data.find(needle)
        while at >= 0:
            index = bisect_right(self._offsets, at) - 1
            end = self._offsets[index + 1]
            if at + len(needle) <= end:
                yield index
                at = self.data.find(needle, end)
            else:
                at = self.data.find(needle, at + 1)

    def common_records(self, other: MeasurementLog) -> int:
        """How many leading records are the same, byte for byte, in both lists."""
        counts = range(1, min(len(self), len(other)) + 1)
        return bisect_left(counts, True, key=lambda count: not self._starts_alike(other, count))

    def extends(self) -> Iterator[tuple[int, bytes, bytes]]:
        """For each record: its PCR, its digest column and the bytes that the kernel hashed."""
        data, header, u32_size = self.data, self._header, self._u32.size
        header_size = header.size
        for start, end in pairwise(self._offsets):
            pcr, digest, name_len = header.unpack_from(data, start)
            name_end = start + header_size + name_len
            if name_len == 3 and data[name_end - 3 : name_end] == _LEGACY_NAME:
                yield pcr, digest, _legacy_hashed(data[name_end:end], self.layout.byteorder)
            else:
                yield pcr, digest, data[name_end + u32_size : end]

    def _record(self, index: int) -> Record:
        start, end = self._offsets[index], self._offsets[index + 1]
        pcr, digest, name_len = self._header.unpack_from(self.data, start)
        name_end = start + self._header.size + name_len
        template = self._templates[self.data[name_end - name_len : name_end]]
        data_start = name_end if template.is_legacy else name_end + self._u32.size
        return Record(
            index=index,
            offset=start,
            size=end - start,
            pcr=pcr,
            digest=digest,
            template=template,
            data=self.data[data_start:end],
            byteorder=self.layout.byteorder,
        )

    def _starts_alike(self, other: MeasurementLog, count: int) -> bool:
        end = self._offsets[count]
        return other.data.startswith(self.data[:end])


def detect_layout(data: bytes, byteorder: ByteOrder | None = None) -> Layout | None:
    """The layout in which a list begins with a record; None if it does in none.

    No template name has more than 195 bytes: read in the wrong order its length has millions.

    Args:
        byteorder: the only one to consider; None for both.
    """
    orders = tuple(ByteOrder) if byteorder is None else (byteorder,)
    for bank in DIGEST_SIZES:
        for order in orders:
            layout = Layout(order, bank)
            if _begins_record(data, 0, layout):
                return layout
    return None


def _begins_record(data: bytes, start: int, layout: Layout) -> bool:
    header = layout.header
    if len(data) - start < header.size:
        return False
    pcr, _, name_len = header.unpack_from(data, start)
    name = data[start + header.size : start + header.size + min(name_len, _NAME_LIMIT)]
    return pcr <= _LAST_PCR and len(name) == name_len and _is_name(name)


class _Flaw(Exception):
    """What is wrong inside a record, before it is known which record it is."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class _Scan:
    """One walk over all records: where each begins, and which template names occur."""

    def __init__(self, data: bytes, layout: Layout) -> None:
        self._data = data
        self._layout = layout
        self._field_counts: dict[bytes, int | None] = {}
        self.offsets = array("Q", [0])
        self.flaw: _Flaw | None = None

    @property
    def templates(self) -> Iterable[bytes]:
        return self._field_counts

    def walk(self) -> None:
        """Go to the end, or to the first record that is none."""
        data, end, at = self._data, len(self._data), 0
        header, u32 = self._layout.header, self._layout.u32
        try:
            while at < end:
                at = _record_end(data, at, header, u32, self._field_counts)
                self.offsets.append(at)
        except _Flaw as flaw:
            self.flaw = flaw

    def rejection(self, flaw: _Flaw) -> Rejection:
        """What is wrong with the record after the last good one."""
        at, index = self.offsets[-1], len(self.offsets) - 1
        little = self._layout.byteorder is ByteOrder.LITTLE
        other = ByteOrder.BIG if little else ByteOrder.LITTLE
        what = str(flaw)
        if _begins_record(self._data, at, Layout(other, self._layout.bank)):
            what += f"; it would be a record in {other}-endian order"
        return Rejection(flaw.reason, what, where=f"record {index} at offset {at}")


def _record_end(
    data: bytes,
    start: int,
    header: struct.Struct,
    u32: struct.Struct,
    field_counts: dict[bytes, int | None],
) -> int:
    """Check the record at `start`; `field_counts` remembers the template names seen so far."""
    end = len(data)
    if end - start < header.size:
        raise _Flaw(
            Reason.TRAILING_BYTES,
            f"{end - start} bytes after the last record are too few for a record header",
        )
    pcr, _, name_len = header.unpack_from(data, start)
    if pcr > _LAST_PCR:
        raise _Flaw(Reason.PCR_INDEX, f"PCR {pcr} does not exist")
    name_end = start + header.size + name_len
    if name_end + u32.size > end:
        raise _Flaw(Reason.SHORT_RECORD, f"the list ends in a template name of {name_len} bytes")
    name = data[start + header.size : name_end]
    if name not in field_counts:
        field_counts[name] = _field_count(name)
    if name == _LEGACY_NAME:
        return _legacy_end(data, name_end, u32)
    data_start = name_end + u32.size
    data_len: int = u32.unpack_from(data, name_end)[0]
    if data_start + data_len > end:
        raise _Flaw(
            Reason.SHORT_RECORD,
            f"template data of {data_len} bytes announced, {end - data_start} are left",
        )
    data_end: int = data_start + data_len
    _check_fields(data, data_start, data_end, u32, field_counts[name])
    return data_end


def _field_count(name: bytes) -> int | None:
    """How many fields a template has; None if it is unknown."""
    if not _is_name(name):
        raise _Flaw(Reason.TEMPLATE_NAME, f"{name[:32]!r} cannot be the name of a template")
    fields = Template.of(name.decode("ascii")).fields
    return None if fields is None else len(fields)


def _is_name(name: bytes) -> bool:
    return 0 < len(name) <= _NAME_LIMIT and all(0x20 < byte < 0x7F for byte in name)


def _check_fields(data: bytes, at: int, end: int, u32: struct.Struct, expected: int | None) -> None:
    """The fields must fill the template data exactly, and be as many as the template has."""
    total, fields = end - at, 0
    while at < end:
        if end - at < u32.size:
            break
        length: int = u32.unpack_from(data, at)[0]
        at += u32.size + length
        fields += 1
    if at != end:
        raise _Flaw(Reason.FIELD_SUM, f"the fields do not add up to the {total} bytes of the data")
    if fields == 0 or expected not in (None, fields):
        raise _Flaw(Reason.FIELD_SUM, f"{expected or 'some'} fields expected, {fields} found")


def _legacy_end(data: bytes, digest_start: int, u32: struct.Struct) -> int:
    """With the first size of the digest that gives a path: the letters of one are no length."""
    sha1_end, md5_end = (digest_start + size for size in _LEGACY_DIGESTS)
    try:
        return _legacy_path_end(data, sha1_end, u32)
    except _Flaw as flaw:
        with suppress(_Flaw):
            end = _legacy_path_end(data, md5_end, u32)
            # The digest of a violation has 20 zero bytes in any case.
            if end > md5_end + u32.size:
                return end
        raise flaw from None


def _legacy_path_end(data: bytes, digest_end: int, u32: struct.Struct) -> int:
    path_start = digest_end + u32.size
    if path_start > len(data):
        raise _Flaw(Reason.SHORT_RECORD, "the list ends in a legacy digest")
    path_len: int = u32.unpack_from(data, digest_end)[0]
    if path_len >= _LEGACY_PATH_SIZE:
        raise _Flaw(Reason.FIELD_SUM, f"a legacy path of {path_len} bytes, 255 at most expected")
    if path_start + path_len > len(data):
        raise _Flaw(Reason.SHORT_RECORD, f"the list ends in a legacy path of {path_len} bytes")
    return path_start + path_len


def _legacy_digest_size(data: bytes, byteorder: ByteOrder) -> int:
    """Of the legacy template data: the size with which the path fills the rest."""
    for size in _LEGACY_DIGESTS:
        if int.from_bytes(data[size : size + 4], byteorder.value) == len(data) - size - 4:
            return size
    raise AssertionError("a record is only made of what was scanned")


def _legacy_hashed(data: bytes, byteorder: ByteOrder) -> bytes:
    """Kernel: ima_crypto.c, ima_calc_field_array_hash_tfm(): no lengths, the path padded."""
    size = _legacy_digest_size(data, byteorder)
    return data[:size] + data[size + 4 :].ljust(_LEGACY_PATH_SIZE, b"\0")


def _tagged_digest(value: bytes) -> Digest | None:
    """`[prefix:]algorithm: NUL digest`; None where there is no such tag."""
    tag, separator, digest = value.partition(b":\0")
    algorithm = tag.rpartition(b":")[2]
    if not separator or not algorithm.isascii():
        return None
    return Digest(algorithm.decode("ascii"), digest)
