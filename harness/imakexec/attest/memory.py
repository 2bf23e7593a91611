# SPDX-License-Identifier: GPL-2.0-only
"""Was the hand-over buffer wrong before the jump or after it? Asked of a dump of a guest's memory.

Before the jump the buffer lies in scattered pages of the loaded image, which `kimage` puts
together. After it it lies in one piece. The old pages are still there, until the next kernel
uses them for something else: where the list is known, intact pages of the right buffer that lie
elsewhere than a damaged one tell that the damage came with the jump or later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from imakexec.attest.core import CoreDump, MalformedDump
from imakexec.attest.handover import HEADER_SIZE, HandoverBuffer, find_handover_buffers
from imakexec.attest.kimage import PAGE, LoadedImage, find_image
from imakexec.attest.log import MeasurementLog
from imakexec.attest.reasons import Rejection

_TELLING = 32
"""Bytes at the end of a list that tell one page from another; fewer could be anything."""


class Place(StrEnum):
    """Where a hand-over buffer lies."""

    IMAGE = "in the loaded image"
    MEMORY = "in one piece"


class Fit(StrEnum):
    """How the records of a buffer fit to the list that the first kernel had before the execute."""

    SAME = "the same"
    LONGER = "all of it, and more"
    SHORTER = "whole records of its beginning"
    DIFFERENT = "different"
    UNKNOWN = "not compared"


class Answer(StrEnum):
    """When the buffer was wrong."""

    RIGHT_BEFORE = "right before the jump"
    WRONG_BEFORE = "wrong before the jump"
    NOT_FILLED = "not filled yet"
    RIGHT_AFTER = "right after the jump"
    DAMAGED_AFTER = "right before the jump and damaged after it"
    WRONG_AFTER = "wrong after the jump"
    NOT_FOUND = "not found"


_GOOD = frozenset({Answer.RIGHT_BEFORE, Answer.RIGHT_AFTER, Answer.NOT_FILLED})


@dataclass(frozen=True)
class FoundBuffer:
    """A hand-over buffer in a dump.

    Attributes:
        place: how it lies there.
        address: physical, of its first byte; before the jump that of its destination.
        size: bytes in use, header included, by the header.
        count: records, by the header.
        records: whole records that are really there.
        fault: what is wrong with it; empty for nothing.
        fit: how its records fit to the list.
        different_at: the first record that differs; None if none does.
    """

    place: Place
    address: int
    size: int
    count: int
    records: int
    fault: str
    fit: Fit
    different_at: int | None = None

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.fault and self.fit is not Fit.DIFFERENT


@dataclass(frozen=True)
class MemoryVerdict:
    """What a dump tells.

    Attributes:
        answer: in a word.
        sentence: for people.
        memory: bytes of memory in the dump.
        image_pages: pages of the image that waits for its execution; 0 if none does, None if
            nobody could look.
        why_not: nobody could look; else empty.
        buffers: all that were found.
    """

    answer: Answer
    sentence: str
    memory: int
    image_pages: int | None
    why_not: str
    buffers: tuple[FoundBuffer, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing speaks against the hand-over so far."""
        return self.answer in _GOOD


def judge_memory(
    core: CoreDump, symbols: Mapping[str, int] | None, log: bytes | None
) -> MemoryVerdict:
    """Look for the hand-over buffer in a dump, and say when it was wrong.

    Args:
        symbols: of the kernel that ran, by name; None if nobody has its System.map.
        log: the binary list of the first kernel before the execute; None if nobody knows it.
    """
    image, why_not = _image(core, symbols)
    if image is not None and image.pages:
        buffers = tuple(_in_image(core, image, log))
        answer, sentence = _before(buffers)
    else:
        buffers = tuple(_in_memory(core, log))
        answer, sentence = _after(core, buffers, log)
    pages = None if why_not else len(image.pages) if image else 0
    return MemoryVerdict(answer, sentence, core.size, pages, why_not, buffers)


def _image(core: CoreDump, symbols: Mapping[str, int] | None) -> tuple[LoadedImage | None, str]:
    if symbols is None:
        return None, "there is no System.map of the kernel that ran"
    try:
        return find_image(core, symbols), ""
    except MalformedDump as error:
        return None, str(error)


def _in_image(core: CoreDump, image: LoadedImage, log: bytes | None) -> Iterator[FoundBuffer]:
    for run in image.runs():
        content = image.content(core, run)
        for offset in find_handover_buffers(content):
            if offset % PAGE == 0:
                yield _look(Place.IMAGE, run[0] + offset, content[offset:], log)


def _in_memory(core: CoreDump, log: bytes | None) -> Iterator[FoundBuffer]:
    for place in find_handover_buffers(core.data):
        address = core.address_of(place)
        if address is None or address % PAGE:
            continue
        content = _claimed(core, place)
        if log is None or not _is_old_page(content, log):
            yield _look(Place.MEMORY, address, content, log)


def _is_old_page(content: bytes, log: bytes) -> bool:
    """Whether only the first page is of the buffer: it is one that was copied from at the jump.

    A buffer that is damaged behind its first page still has most of what should be there.
    """
    wanted = bytes(HEADER_SIZE) + log
    if len(wanted) <= PAGE or content[HEADER_SIZE:PAGE] != wanted[HEADER_SIZE:PAGE]:
        return False
    pairs = list(zip(content[PAGE:], wanted[PAGE:], strict=False))
    return sum(one == other for one, other in pairs) < len(pairs) / 2


