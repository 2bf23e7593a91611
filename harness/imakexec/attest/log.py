# SPDX-License-Identifier: GPL-2.0-only
"""The binary measurement list, `/sys/kernel/security/ima/binary_runtime_measurements`.

One record (integers in the byte order of the guest, or little-endian with ima_canonical_fmt;
kernel: security/integrity/ima/ima_fs.c, ima_measurements_show()):

    u32 pcr | digest[20] | u32 name_len | name, no NUL | u32 data_len | template data

The digest is SHA1(template data), or 20 zero bytes for a violation. Template data is one
`u32 len | bytes` per field. The legacy template "ima" has no data_len:

    u32 pcr | digest[20] | u32 3 | "ima" | file digest[20] | u32 path_len | path, no NUL

A template made with ima_template_fmt= has its format, e.g. "d-ng|n-ng|sig", as its name. The name
is hashed into nothing: replay proves the bytes of the template data, not how they are to be read.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import overload

from imakexec.attest.reasons import Reason, Rejection

VIOLATION_DIGEST = bytes(20)

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
_HEADER_SIZE = 4 + 20 + 4
_LEGACY_DIGEST_SIZE = 20
# IMA_EVENT_NAME_LEN_MAX + 1: the legacy template hashes its path padded to this with zero bytes.
_LEGACY_PATH_SIZE = 256


class ByteOrder(StrEnum):
    """The byte order of the integers in a list."""

    LITTLE = "little"
    BIG = "big"


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
        digest: the 20 bytes of the digest column.
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
        return self.digest == VIOLATION_DIGEST

    def field(self, identifier: str) -> bytes | None:
        """The bytes of a field such as "n-ng"; None if it is absent, unknown or not unique."""
        names = self.template.fields
        if names is None or names.count(identifier) != 1:
            return None
        return self._fields()[names.index(identifier)]

    @property
    def event(self) -> bytes | None:
        """The event or path without its terminating NUL; None where it has none or is not one."""
        legacy = self.field("n")
        if legacy is not None:
            return legacy
        name = self.field("n-ng")
        return name[:-1] if name is not None and name.endswith(b"\0") else None

    @property
    def name(self) -> str:
        """`event` for people: what is not UTF-8 is shown as backslash escapes."""
        return (self.event or b"").decode("utf-8", "backslashreplace")

    @property
    def file_digest(self) -> Digest | None:
        """The digest of what was measured: d-ng, d-ngv2 or the legacy digest."""
        legacy = self.field("d")
        if legacy is not None:
            return Digest("sha1", legacy)
        for identifier in ("d-ng", "d-ngv2"):
            value = self.field(identifier)
            if value is not None:
                return _tagged_digest(value)
        return None

    @property
    def buf(self) -> bytes | None:
        """The measured bytes themselves, where the template carries them."""
        return self.field("buf")

    def _fields(self) -> list[bytes]:
        if self.template.is_legacy:
            return [self.data[:_LEGACY_DIGEST_SIZE], self.data[_LEGACY_DIGEST_SIZE + 4 :]]
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
        self, data: bytes, byteorder: ByteOrder, offsets: array[int], templates: set[bytes]
    ) -> None:
        self.data = data
        self.byteorder = byteorder
        self._offsets = offsets  # one more than records: the last one is the end of the list
        self._templates = {name: Template.of(name.decode("ascii")) for name in templates}
        self._header, self._u32 = _structs(byteorder)

    @classmethod
    def parse(cls, data: bytes, byteorder: ByteOrder = ByteOrder.LITTLE) -> MeasurementLog:
        """Read a whole list, strictly.

        Raises:
            Rejection: with reason empty_list, short_record, trailing_bytes, field_sum,
                template_name or pcr_index; `where` names the record and the offset.
        """
        if not data:
            raise Rejection(Reason.EMPTY_LIST, "the list holds no record", where="offset 0")
        offsets, templates = _scan(data, byteorder)
        return cls(data, byteorder, offsets, templates)

    def __len__(self) -> int:
        return len(self._offsets) - 1

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
        for start, end in pairwise(self._offsets):
            pcr, digest, name_len = header.unpack_from(data, start)
            name_end = start + _HEADER_SIZE + name_len
            if name_len == 3 and data[name_end - 3 : name_end] == _LEGACY_NAME:
                yield pcr, digest, _legacy_hashed(data[name_end:end])
            else:
                yield pcr, digest, data[name_end + u32_size : end]

    def _record(self, index: int) -> Record:
        start, end = self._offsets[index], self._offsets[index + 1]
        pcr, digest, name_len = self._header.unpack_from(self.data, start)
        name_end = start + _HEADER_SIZE + name_len
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
            byteorder=self.byteorder,
        )

    def _starts_alike(self, other: MeasurementLog, count: int) -> bool:
        end = self._offsets[count]
        return other.data.startswith(self.data[:end])


def _structs(byteorder: ByteOrder) -> tuple[struct.Struct, struct.Struct]:
    """The record header (pcr, digest, name_len) and a single u32."""
    sign = "<" if byteorder is ByteOrder.LITTLE else ">"
    return struct.Struct(f"{sign}I20sI"), struct.Struct(f"{sign}I")


def _scan(data: bytes, byteorder: ByteOrder) -> tuple[array[int], set[bytes]]:
    """Walk all records once: where each begins, and which template names occur."""
    header, u32 = _structs(byteorder)
    field_counts: dict[bytes, int | None] = {}
    offsets, at, end = array("Q"), 0, len(data)
    while at < end:
        offsets.append(at)
        try:
            at = _record_end(data, at, header, u32, field_counts)
        except _Flaw as flaw:
            where = f"record {len(offsets) - 1} at offset {at}"
            raise Rejection(flaw.reason, str(flaw), where=where) from None
    offsets.append(end)
    return offsets, set(field_counts)


class _Flaw(Exception):
    """What is wrong inside a record, before it is known which record it is."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what)
        self.reason = reason


