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
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import NamedTuple, Protocol, overload

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
_LEGACY_SIZE = len(_LEGACY_NAME)

# A format that the kernel accepts has at most 15 fields of at most 12 letters, with separators.
_NAME_LIMIT = 15 * 13
# The longest first field of most records is a d-ngv2: "verity:sha512:", NUL and 64 bytes.
_FIRST_LIMIT = 128
_SHAPES_LIMIT = 256
# Bytes that are taken at once: so few that they, and what is made of them, stay in a CPU's cache.
_WINDOW = 1 << 17
STRIDE = 32
"""Of each so many records the offset is kept: a record is found by a walk from there."""
# The most that stands between the beginning of a record and its template data, in bytes.
_HEAD = 4 + max(DIGEST_SIZES.values()) + 4 + _NAME_LIMIT + 4
_PADDING = bytes(_HEAD)
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


@lru_cache
def _struct(form: str) -> struct.Struct:
    return struct.Struct(form)


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
        return f"{self.byteorder}-endian with digests of {self.bank}"

    @property
    def header(self) -> struct.Struct:
        """What begins a record: pcr, digest, name_len."""
        return _struct(f"{self._sign}I{DIGEST_SIZES[self.bank]}sI")

    @property
    def u32(self) -> struct.Struct:
        """A length."""
        return _struct(f"{self._sign}I")

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
        name = self.field("n-ng")
        if name is None:
            name = self.field("n")
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


class Data(Protocol):
    """What a list lies in: `bytes`, or an object that reads them where they are asked for."""

    def __len__(self) -> int:
        """In bytes."""

    def __getitem__(self, span: slice, /) -> bytes:
        """A copy of some of them, as of `bytes`; only steps of 1 are asked for."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records, as far as a replay needs them: columns are read faster than rows.

    Args:
        index: of the first one.
        pcrs: the PCR of each.
        digests: the digest column of each.
        hashed: the bytes of each that the kernel hashed.
    """

    index: int
    pcrs: Sequence[int]
    digests: Sequence[bytes]
    hashed: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.pcrs)

    def part(self, span: slice) -> Batch:
        """Some of the records, counted from the first one here."""
        return Batch(
            self.index + span.indices(len(self))[0],
            self.pcrs[span],
            self.digests[span],
            self.hashed[span],
        )


