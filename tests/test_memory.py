# SPDX-License-Identifier: GPL-2.0-only
"""A memory dump tells when the hand-over buffer was wrong, and no dump leads astray."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from list_writer import entry, pack
from typer.testing import CliRunner

from imakexec import cli
from imakexec.attest.core import MalformedDump, open_core
from imakexec.attest.handover import HEADER_SIZE
from imakexec.attest.kimage import PAGE
from imakexec.attest.memory import Answer, Fit, MemoryVerdict, Place, judge_memory
from imakexec.memory import memory_document, read_symbols
from imakexec.report.memory import memory_lines

LIST = [entry("boot_aggregate"), *(entry(f"/etc/{number}") for number in range(100))]
LOG = pack(LIST)
MORE = pack([*LIST, entry("kexec_execute")])
BASE = 1 << 20
"""Where the memory that the dump holds begins."""

PAGES = 768
KERNEL_MAP = 0xFFFFFFFF80000000
DIRECT_MAP = 0xFFFF888000000000
SYMBOLS = {
    "kexec_image": KERNEL_MAP + BASE + 8,
    "phys_base": KERNEL_MAP + BASE + 16,
}
"""Of the kernel that is linked to where the memory begins."""

SECOND = 2 << 20
"""Where the next kernel is, if there is one; it has its own memory there."""


def buffer_of(records: bytes, count: int) -> bytes:
    return struct.pack("<H6xQQ", 1, HEADER_SIZE + len(records), count) + records


RIGHT = buffer_of(MORE, len(LIST) + 1)


def pages_of(content: bytes) -> list[bytes]:
    return [content[at : at + PAGE].ljust(PAGE, b"\0") for at in range(0, len(content), PAGE)]


@dataclass
class Memory:
    """The memory of a machine, full of what means nothing.

    Attributes:
        content: all of it.
    """

    content: bytearray = field(
        default_factory=lambda: bytearray(random.Random(1).randbytes(PAGES * PAGE))
    )

    def put(self, page: int, data: bytes) -> None:
        """Write to a page and those behind it."""
        self.content[page * PAGE : page * PAGE + len(data)] = data

    def load(self, content: bytes, sources: Sequence[int], *, lists: Sequence[int] = (3,)) -> None:
        """Have an image wait whose destination is far away.

        Args:
            sources: the pages that it is copied from.
            lists: the pages of its list of entries, after the first entry.
        """
        entries = [0x10000000 | 1]
        for page, part in zip(sources, pages_of(content), strict=True):
            self.put(page, part)
            entries.append(BASE + page * PAGE | 8)
        entries.append(4)
        self.link(entries, lists)

    def link(self, entries: Sequence[int], lists: Sequence[int]) -> None:
        """Write the list of entries, and the pointer to the image."""
        parts = [list(entries[at : at + 10]) for at in range(0, len(entries), 10)]
        assert len(parts) <= len(lists)
        for part, page, following in zip(parts, lists, [*lists[1:], None], strict=False):
            if following is not None and part is not parts[-1]:
                part.append(BASE + following * PAGE | 2)
            self.put(page, struct.pack(f"<{len(part)}Q", *part))
        image = struct.pack("<Q", BASE + lists[0] * PAGE | 2)
        self.put(2, image)
        self.put(0, struct.pack("<QQQ", 0, DIRECT_MAP + BASE + 2 * PAGE, 0))

    def no_image(self) -> None:
        """Have no image wait."""
        self.put(0, bytes(24))

    def dump(self, path: Path) -> Path:
        """Write it as QEMU does: a note, and memory from an odd place of the file on."""
        offset = 64 + 2 * 56 + 20
        head = struct.pack(
            "<4sBBB9xHHIQQQIHHHHHH",
            *(b"\x7fELF", 2, 1, 1, 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0),
        )
        note = struct.pack("<IIQQQQQQ", 4, 0, 64 + 2 * 56, 0, 0, 20, 0, 0)
        size = len(self.content)
        load = struct.pack("<IIQQQQQQ", 1, 0, offset, 0, BASE, size, size, 0)
        path.write_bytes(head + note + load + b"n" * 20 + self.content)
        return path


def judge(
    memory: Memory,
    folder: Path,
    *,
    symbols: Mapping[str, int] | None = SYMBOLS,
    log: bytes | None = LOG,
) -> MemoryVerdict:
    with open_core(memory.dump(folder / "memory.elf")) as core:
        return judge_memory(core, symbols, log)


SCATTERED = (40, 11, 97)
assert len(pages_of(RIGHT)) == len(SCATTERED)


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def test_right_in_the_scattered_pages_of_a_loaded_image(tmp_path: Path) -> None:
    memory = Memory()
    memory.load(RIGHT, SCATTERED)
    found = judge(memory, tmp_path)
    assert (found.answer, found.is_good, found.image_pages) == (Answer.RIGHT_BEFORE, True, 3)
    [buffer] = found.buffers
    assert (buffer.place, buffer.address) == (Place.IMAGE, 0x10000000)
    assert (buffer.count, buffer.records, buffer.fit) == (102, 102, Fit.LONGER)


def test_a_list_of_entries_goes_on_elsewhere(tmp_path: Path) -> None:
    memory = Memory()
    memory.load(buffer_of(LOG, len(LIST)) + bytes(20 * PAGE), range(100, 123), lists=(3, 7, 5))
    found = judge(memory, tmp_path)
    assert (found.answer, found.image_pages) == (Answer.RIGHT_BEFORE, 23)
    assert found.buffers[0].fit is Fit.SAME


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (damaged(RIGHT, HEADER_SIZE + len(LOG) // 2), ""),
        (RIGHT[:16] + struct.pack("<Q", 101) + RIGHT[24:], "counts 101 records, 102 are in"),
        (RIGHT[:8] + struct.pack("<Q", 1 << 31) + RIGHT[16:], "claims 2147483648 of its"),
        (RIGHT[:8] + struct.pack("<Q", len(RIGHT) - 5) + RIGHT[16:], "its last record is cut"),
    ],
)
def test_wrong_in_a_loaded_image(tmp_path: Path, content: bytes, fault: str) -> None:
    memory = Memory()
    memory.load(content, SCATTERED)
    found = judge(memory, tmp_path)
    assert (found.answer, found.is_good) == (Answer.WRONG_BEFORE, False)
    assert fault in found.buffers[0].fault
    assert fault in found.sentence


def test_a_record_that_differs_is_named(tmp_path: Path) -> None:
    memory = Memory()
    place = HEADER_SIZE + len(pack(LIST[:50])) + 10
    memory.load(damaged(RIGHT, place), SCATTERED)
    [buffer] = judge(memory, tmp_path).buffers
    assert (buffer.fit, buffer.different_at) == (Fit.DIFFERENT, 50)


def test_a_buffer_that_is_filled_at_execute_and_was_not(tmp_path: Path) -> None:
    memory = Memory()
    memory.load(bytes(len(RIGHT)), SCATTERED)
    found = judge(memory, tmp_path)
    assert (found.answer, found.is_good, found.buffers) == (Answer.NOT_FILLED, True, ())


def test_right_after_the_jump(tmp_path: Path) -> None:
    memory = Memory()
    memory.no_image()
    memory.put(30, RIGHT)
    found = judge(memory, tmp_path)
    assert (found.answer, found.image_pages) == (Answer.RIGHT_AFTER, 0)
    [buffer] = found.buffers
    assert (buffer.place, buffer.address) == (Place.MEMORY, BASE + 30 * PAGE)


def test_less_than_the_list_is_right_where_records_are_whole(tmp_path: Path) -> None:
    memory = Memory()
    memory.no_image()
    memory.put(30, buffer_of(pack(LIST[:60]), 60))
    assert judge(memory, tmp_path).buffers[0].fit is Fit.SHORTER


def test_what_the_kernel_before_knew_when_it_jumped_is_not_believed(tmp_path: Path) -> None:
    memory = Memory()
    memory.load(RIGHT, SCATTERED)
    memory.put(SECOND // PAGE, struct.pack("<QQQ", 0, 0, SECOND))
    memory.put(300, RIGHT)
    found = judge(memory, tmp_path)
    assert (found.answer, found.image_pages) == (Answer.RIGHT_AFTER, 0)


def test_of_two_later_kernels_nobody_knows_which_runs(tmp_path: Path) -> None:
    memory = Memory()
    memory.no_image()
    memory.content += bytes(2 * SECOND)
    for base in (SECOND, 2 * SECOND):
        memory.put(base // PAGE, struct.pack("<QQQ", 0, 0, base))
    assert "3 kernels are in this memory" in judge(memory, tmp_path).why_not


def test_damaged_after_the_jump_if_the_old_pages_are_right(tmp_path: Path) -> None:
    memory = Memory()
    memory.load(RIGHT, SCATTERED)
    memory.no_image()
    memory.put(30, damaged(RIGHT, HEADER_SIZE + 5000))
    assert judge(memory, tmp_path).answer is Answer.DAMAGED_AFTER
    assert judge(memory, tmp_path, log=None).answer is Answer.WRONG_AFTER

    memory.put(SCATTERED[1], bytes(PAGE))
    assert judge(memory, tmp_path).answer is Answer.WRONG_AFTER


def test_a_header_that_is_damaged_without_a_list(tmp_path: Path) -> None:
    memory = Memory()
    memory.no_image()
    memory.put(30, RIGHT[:16] + struct.pack("<Q", 7) + RIGHT[24:])
    found = judge(memory, tmp_path, log=None)
    assert found.answer is Answer.WRONG_AFTER
    assert "nobody has told the list" in found.sentence


def test_nothing_to_be_found(tmp_path: Path) -> None:
    memory = Memory()
    memory.no_image()
    assert judge(memory, tmp_path).answer is Answer.NOT_FOUND
    memory.load(RIGHT, SCATTERED)
    memory.no_image()
    assert judge(memory, tmp_path).answer is Answer.RIGHT_BEFORE


@pytest.mark.parametrize(
    ("entries", "lists", "why"),
    [
        ([0x10000001, *[BASE + 40 * PAGE | 8] * 9, 9], (3, 3), "runs in a circle"),
        ([BASE + 40 * PAGE | 8, 4], (3,), "a source without destination"),
        ([0x10000001, 0x7FFFF002], (3,), "leads out of memory"),
    ],
)
def test_a_list_of_entries_that_is_none(
    tmp_path: Path, entries: list[int], lists: tuple[int, ...], why: str
) -> None:
    memory = Memory()
    memory.link(entries, lists)
    found = judge(memory, tmp_path)
    assert why in found.why_not
    assert found.image_pages is None


@pytest.mark.parametrize(
    ("symbols", "why"),
    [
        (None, "there is no System.map"),
        ({}, "no kernel is where its phys_base says"),
        ({**SYMBOLS, "phys_base": KERNEL_MAP + (1 << 29)}, "no kernel is where"),
        ({**SYMBOLS, "phys_base": 5}, "no kernel is where"),
        ({**SYMBOLS, "kexec_image": 5}, "no memory where kexec_image should be"),
        ({**SYMBOLS, "kexec_image": KERNEL_MAP + BASE + PAGE}, "is not in this memory"),
    ],
)
def test_symbols_that_lead_nowhere(
    tmp_path: Path, symbols: Mapping[str, int] | None, why: str
) -> None:
    memory = Memory()
    memory.no_image()
    memory.put(30, RIGHT)
    found = judge(memory, tmp_path, symbols=symbols)
    assert why in found.why_not
    assert found.answer is Answer.RIGHT_AFTER


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (0, b"\x7fELG", "no 64-bit ELF file"),
        (4, b"\1", "no 64-bit ELF file"),
        (5, b"\3", "its byte order is 3"),
        (16, b"\2", "ELF file of type 2"),
        (32, b"\xff" * 8, "outside of the file"),
        (54, b"\1\0", "outside of the file"),
        (56, b"\xff\xff", "outside of the file"),
        (64 + 56 + 8, b"\xff" * 7, "should have"),
        (64 + 56 + 32, b"\xff" * 7, "should have"),
        (64 + 56, b"\5", "it holds no memory"),
    ],
)
def test_what_is_no_dump(tmp_path: Path, place: int, value: bytes, why: str) -> None:
    path = Memory().dump(tmp_path / "memory.elf")
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(MalformedDump, match=why), open_core(path):
        pass


def test_an_empty_file_is_no_dump(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(MalformedDump, match="empty"), open_core(tmp_path / "empty"):
        pass


# The command.


def test_the_command_tells_it_to_people_and_machines(tmp_path: Path) -> None:
    memory = Memory()
    memory.load(damaged(RIGHT, 16), SCATTERED)
    dump = memory.dump(tmp_path / "memory.elf")
    symbols = tmp_path / "System.map"
    symbols.write_text("".join(f"{at:016x} B {name}\n" for name, at in SYMBOLS.items()))
    told = tmp_path / "told.json"
    ran = CliRunner().invoke(
        cli.app, ["memory", str(dump), f"--system-map={symbols}", f"--json={told}"]
    )
    assert ran.exit_code == 1
    assert json.loads(told.read_text())["answer"] == Answer.WRONG_BEFORE
    assert all(len(line) < 80 for line in ran.output.splitlines())
    assert read_symbols(symbols) == SYMBOLS


def test_nothing_found_is_no_verdict(tmp_path: Path) -> None:
    memory = Memory()
    memory.no_image()
    dump = memory.dump(tmp_path / "memory.elf")
    assert CliRunner().invoke(cli.app, ["memory", str(dump)]).exit_code == 3


@pytest.mark.parametrize(
    "arguments", [["/nonexistent"], ["{dump}", "--system-map={dump}"], ["{dump}", "--evidence=/"]]
)
def test_files_that_are_none(tmp_path: Path, arguments: list[str]) -> None:
    dump = Memory().dump(tmp_path / "memory.elf")
    ran = CliRunner().invoke(cli.app, ["memory", *(word.format(dump=dump) for word in arguments)])
    assert ran.exit_code == 2


def verdicts(folder: Path) -> list[MemoryVerdict]:
    """Some of each kind, for the schema."""
    memory = Memory()
    memory.load(damaged(RIGHT, HEADER_SIZE + 5000), SCATTERED)
    return [judge(memory, folder), judge(memory, folder, symbols=None)]


def test_every_line_fits(tmp_path: Path) -> None:
    for found in verdicts(tmp_path):
        assert all(len(line) < 80 for line in memory_lines(found))
        assert memory_document(found)["is_good"] == found.is_good