def _record_end(
    data: bytes,
    start: int,
    header: struct.Struct,
    u32: struct.Struct,
    field_counts: dict[bytes, int | None],
) -> int:
    """Check the record at `start`; `field_counts` remembers the template names seen so far."""
    end = len(data)
    if end - start < _HEADER_SIZE:
        raise _Flaw(
            Reason.TRAILING_BYTES,
            f"{end - start} bytes after the last record are too few for a record header",
        )
    pcr, _, name_len = header.unpack_from(data, start)
    if pcr > _LAST_PCR:
        raise _Flaw(Reason.PCR_INDEX, f"PCR {pcr} does not exist; is the byte order right?")
    name_end = start + _HEADER_SIZE + name_len
    if name_end + u32.size > end:
        raise _Flaw(Reason.SHORT_RECORD, f"the list ends in a template name of {name_len} bytes")
    name = data[start + _HEADER_SIZE : name_end]
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
    if not 0 < len(name) <= _NAME_LIMIT or not all(0x20 < byte < 0x7F for byte in name):
        raise _Flaw(Reason.TEMPLATE_NAME, f"{name[:32]!r} cannot be the name of a template")
    fields = Template.of(name.decode("ascii")).fields
    return None if fields is None else len(fields)


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
    path_start = digest_start + _LEGACY_DIGEST_SIZE + u32.size
    if path_start > len(data):
        raise _Flaw(Reason.SHORT_RECORD, "the list ends in a legacy digest")
    path_len: int = u32.unpack_from(data, path_start - u32.size)[0]
    if path_len >= _LEGACY_PATH_SIZE:
        raise _Flaw(Reason.FIELD_SUM, f"a legacy path of {path_len} bytes, 255 at most expected")
    if path_start + path_len > len(data):
        raise _Flaw(Reason.SHORT_RECORD, f"the list ends in a legacy path of {path_len} bytes")
    return path_start + path_len


def _legacy_hashed(data: bytes) -> bytes:
    """Kernel: ima_crypto.c, ima_calc_field_array_hash_tfm(): no lengths, the path padded."""
    return (data[:_LEGACY_DIGEST_SIZE] + data[_LEGACY_DIGEST_SIZE + 4 :]).ljust(
        _LEGACY_DIGEST_SIZE + _LEGACY_PATH_SIZE, b"\0"
    )


def _tagged_digest(value: bytes) -> Digest | None:
    """`[prefix:]algorithm: NUL digest`; None where there is no such tag."""
    tag, separator, digest = value.partition(b":\0")
    algorithm = tag.rpartition(b":")[2]
    if not separator or not algorithm.isascii():
        return None
    return Digest(algorithm.decode("ascii"), digest)