class MeasurementLog(Sequence[Record]):
    """A list that is well formed from its first to its last byte.

    Records are made on demand, and their bytes are asked of `data` only then. Beside these the list
    holds eight bytes for each 32 records: a record is found by a walk over 31 others at most, and
    the way through all of them is taken in windows of some hundred KiB.
    """

    def __init__(
        self, data: Data, layout: Layout, marks: array[int], count: int, templates: Iterable[bytes]
    ) -> None:
        self.data = data
        self.layout = layout
        self._marks = marks  # the offsets of each 32nd record, the first included, and the end
        self._count = count
        self._templates = {name: Template.of(name.decode("ascii")) for name in templates}
        self._header, self._u32 = layout.header, layout.u32
        # By how much a record is longer here than where the kernel hands it over, in bytes.
        self._surplus = DIGEST_SIZES[layout.bank] - DIGEST_SIZES["sha1"]
        self._frames = _Frames(layout)
        self._walked: tuple[tuple[int, list[int]], ...] = ()  # what `_offsets` gave last
        self._sought: dict[bytes, array[int]] = {}

    @classmethod
    def parse(cls, data: Data, byteorder: ByteOrder | None = None) -> MeasurementLog:
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
        return cls._scanned(data, layout)

    @classmethod
    def parse_whole_records(
        cls, data: Data, byteorder: ByteOrder | None = None
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
        return cls.parse(data[: scan.end], layout.byteorder), len(data) - scan.end

    @classmethod
    def join(cls, parts: Sequence[MeasurementLog]) -> MeasurementLog:
        """One list of lists that follow each other, e.g. saved records and a trimmed list.

        Raises:
            ValueError: they are not all of one layout, or there is none.
            Rejection: together they are read in another way than each on its own, which only a
                part that ends in a legacy record can bring about.
        """
        if len({part.layout for part in parts}) != 1:
            raise ValueError("lists of one layout expected")
        if len(parts) == 1:
            return parts[0]
        return cls._scanned(_joined([part.data for part in parts]), parts[0].layout)

    @classmethod
    def _scanned(cls, data: Data, layout: Layout) -> MeasurementLog:
        scan = _Scan(data, layout)
        scan.walk()
        if scan.flaw is not None:
            raise scan.rejection(scan.flaw)
        return cls(data, layout, scan.marks, scan.count, scan.templates)

    def __len__(self) -> int:
        return self._count

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
        """The size in bytes of the first `count` records.

        Raises:
            IndexError: there are not as many.
        """
        if not 0 <= count <= self._count:
            raise IndexError(f"{count} records of {self._count}")
        block, place = divmod(count, STRIDE)
        return self._offsets(block)[place] if place else self._marks[block]

    def carried_size(self, count: int) -> int:
        """The same as the kernel hands them over: with SHA-1 in the digest column."""
        return self.offset(count) - count * self._surplus

    def sizes(self, first: int = 0) -> Iterator[tuple[Template, int]]:
        """For each record: its template, and its size in bytes as the kernel hands it over.

        Args:
            first: the index of the record to begin with.
        """
        header = self._header
        for block in range(first // STRIDE, len(self._marks) - 1):
            offsets = self._offsets(block)
            for start, end in pairwise(offsets[max(0, first - block * STRIDE) :]):
                head = self.data[start : start + _HEAD]
                name_len = header.unpack_from(head)[2]
                template = self._templates[head[header.size : header.size + name_len]]
                yield template, end - start - self._surplus

    def seek(self, needles: Iterable[bytes]) -> None:
        """Look for several needles on one way through the list; `carrying` knows them then."""
        found = {needle: array("Q") for needle in needles}
        for _, start, window in self._windows():
            for needle, indices in found.items():
                indices.extend(self._carrying(needle, start, window))
        self._sought.update(found)

    def carrying(self, needle: bytes) -> Iterator[int]:
        """The indices of the records that hold these bytes anywhere, ascending."""
        if needle not in self._sought:
            self.seek([needle])
        return iter(self._sought[needle])

    def _carrying(self, needle: bytes, start: int, window: bytes) -> Iterator[int]:
        at = window.find(needle)
        while at >= 0:
            index, end = self._around(start + at)
            if at + len(needle) <= end - start:
                yield index
                at = window.find(needle, end - start)
            else:
                at = window.find(needle, at + 1)

    def common_records(self, other: MeasurementLog) -> int:
        """How many leading records are the same, byte for byte, in both lists."""
        if other is self:
            return self._count
        same = _common_size(self.data, other.data)
        return self._count if same == self._marks[-1] else self._around(same)[0]

    def batches(self) -> Iterator[Batch]:
        """All records in order, as many at a time as lie in some hundred KiB; one at least."""
        for index, _, window in self._windows():
            yield self._frames.batch(window, index)

    def extends(self) -> Iterator[tuple[int, bytes, bytes]]:
        """For each record: its PCR, its digest column and the bytes that the kernel hashed."""
        for batch in self.batches():
            yield from zip(batch.pcrs, batch.digests, batch.hashed, strict=True)

    def _record(self, index: int) -> Record:
        block, place = divmod(index, STRIDE)
        start, end = self._offsets(block)[place : place + 2]
        raw, header = self.data[start:end], self._header
        pcr, digest, name_len = header.unpack_from(raw)
        name_end = header.size + name_len
        template = self._templates[raw[header.size : name_end]]
        return Record(
            index=index,
            offset=start,
            size=end - start,
            pcr=pcr,
            digest=digest,
            template=template,
            data=raw[name_end if template.is_legacy else name_end + self._u32.size :],
            byteorder=self.layout.byteorder,
        )

    def _offsets(self, block: int) -> list[int]:
        """Where the records from a mark to the next one begin, and where the last of them ends.

        Who goes through the list asks for the same again and again, so the last answers are kept.
        """
        for walked, offsets in self._walked:
            if walked == block:
                return offsets
        start, end = self._marks[block : block + 2]
        if end - start <= _WINDOW:
            offsets = [start + at for at in self._frames.ends(self.data[start:end])]
        else:
            offsets = [start]
            while offsets[-1] < end:
                offsets.append(_record_end(self.data, offsets[-1], self.layout, {}))
        self._walked = ((block, offsets), *self._walked[:3])
        return offsets

    def _around(self, offset: int) -> tuple[int, int]:
        """The index of the record that the byte at an offset belongs to, and where that ends."""
        block = bisect_right(self._marks, offset) - 1
        offsets = self._offsets(block)
        place = bisect_right(offsets, offset)
        return block * STRIDE + place - 1, offsets[place]

    def _windows(self) -> Iterator[tuple[int, int, bytes]]:
        """All records in order, as many at a time as fit a window, but one at least.

        Yields:
            The index and the offset of the first one, and the bytes of all.
        """
        block, marks = 0, self._marks
        while block + 1 < len(marks):
            start = marks[block]
            after = bisect_right(marks, start + _WINDOW) - 1
            if after > block:
                yield block * STRIDE, start, self.data[start : marks[after]]
                block = after
            else:
                for place, (at, end) in enumerate(pairwise(self._offsets(block))):
                    yield block * STRIDE + place, at, self.data[at:end]
                block += 1


class _Frame(NamedTuple):
    """What stands between the beginning of a record and its template data: pcr to data_len."""

    unpack: Callable[[bytes, int], tuple[int, bytes, int, int]]
    size: int


class _Frames(dict[int, _Frame]):
    """Takes records apart whose form was checked before; a frame for each length of a name."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._layout = layout

    def __missing__(self, name_len: int) -> _Frame:
        form = _struct(f"{self._layout.header.format}{name_len}xI")
        self[name_len] = _Frame(form.unpack_from, form.size)
        return self[name_len]

    def ends(self, window: bytes) -> list[int]:
        """Where the records in a window begin, and where the last one ends."""
        padded, size = window + _PADDING, len(window)
        known, (unpack, front) = 0, self[0]
        at, ends = 0, [0]
        while at < size:
            _, _, name_len, data_len = unpack(padded, at)
            if name_len != known:
                if name_len == _LEGACY_SIZE:
                    _, at = self._perhaps_legacy(window, at)
                    ends.append(at)
                    continue
                known, (unpack, front) = name_len, self[name_len]
                _, _, _, data_len = unpack(padded, at)
            at += front + data_len
            ends.append(at)
        return ends

    def batch(self, window: bytes, index: int) -> Batch:
        """The records in a window, the first of which has that index in the list."""
        padded, size = window + _PADDING, len(window)
        known, (unpack, front) = 0, self[0]
        at, pcrs, digests, hashed = 0, list[int](), list[bytes](), list[bytes]()
        while at < size:
            pcr, digest, name_len, data_len = unpack(padded, at)
            pcrs.append(pcr)
            digests.append(digest)
            if name_len != known:
                if name_len == _LEGACY_SIZE:
                    data, at = self._perhaps_legacy(window, at)
                    hashed.append(data)
                    continue
                known, (unpack, front) = name_len, self[name_len]
                _, _, _, data_len = unpack(padded, at)
            start = at + front
            at = start + data_len
            hashed.append(window[start:at])
        return Batch(index, pcrs, digests, hashed)

    def _perhaps_legacy(self, window: bytes, at: int) -> tuple[bytes, int]:
        """What was hashed of a record whose name is as long as the legacy template's; its end."""
        u32 = self._layout.u32
        name_end = at + self._layout.header.size + _LEGACY_SIZE
        if window[name_end - _LEGACY_SIZE : name_end] == _LEGACY_NAME:
            end = _legacy_end(window, name_end, u32)
            return _legacy_hashed(window[name_end:end], self._layout.byteorder), end
        start = name_end + u32.size
        end = start + u32.unpack_from(window, name_end)[0]
        return window[start:end], end


@dataclass(frozen=True, slots=True)
class _Joined:
    """Data that lies in several places."""

    parts: Sequence[Data]
    starts: Sequence[int]  # of each part in the whole, and the end of the last one

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, span: slice, /) -> bytes:
        start, stop, _ = span.indices(len(self))
        return b"".join(
            part[max(0, start - begin) : max(0, stop - begin)]
            for part, begin in zip(self.parts, self.starts[:-1], strict=True)
        )


def _joined(parts: Sequence[Data]) -> Data:
    """Data that follow each other; bytes, which are small where there is a choice, are copied."""
    if all(isinstance(part, bytes) for part in parts):
        return b"".join(part[:] for part in parts)
    return _Joined(parts, list(accumulate(map(len, parts), initial=0)))


def _common_size(one: Data, other: Data) -> int:
    """How many leading bytes are the same."""
    most = min(len(one), len(other))
    for start in range(0, most, _WINDOW):
        stop = min(start + _WINDOW, most)
        here, there = one[start:stop], other[start:stop]
        if here != there:
            pairs = enumerate(zip(here, there, strict=True), start)
            return next(at for at, (byte, its) in pairs if byte != its)
    return most


def detect_layout(data: Data, byteorder: ByteOrder | None = None) -> Layout | None:
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


def _begins_record(data: Data, start: int, layout: Layout) -> bool:
    header = layout.header
    if len(data) - start < header.size:
        return False
    pcr, _, name_len = header.unpack(data[start : start + header.size])
    name = data[start + header.size : start + header.size + min(name_len, _NAME_LIMIT)]
    return pcr <= _LAST_PCR and len(name) == name_len and _is_name(name)


class _Flaw(Exception):
    """What is wrong inside a record, before it is known which record it is."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class _Shape(NamedTuple):
    """What records of one template have in common whose first field is as long.

    Args:
        unpack: reads pcr, name_len with the name, data_len, and the lengths of two fields.
        name: name_len with the name.
        first: the length of the first field.
        front: how many bytes stand before the template data.
        reach: how many bytes stand before the second field.
        further: how many fields follow that.
    """

    unpack: Callable[[bytes, int], tuple[int, bytes, int, int, int]]
    name: bytes
    first: int
    front: int
    reach: int
    further: int


# Fits no record: no name is empty, and nothing is within such a reach.
_SHAPELESS = _Shape(struct.Struct("<IsIII").unpack_from, b"", 0, 0, 2**62, 0)


class _Scan:
    """One walk over all records: where they are, and which template names occur.

    `_record_end` says what a record must be. Most records of a list have one of a few shapes, and
    for these a shorter way leads to the same answer; the others are left to `_record_end`.
    """

    def __init__(self, data: Data, layout: Layout) -> None:
        self._data = data
        self._layout = layout
        self._u32 = layout.u32.unpack_from
        self._name_at = layout.header.size - 4  # of its length, in a record
        self._field_counts: dict[bytes, int | None] = {}
        self._shapes: dict[tuple[bytes, int], _Shape] = {}
        self.marks = array("Q", [0])
        self.count = 0
        self.end = 0
        self.flaw: _Flaw | None = None

    @property
    def templates(self) -> Iterable[bytes]:
        return self._field_counts

    def walk(self) -> None:
        """Go to the end, or to the first record that is none."""
        try:
            while self.end < len(self._data):
                self._cross(self._data[self.end : self.end + _WINDOW])
        except _Flaw as flaw:
            # Its traceback would hold this walk, and the list with it, until the next collection.
            self.flaw = flaw.with_traceback(None)
        if self.marks[-1] < self.end:
            self.marks.append(self.end)

    def rejection(self, flaw: _Flaw) -> Rejection:
        """What is wrong with the record after the last good one."""
        little = self._layout.byteorder is ByteOrder.LITTLE
        other = ByteOrder.BIG if little else ByteOrder.LITTLE
        what = str(flaw)
        if _begins_record(self._data, self.end, Layout(other, self._layout.bank)):
            what += f"; it would be a record in {other}-endian order"
        return Rejection(flaw.reason, what, where=f"record {self.count} at offset {self.end}")

    def _cross(self, window: bytes) -> None:
        """Walk over the records that begin in a window, which begins where the walk stands."""
        ends: list[int] = []
        try:
            self._find_ends(window, ends)
        finally:
            before_mark = STRIDE - 1 - self.count % STRIDE
            self.marks.extend(self.end + end for end in ends[before_mark::STRIDE])
            self.count += len(ends)
            self.end += ends[-1] if ends else 0

    def _find_ends(self, window: bytes, ends: list[int]) -> None:
        at, size, last_pcr, u32 = 0, len(window), _LAST_PCR, self._u32
        unpack, known, first, front, reach, further = _SHAPELESS
        while at < size:
            try:
                pcr, name, data_len, length, second = unpack(window, at)
                if name != known or length != first:
                    shape = self._shape_of(window, at)
                    unpack, known, first, front, reach, further = shape
                    pcr, name, data_len, length, second = unpack(window, at)
                end = at + reach + second
                if further:
                    for _ in range(further):
                        end += 4 + u32(window, end)[0]
                fits = end <= size and end - at == front + data_len and pcr <= last_pcr
            except struct.error:  # something would be behind the end of the window
                fits = False
            if not fits:
                start = self.end + at
                end = _record_end(self._data, start, self._layout, self._field_counts) - self.end
            at = end
            ends.append(at)

    def _shape_of(self, window: bytes, at: int) -> _Shape:
        """The shape that a record seems to have; none before its template was seen once."""
        start = at + self._name_at
        name_len: int = self._u32(window, start)[0]
        named = window[start : start + 4 + min(name_len, _NAME_LIMIT)]
        first: int = self._u32(window, start + 4 + name_len + 4)[0]
        return self._shapes.get((named, first)) or self._new_shape(named, first)

    def _new_shape(self, named: bytes, first: int) -> _Shape:
        name = named[4:]
        fields = self._field_counts.get(name)
        if first > _FIRST_LIMIT or fields is None or fields < 2 or name == _LEGACY_NAME:
            return _SHAPELESS
        header = self._layout.header
        form = struct.Struct(
            f"{header.format[0]}I{header.size - 8}x{len(named)}sII{first}xI",
        )
        front = header.size + len(name) + 4
        shape = _Shape(form.unpack_from, named, first, front, form.size, fields - 2)
        if len(self._shapes) == _SHAPES_LIMIT:
            self._shapes.clear()
        self._shapes[named, first] = shape
        return shape


def _record_end(
    data: Data, start: int, layout: Layout, field_counts: dict[bytes, int | None]
) -> int:
    """Check the record at `start`; `field_counts` remembers the template names seen so far."""
    header, u32, end = layout.header, layout.u32, len(data)
    if end - start < header.size:
        raise _Flaw(
            Reason.TRAILING_BYTES,
            f"{end - start} bytes after the last record are too few for a record header",
        )
    pcr, _, name_len = header.unpack(data[start : start + header.size])
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
    data_len: int = u32.unpack(data[name_end:data_start])[0]
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


def _check_fields(data: Data, at: int, end: int, u32: struct.Struct, expected: int | None) -> None:
    """The fields must fill the template data exactly, and be as many as the template has."""
    total, fields = end - at, 0
    while at < end:
        if end - at < u32.size:
            break
        length: int = u32.unpack(data[at : at + u32.size])[0]
        at += u32.size + length
        fields += 1
    if at != end:
        raise _Flaw(Reason.FIELD_SUM, f"the fields do not add up to the {total} bytes of the data")
    if fields == 0 or expected not in (None, fields):
        raise _Flaw(Reason.FIELD_SUM, f"{expected or 'some'} fields expected, {fields} found")


def _legacy_end(data: Data, digest_start: int, u32: struct.Struct) -> int:
    """With the first size of the digest that gives a path: the letters of one are no length."""
    sha1_end, md5_end = (digest_start + size for size in _LEGACY_DIGESTS)
    try:
        return _legacy_path_end(data, sha1_end, u32)
    except _Flaw as flaw:
        try:
            end = _legacy_path_end(data, md5_end, u32)
        except _Flaw as other:
            # A path that the list ends in is more likely than one of many letters.
            raise (other if other.reason in _CUT else flaw) from None
        # The digest of a violation has 20 zero bytes in any case.
        if end > md5_end + u32.size:
            return end
        raise flaw from None


def _legacy_path_end(data: Data, digest_end: int, u32: struct.Struct) -> int:
    path_start = digest_end + u32.size
    if path_start > len(data):
        raise _Flaw(Reason.SHORT_RECORD, "the list ends in a legacy digest")
    path_len: int = u32.unpack(data[digest_end:path_start])[0]
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
