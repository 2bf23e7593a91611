# SPDX-License-Identifier: GPL-2.0-only
"""What a memory dump tells of the hand-over buffer, for people."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from imakexec.attest.memory import FoundBuffer, MemoryVerdict

_WIDTH = 79


def memory_lines(found: MemoryVerdict) -> Iterator[str]:
    """The answer first, then what it rests on."""
    yield from wrap(found.sentence, _WIDTH)
    yield f"answer    {found.answer}"
    yield f"memory    {found.memory >> 20} MiB"
    if found.why_not:
        text = f"no look at a loaded image: {found.why_not}"
        yield from wrap(text, _WIDTH, initial_indent="image     ", subsequent_indent=" " * 10)
    else:
        yield f"image     {found.image_pages} pages wait for their execution"
    for buffer in found.buffers:
        yield from _buffer(buffer)


def _buffer(buffer: FoundBuffer) -> Iterator[str]:
    yield f"buffer    at {buffer.address:#x}, {buffer.place}"
    yield f"          {buffer.size} bytes and {buffer.count} records by its header"
    yield f"          {buffer.records} whole records, compared with the list: {buffer.fit}"
    if buffer.fault:
        indent = " " * 10
        yield from wrap(buffer.fault, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    if buffer.different_at is not None:
        yield f"          the first record that differs is {buffer.different_at}"
