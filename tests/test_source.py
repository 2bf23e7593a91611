# SPDX-License-Identifier: GPL-2.0-only
"""What kind of file a list lies in is found out, and what is wrong with it is placed."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest
from list_writer import BANKS, BUILT_IN, ORDERS, Entry, Order, ascii_list, entry, handover, pack

from imakexec.attest.crosscheck import ListForm
from imakexec.attest.source import (
    Buffer,
    MalformedLog,
    SourceKind,
    compare_with,
    read_list,
    read_source,
)
from imakexec.errors import UserError

ENTRIES = [entry(f"/{name}", template=name) for name in BUILT_IN if name != "ima"]


def written(folder: Path, content: bytes, name: str = "list") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bank", BANKS)
def test_a_list(tmp_path: Path, order: Order, bank: str) -> None:
    source = read_source(written(tmp_path, pack(ENTRIES, order, bank)))
    assert (source.kind, source.buffer, len(source.log)) == (SourceKind.LIST, None, len(ENTRIES))
    assert (source.log.layout.byteorder, source.log.layout.bank) == (order, bank)


@pytest.mark.parametrize("pcr", [0, 1, 10])
def test_a_list_that_begins_with_a_violation_is_no_hand_over_buffer(
    tmp_path: Path, pcr: int
) -> None:
    violation = Entry("ima-ng", entry().values, pcr=pcr, violation=True)
    assert read_source(written(tmp_path, violation.pack())).kind is SourceKind.LIST


@pytest.mark.parametrize("order", ORDERS)
def test_a_hand_over_buffer(tmp_path: Path, order: Order) -> None:
    content = handover(ENTRIES, order)
    source = read_source(written(tmp_path, content + bytes(4096)))
    assert source.kind is SourceKind.HANDOVER
    assert source.buffer == Buffer(0, len(ENTRIES), len(content), 0)
    assert source.log.data == content[24:]


def test_a_hand_over_buffer_that_ran_full(tmp_path: Path) -> None:
    content = handover(ENTRIES, size=len(handover(ENTRIES)) - 7)
    source = read_source(written(tmp_path, content))
    assert source.buffer is not None
    assert source.buffer.cut == len(ENTRIES[-1].pack()) - 7
    assert len(source.log) == len(ENTRIES) - 1


@pytest.mark.parametrize("order", ORDERS)
def test_a_memory_dump_gives_the_longest_of_its_buffers(tmp_path: Path, order: Order) -> None:
    noise = random.Random(1).randbytes(5000)
    old, new = handover(ENTRIES[:2], order), handover(ENTRIES, order)
    lying = handover(ENTRIES, order, count=99)
    source = read_source(written(tmp_path, noise + old + noise + lying + new + noise))
    place = len(noise + old + noise + lying)
    assert source.kind is SourceKind.DUMP
    assert source.buffer == Buffer(place, len(ENTRIES), len(new), 0)
    assert source.others == (len(noise),)
    assert source.log.data == new[24:]


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    for content in (pack(ENTRIES * 200), handover(ENTRIES), b"dump" * 300 + handover(ENTRIES)):
        pipe = tmp_path / f"pipe{len(content)}"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(content,))
        writer.start()
        assert len(read_source(pipe).log) in (len(ENTRIES), 200 * len(ENTRIES))
        writer.join()


def test_saved_records_and_the_rest(tmp_path: Path) -> None:
    parts = [pack(ENTRIES[:2]), pack(ENTRIES[2:3]), pack(ENTRIES[3:])]
    one, two, rest = (written(tmp_path, part, f"part{n}") for n, part in enumerate(parts))
    whole = read_list(rest, [one, two])
    assert whole.log.data == pack(ENTRIES)
    assert [source.path for source in whole.sources] == [one, two, rest]
    assert not whole.repeats_saved_records


def test_a_list_that_was_not_trimmed_after_all(tmp_path: Path) -> None:
    saved, rest = written(tmp_path, pack(ENTRIES[:2]), "saved"), written(tmp_path, pack(ENTRIES))
    assert read_list(rest, [saved]).repeats_saved_records
    assert not read_list(saved, [rest]).repeats_saved_records
    assert not read_list(rest).repeats_saved_records


def test_parts_that_make_no_list_together(tmp_path: Path) -> None:
    """Then the digest of the first one is taken for SHA-1, and it ends within the second."""
    legacy = Entry("ima", (bytes(16), b"/\0")).pack()
    saved, rest = written(tmp_path, legacy, "saved"), written(tmp_path, entry(pcr=0).pack())
    with pytest.raises(MalformedLog) as caught:
        read_list(rest, [saved])
    assert caught.value.where.startswith(f"{rest}, with what is prepended, record 1 at offset 102")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (pack(ENTRIES, "big"), "the saved records are big-endian with digests of sha1"),
        (pack(ENTRIES, bank="sha256"), "little-endian with digests of sha256, the list is"),
    ],
)
def test_parts_that_are_not_of_one_list(tmp_path: Path, other: bytes, said: str) -> None:
    saved, rest = written(tmp_path, other, "saved"), written(tmp_path, pack(ENTRIES))
    with pytest.raises(UserError, match=said) as caught:
        read_list(rest, [saved])
    assert caught.value.where == str(saved)


def test_a_flaw_is_placed_in_its_file(tmp_path: Path) -> None:
    saved, rest = written(tmp_path, pack(ENTRIES)[:-1], "saved"), written(tmp_path, pack(ENTRIES))
    with pytest.raises(MalformedLog) as caught:
        read_list(rest, [saved])
    at = len(pack(ENTRIES[:-1]))
    assert caught.value.where == f"{saved}, record {len(ENTRIES) - 1} at offset {at}"
    assert caught.value.exit_code == 14


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        (b"", "the list holds no record", "offset 0"),
        (b"no list" * 100, "neither a list nor a hand-over buffer is in it", "offset 0"),
        (ascii_list(ENTRIES), "this is an ASCII list", ""),
        (handover(ENTRIES, count=3), "counts 3 records, 7 are in", "hand-over buffer"),
        (handover([]), "the list holds no record", "hand-over buffer, offset 0"),
        (handover(ENTRIES)[:-1], "claims", "hand-over buffer"),
        (b"x" + handover(ENTRIES, count=3), "counts 3", "hand-over buffer at offset 0x1"),
    ],
)
def test_what_is_no_list(tmp_path: Path, content: bytes, what: str, where: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(MalformedLog, match=what) as caught:
        read_source(path)
    assert caught.value.where == (f"{path}, {where}" if where else str(path))
    assert caught.value.remedy


@pytest.mark.parametrize(("name", "remedy"), [("missing", "name a list"), (".", "imakexec verify")])
def test_what_cannot_be_read(tmp_path: Path, name: str, remedy: str) -> None:
    log = read_source(written(tmp_path, pack(ENTRIES))).log
    path = tmp_path / name
    for read in (lambda: read_source(path), lambda: compare_with(log, path)):
        with pytest.raises(UserError, match="cannot be read") as caught:
            read()
        assert caught.value.where == str(path)
        assert remedy in caught.value.remedy


def test_comparison_finds_out_what_it_is_given(tmp_path: Path) -> None:
    log = read_source(written(tmp_path, pack(ENTRIES))).log
    for bank in BANKS:
        ascii_file = written(tmp_path, ascii_list(ENTRIES, bank=bank), "ascii")
        assert compare_with(log, ascii_file).form is ListForm.ASCII
        binary_file = written(tmp_path, pack(ENTRIES, bank=bank), "binary")
        outcome = compare_with(log, binary_file)
        assert (outcome.form, outcome.bank) == (ListForm.BINARY, bank)
        assert outcome.compared == len(ENTRIES)
    with pytest.raises(MalformedLog, match="cannot be the name"):
        compare_with(log, written(tmp_path, bytes(100), "zero"))
