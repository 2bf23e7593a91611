# SPDX-License-Identifier: GPL-2.0-only
"""Lists and hand-over buffers that are wrong in every way that somebody has thought of.

A good list is written with the places of its integers and records, so that a change can hit them:
most random bytes die at the first header and would test nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import list_writer
from list_writer import Entry, Order

Kind = Literal["pcr", "name_len", "data_len", "field_len", "header"]


@dataclass(frozen=True)
class Mark:
    """An unsigned integer somewhere in the bytes.

    Args:
        at: its offset.
        width: its bytes.
        order: its byte order.
        kind: what it says.
    """

    at: int
    width: int
    order: Order
    kind: Kind

    def put(self, data: bytearray, value: int) -> None:
        value %= 1 << (8 * self.width)
        data[self.at : self.at + self.width] = value.to_bytes(self.width, self.order)

    def get(self, data: bytes | bytearray) -> int:
        return int.from_bytes(data[self.at : self.at + self.width], self.order)


@dataclass(frozen=True)
class Sample:
    """A good list, or a hand-over buffer with one.

    Args:
        entries: what it says.
        data: its bytes.
        marks: its integers.
        ends: where each record begins, and the end of the last.
        order: its byte order.
        bank: of its digest column.
    """

    entries: tuple[Entry, ...]
    data: bytes
    marks: tuple[Mark, ...]
    ends: tuple[int, ...]
    order: Order
    bank: str


def _sample(entries: Sequence[Entry], order: Order, bank: str = "sha1") -> Sample:
    data, marks, ends = b"", [], [0]
    for entry in entries:
        marks += _marks(entry, order, bank, len(data))
        data += entry.pack(order, bank)
        ends.append(len(data))
    return Sample(tuple(entries), data, tuple(marks), tuple(ends), order, bank)


def _marks(entry: Entry, order: Order, bank: str, start: int) -> list[Mark]:
    name_len = start + 4 + len(entry.column(order, bank))
    marks = [Mark(start, 4, order, "pcr"), Mark(name_len, 4, order, "name_len")]
    at = name_len + 4 + len(entry.template)
    if entry.template == "ima":
        return [*marks, Mark(at + len(entry.parts(order)[0]), 4, order, "field_len")]
    marks.append(Mark(at, 4, order, "data_len"))
    at += 4
    for part in entry.parts(order):
        marks.append(Mark(at, 4, order, "field_len"))
        at += 4 + len(part)
    return marks


def _handed_over(sample: Sample, room: int) -> Sample:
    """The same list behind the header of a hand-over buffer, with `room` zero bytes behind it."""
    header = list_writer.handover(sample.entries, sample.order)[:24]
    marks = [
        Mark(0, 2, sample.order, "header"),
        Mark(8, 8, sample.order, "header"),
        Mark(16, 8, sample.order, "header"),
        *(Mark(mark.at + 24, mark.width, mark.order, mark.kind) for mark in sample.marks),
    ]
    ends = tuple(end + 24 for end in sample.ends)
    data = header + sample.data + bytes(room)
    return Sample(sample.entries, data, tuple(marks), ends, sample.order, "sha1")


def _lists() -> tuple[Sample, ...]:
    mixed = [
        list_writer.entry("/first"),
        Entry("ima-buf", (b"sha256:\0" + bytes(32), b"kexec_load\0", b"kexec_segment_size=1;")),
        Entry("ima-ng", (b"sha256:\0" + bytes(32), b"/violation\0"), violation=True),
        Entry("ima-modsig", (b"sha1:\0" + bytes(20), b"/m\0", b"", b"", b"")),
        Entry("x|y|z", (b"one", b"", b"three")),
        list_writer.entry("/last", pcr=11),
    ]
    legacy = [
        list_writer.entry(template="ima"),
        Entry("ima", (bytes(range(16)), b"/with-md5\0")),
        list_writer.entry(template="ima-buf"),
    ]
    pairs = [
        [list_writer.entry(path, template=template) for path in ("/a", "/b")]
        for template in (*list_writer.BUILT_IN, "n-ng|d-ng|sig", "d|n")
    ]
    long = [list_writer.entry(f"/{number}") for number in range(40)]
    return tuple(
        _sample(entries, order, bank)
        for order in list_writer.ORDERS
        for entries, bank in (
            *((pair, "sha1") for pair in pairs),
            *((mixed, bank) for bank in list_writer.BANKS),
            (legacy, "sha1"),
            (long, "sha1"),
        )
    )


def sample_of(data: bytes) -> Sample:
    """A list without legacy records, little-endian with SHA-1 in its column, as a sample."""
    marks: list[Mark] = []
    ends = [0]
    while ends[-1] < len(data):
        name_len = Mark(ends[-1] + 24, 4, "little", "name_len")
        data_len = Mark(name_len.at + 4 + name_len.get(data), 4, "little", "data_len")
        marks += [Mark(ends[-1], 4, "little", "pcr"), name_len, data_len]
        at = data_len.at + 4
        ends.append(at + data_len.get(data))
        while at < ends[-1]:
            marks.append(Mark(at, 4, "little", "field_len"))
            at += 4 + marks[-1].get(data)
    return Sample((), data, tuple(marks), tuple(ends), "little", "sha1")


def opaque_sample(data: bytes) -> Sample:
    """Bytes of which nothing is known: numbers may be anywhere in the first hundred."""
    marks = [Mark(at, 2, "big", "header") for at in range(max(1, min(100, len(data) - 1)))]
    return Sample((), data, tuple(marks), (0, len(data)), "big", "sha1")


LISTS = _lists()
BUFFERS = tuple(
    _handed_over(sample, room) for sample in LISTS if sample.bank == "sha1" for room in (0, 100)
)

_NAMES = (
    *(name.encode() for name in list_writer.BUILT_IN),
    *(b"d-ng|n-ng", b"n-ng|d-ng|n-ng", b"buf", b"d|n", b"unknown", b"|", b"d-ng|", b"ima "),
    *(b"", b"\0", b"ima-ng\0", b"\xff\xfe", b"\x1b[2J", b"a" * 195, b"a" * 196, b"b|" * 5000),
)


def _edge(random: Random, current: int) -> int:
    """A number at which readers go wrong."""
    near = current + random.choice((-2, -1, 1, 2, 24))
    choices = (0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, near, near, near)
    return random.choice((*choices, random.randrange(256), random.randrange(2**32)))


def _flip_bits(random: Random, data: bytearray, _: Sample) -> None:
    for _flip in range(random.choice((1, 1, 2, 8))):
        if data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _edit_number(random: Random, data: bytearray, sample: Sample) -> None:
    mark = random.choice(sample.marks)
    if mark.at + mark.width <= len(data):
        mark.put(data, _edge(random, mark.get(data)))


def _reverse_numbers(random: Random, data: bytearray, sample: Sample) -> None:
    """The wrong byte order, of one number or of all of a kind."""
    kind = random.choice(sample.marks).kind
    only = random.choice((None, random.choice(sample.marks)))
    for mark in sample.marks:
        if mark.kind == kind if only is None else mark is only:
            end = mark.at + mark.width
            if end <= len(data):
                data[mark.at : end] = data[mark.at : end][::-1]


def _truncate(random: Random, data: bytearray, _: Sample) -> None:
    del data[random.randrange(len(data) + 1) :]


def _end_at_record(random: Random, data: bytearray, sample: Sample) -> None:
    """Whole records, and some bytes of one more."""
    del data[random.choice(sample.ends) + random.choice((0, 0, 1, 24, 27, 28, 31)) :]


def _append(random: Random, data: bytearray, sample: Sample) -> None:
    more = (random.randbytes(random.randrange(1, 60)), sample.data, bytes(64), b"\xff" * 64)
    data += random.choice(more)[: random.choice((1, 4, 27, 28, 40, 10**6))]


def _splice(random: Random, data: bytearray, sample: Sample) -> None:
    """The beginning of this one and the end of another, at records or anywhere."""
    other = random.choice(LISTS)
    here, there = random.choice(sample.ends), random.choice(other.ends)
    if random.random() < 0.3:
        here, there = random.randrange(len(data) + 1), random.randrange(len(other.data) + 1)
    data[here:] = other.data[there:]


def _repeat(random: Random, data: bytearray, sample: Sample) -> None:
    start, end = sorted(random.choices(sample.ends, k=2))
    data[end:end] = data[start:end] * random.choice((1, 1, 2, 20))


def _remove(random: Random, data: bytearray, sample: Sample) -> None:
    """A record, or any bytes."""
    start, end = sorted(random.choices(sample.ends, k=2))
    if random.random() < 0.5:
        start = random.randrange(len(data) + 1)
        end = start + random.choice((1, 2, 4, 20))
    del data[start:end]


def _rename(random: Random, data: bytearray, sample: Sample) -> None:
    """Another template, with or without telling its length."""
    names = [mark for mark in sample.marks if mark.kind == "name_len"]
    if not names:
        return
    mark = random.choice(names)
    end = mark.at + mark.width
    length, name = mark.get(data), random.choice(_NAMES)
    data[end : end + min(length, 10**4)] = name
    if random.random() < 0.8 and end <= len(data):
        mark.put(data, len(name))


def _randomize(random: Random, data: bytearray, _: Sample) -> None:
    """Nothing of it is left, or hardly anything."""
    kept = random.choice((0, 0, 4, 28, 34))
    data[kept:] = random.randbytes(random.choice((0, 1, 3, 27, 28, 64, 300, 2000)))


Change = Callable[[Random, bytearray, Sample], None]
CHANGES: Mapping[str, Change] = {
    "flip bits": _flip_bits,
    "edit a number": _edit_number,
    "reverse numbers": _reverse_numbers,
    "truncate": _truncate,
    "end at a record": _end_at_record,
    "append": _append,
    "splice": _splice,
    "repeat records": _repeat,
    "remove": _remove,
    "rename a template": _rename,
    "random bytes": _randomize,
}

_KINDS = tuple(CHANGES.values())
# Three in four lists are wrong in one way only, so that what comes behind it is looked at as well.
_HOW_MANY = (1, 1, 1, 1, 1, 1, 2, 3)


def malform(random: Random, sample: Sample) -> bytes:
    """The sample with one to three changes."""
    data = bytearray(sample.data)
    for change in random.choices(_KINDS, k=random.choice(_HOW_MANY)):
        change(random, data, sample)
    return bytes(data)


def malformed_list(random: Random) -> bytes:
    """A list that is hardly ever a good one."""
    return malform(random, random.choice(LISTS))


def malformed_buffer(random: Random) -> bytes:
    """A hand-over buffer likewise, alone or somewhere in a memory dump."""
    buffer = malform(random, random.choice(BUFFERS))
    if random.random() < 0.7:
        return buffer
    return b"".join(
        random.choice((b"", bytes(random.randrange(40)), random.randbytes(30), buffer))
        for _ in range(4)
    )


def malformed_ascii(random: Random) -> tuple[bytes, bytes]:
    """A binary list, and an ASCII list that may differ from it in anything."""
    sample = random.choice(LISTS)
    text = list_writer.ascii_list(sample.entries, sample.order, sample.bank)
    lines = text.splitlines(keepends=True)
    other = random.choice(LISTS)
    form = random.randrange(6)
    if form == 0:
        random.shuffle(lines)
    elif form == 1:
        at = random.randrange(len(lines))
        lines[at : at + random.randrange(3)] = lines[: random.randrange(3)]
    elif form == 2:
        lines = [list_writer.ascii_list(other.entries, other.order, other.bank)]
    changed = bytearray(b"".join(lines))
    if form >= 3:
        for change in random.choices((_flip_bits, _truncate, _append), k=random.choice((1, 1, 2))):
            change(random, changed, sample)
    log = sample.data if random.random() < 0.8 else malform(random, sample)
    return log, bytes(changed)