def _claimed(core: CoreDump, place: int) -> bytes:
    """As much of the file as a buffer's header claims, or as there is."""
    header = core.data[place : place + HEADER_SIZE]
    sizes = (int.from_bytes(header[8:16], order) for order in ("little", "big"))
    return core.data[place : place + max(HEADER_SIZE, min(sizes))]


def _look(place: Place, address: int, content: bytes, log: bytes | None) -> FoundBuffer:
    """Read a buffer as far as it can be read."""
    try:
        buffer = HandoverBuffer.parse(content)
    except Rejection as rejection:
        return FoundBuffer(place, address, 0, 0, 0, str(rejection), Fit.UNKNOWN)
    records, fault = 0, ""
    try:
        carried = buffer.carried()
        records = len(carried.log)
        fault = (
            f"its last record is cut, {carried.cut} bytes of it are there" if carried.cut else ""
        )
    except Rejection as rejection:
        fault = str(rejection)
    fit, different = _fit(buffer.log, log)
    return FoundBuffer(place, address, buffer.size, buffer.count, records, fault, fit, different)


def _fit(carried: bytes, log: bytes | None) -> tuple[Fit, int | None]:
    """How bytes of records fit to a list, and which record differs first."""
    if log is None:
        return Fit.UNKNOWN, None
    if carried == log:
        return Fit.SAME, None
    if carried.startswith(log):
        return Fit.LONGER, None
    whole = MeasurementLog.parse(log)
    if log.startswith(carried):
        ends = {whole[number].offset for number in range(len(whole))}
        return (Fit.SHORTER if len(carried) in ends else Fit.DIFFERENT), None
    length = next(
        place for place, (one, other) in enumerate(zip(carried, log, strict=False)) if one != other
    )
    before = sum(whole[number].offset <= length for number in range(len(whole)))
    return Fit.DIFFERENT, before - 1


def _before(buffers: Sequence[FoundBuffer]) -> tuple[Answer, str]:
    if not buffers:
        return (
            Answer.NOT_FILLED,
            "A kernel is loaded, and none of its pages begins with a hand-over buffer: one that is "
            "filled at execute has not been filled, and without IMA there is none.",
        )
    wrong = [buffer for buffer in buffers if not buffer.is_right]
    if wrong:
        return (
            Answer.WRONG_BEFORE,
            f"The hand-over buffer was wrong before the jump: {_fault(wrong[0])}.",
        )
    return (
        Answer.RIGHT_BEFORE,
        "The hand-over buffer in the loaded image is right, and the jump is still to come.",
    )


def _after(core: CoreDump, buffers: Sequence[FoundBuffer], log: bytes | None) -> tuple[Answer, str]:
    wrong = [buffer for buffer in buffers if not buffer.is_right]
    intact = log is not None and _is_intact_elsewhere(core, log, wrong)
    if wrong and intact:
        return (
            Answer.DAMAGED_AFTER,
            "The hand-over buffer was right before the jump and damaged after it: all pages of the "
            f"right one are still in memory, elsewhere. Of the damaged one: {_fault(wrong[0])}.",
        )
    if wrong:
        told = "its old pages are gone" if log is not None else "nobody has told the list"
        return (
            Answer.WRONG_AFTER,
            f"The hand-over buffer is wrong after the jump: {_fault(wrong[0])}. Whether it was "
            f"wrong before it cannot be said: {told}.",
        )
    if buffers:
        return (
            Answer.RIGHT_AFTER,
            "The hand-over buffer lies in memory as the next kernel finds it, and is right: what "
            "went wrong came with the restore, or later.",
        )
    if intact:
        return (
            Answer.RIGHT_BEFORE,
            "The hand-over buffer was right before the jump: all pages of it are still in memory. "
            "After it there is none: it was restored and its memory freed, or its header is gone.",
        )
    return (
        Answer.NOT_FOUND,
        "There is no hand-over buffer: it was restored and its memory used again, or there has "
        "never been one.",
    )


def _fault(buffer: FoundBuffer) -> str:
    if buffer.fault:
        return buffer.fault
    where = "" if buffer.different_at is None else f" from record {buffer.different_at} on"
    return f"its records are not those of the list{where}"


def _is_intact_elsewhere(core: CoreDump, log: bytes, buffers: Sequence[FoundBuffer]) -> bool:
    """Whether what is known of each page of the right buffer lies outside of the damaged ones.

    The header is not known, and neither is what was measured after the list was read.
    """
    damaged = [
        range(buffer.address, buffer.address + max(buffer.size, HEADER_SIZE + len(log)))
        for buffer in buffers
    ]
    content = bytes(HEADER_SIZE) + log
    for start in range(0, len(content), PAGE):
        offset = HEADER_SIZE if start == 0 else 0
        known = content[start + offset : start + PAGE]
        if start and len(known) < _TELLING:
            break
        if not any(
            address % PAGE == offset and not any(address in area for area in damaged)
            for address in _places_of(core, known)
        ):
            return False
    return True


def _places_of(core: CoreDump, known: bytes) -> Iterator[int]:
    """The physical addresses at which these bytes lie."""
    place = core.data.find(known)
    while place >= 0:
        address = core.address_of(place)
        if address is not None:
            yield address
        place = core.data.find(known, place + 1)
