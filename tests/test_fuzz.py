# SPDX-License-Identifier: GPL-2.0-only
"""Malformed inputs end in one of our own exceptions or in a judgement, soon and in little memory.

pytest tests/test_fuzz.py                                   some of each kind, the same each time
pytest tests/test_fuzz.py --fuzz-inputs=1000000 --fuzz-seed=7 -s        more, and their outcomes
pytest tests/test_fuzz.py -m nightly -s                      a million lists, a million folders
"""

from __future__ import annotations

import json
import signal
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import fuzzing
import pytest
import test_detached
from evidence_maker import Key, patched_run
from fuzzing import Defect, Target, fuzz, table
from malformed_evidence import Bench, Draft, is_signed, malformed_evidence, originals
from malformed_files import LooseQuote, checkpoints, malformed_checkpoint, malformed_quote
from malformed_lists import BUFFERS, LISTS, malformed_ascii, malformed_buffer, malformed_list

from imakexec.attest import (
    ByteOrder,
    Checkpoint,
    HandoverBuffer,
    MeasurementLog,
    Reason,
    Rejection,
    Verdict,
    authenticate,
    checkpoint,
    compare_with,
    crosscheck,
    detached,
    judge_folder,
    judge_list,
    read_list,
    replay,
    source,
    structures,
    verdict,
)
from imakexec.attest.crosscheck import ascii_bank, check_ascii, check_binary
from imakexec.attest.handover import HEADER_SIZE, find_handover_buffers, is_handover_buffer
from imakexec.attest.replay import HASHES
from imakexec.errors import UserError
from imakexec.evidence import Evidence

BANKS = tuple(HASHES)
READ = "read"
NO_ASCII = "no ASCII list"
MILLION = 1_000_000


# Lists.


def examine(log: MeasurementLog) -> None:
    """Look at everything that a list can be asked, and hold it against its own bytes."""
    put_together = []
    for record in log:
        fields = record.values()
        assert record.template.is_legacy or record.data == b"".join(
            struct.pack("<I" if log.layout.byteorder is ByteOrder.LITTLE else ">I", len(field))
            + field
            for field in fields
        )
        for name in record.template.fields or ():
            record.field(name)
        assert (record.event, record.name, record.file_digest, record.buf) is not None
        put_together.append(log.data[record.offset : record.offset + record.size])
    assert b"".join(put_together) == log.data
    assert sum(size for _, size in log.sizes()) == log.carried_size(len(log))
    assert log.common_records(log) == len(log)
    assert all(b"kexec_" in log.data for _ in log.carrying(b"kexec_"))
    outcome = replay(log, BANKS, dict.fromkeys(BANKS, ()))
    assert set(outcome.final) == set(BANKS)


def feed_list(data: bytes) -> str:
    """As a file without anything known of it, and as one of either byte order."""
    for order in ByteOrder:
        with suppress(Rejection):
            examine(MeasurementLog.parse(data, order))
    with suppress(Rejection):
        whole, cut = MeasurementLog.parse_whole_records(data)
        assert len(whole.data) + cut == len(data)
        examine(whole)
    log = MeasurementLog.parse(data)
    examine(log)
    return READ


def feed_buffer(data: bytes) -> str:
    """As a hand-over buffer, and as a memory dump that may hold some."""
    is_handover_buffer(data)
    for offset in find_handover_buffers(data):
        with suppress(Rejection):
            examine_buffer(data[offset:])
    examine_buffer(data)
    return READ


def examine_buffer(data: bytes) -> None:
    """Hold a hand-over buffer against its own bytes."""
    buffer = HandoverBuffer.parse(data)
    assert buffer.size == HEADER_SIZE + len(buffer.log)
    assert data[HEADER_SIZE:] == buffer.log + buffer.rest
    carried = buffer.carried()
    assert buffer.count == len(carried.log) + (carried.cut > 0)
    assert len(buffer.log) == len(carried.log.data) + carried.cut
    examine(carried.log)


def feed_ascii(lists: tuple[bytes, bytes]) -> str:
    """As the ASCII list of the same records, and of one that is no list."""
    data, text = lists
    log = MeasurementLog.parse(data)
    if ascii_bank(text) is None:
        return NO_ASCII
    check = check_ascii(log, text)
    assert check.compared <= len(log)
    return "agrees" if check.agrees else f"differs in {check.field}"


class ListFiles:
    """Lists, buffers, dumps and ASCII lists as files."""

    def __init__(self, folder: Path) -> None:
        self._list, self._other = folder / "list", folder / "other"

    def make(self, random: Random) -> tuple[bytes, bytes]:
        """The file, and the one that it is compared with."""
        kinds = (malformed_list, malformed_buffer, lambda random: malformed_ascii(random)[1])
        good = random.choice(LISTS + BUFFERS).data
        one = good if random.random() < 0.5 else random.choice(kinds)(random)
        return one, one if random.random() < 0.2 else random.choice(kinds)(random)

    def feed(self, contents: tuple[bytes, bytes]) -> str:
        """As any of the commands reads them."""
        self._list.write_bytes(contents[0])
        self._other.write_bytes(contents[1])
        whole = read_list(self._list)
        examine(whole.log)
        check = compare_with(whole.log, self._other)
        assert check_binary(whole.log, whole.log).agrees
        with suppress(UserError):
            examine(read_list(self._list, prepend=(self._other,)).log)
        return f"{whole.sources[0].kind}, {'agrees' if check.agrees else 'differs'}"


# Structures of the TPM.

PARSERS = tuple(
    kind for kind in vars(structures).values() if isinstance(kind, type) and hasattr(kind, "parse")
)


def _structures() -> tuple[bytes, ...]:
    key = Key()
    quotes = [quote for item in patched_run(1).snapshots for quote in item.quotes]
    return (key.public, key.sign(b""), *(quote.attest for quote in quotes[:2]))


STRUCTURES = _structures()
_SIZES = (0, 1, 0x20, 0x7FFF, 0x8000, 0xFFFF)


def malformed_structure(random: Random) -> bytes:
    """A quote, signature or public area with some bytes that are wrong."""
    data = bytearray(random.choice(STRUCTURES))
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(data) + 1)
        form = random.randrange(6)
        if form == 0:
            data[at : at + 2] = random.choice(_SIZES).to_bytes(2, "big")
        elif form == 1:
            del data[at:]
        elif form == 2:
            data[at:at] = random.randbytes(random.choice((1, 2, 40)))
        elif form == 3:
            del data[at : at + random.choice((1, 2, 4, 32))]
        elif form == 4:
            data[at:] = random.choice(STRUCTURES)[at:]
        else:
            data[at : at + 1] = random.randbytes(1)
    return bytes(data) if random.random() < 0.95 else random.randbytes(random.randrange(200))


def is_structure(kind: type, data: bytes) -> bool:
    """Whether it can be read as one."""
    try:
        vars(structures)[kind.__name__].parse(data)
    except structures.StructureError:
        return False
    return True


def feed_structure(data: bytes) -> str:
    """As each of them."""
    read = []
    for kind in PARSERS:
        if is_structure(kind, data):
            read.append(kind.__name__)
            assert not is_structure(kind, data[:-1]), "it has no end"
            assert not is_structure(kind, data + b"\0"), "it has an end"
    return ", ".join(read) or "none"


# Evidence.


class Folders:
    """Evidence folders on a file system."""

    def __init__(self, folder: Path) -> None:
        self._made = originals(folder / "made")
        self._bench = Bench(folder / "malformed", self._made)
        # By its template data, as the name of a template is hashed into nothing.
        self._good = {
            self._hashed(content)
            for original in self._made
            for name, content in original.files.items()
            if name.endswith("measurements")
        }

    def make(self, random: Random) -> Draft:
        """A folder, not yet laid out."""
        return malformed_evidence(random, self._made)

    def feed(self, draft: Draft) -> str:
        """As `imakexec verify` reads it."""
        with self._bench.laid_out(draft) as folder:
            judgement = judge_folder(folder)
            in_sync = judgement.verdict is Verdict.IN_SYNC
            evidence = Evidence.load(folder) if in_sync else None
        json.dumps(judgement.to_json(), allow_nan=False)
        assert f"{judgement.where}{judgement.sentence}".isprintable(), "it could deface a terminal"
        if evidence is not None:
            assert self._hashed(evidence.snapshots[-1].log or b"") in self._good, "of no quote"
            assert all(is_signed(draft.original.key, item) for item in evidence.snapshots)
        return judgement.reason

    @staticmethod
    def _hashed(log: bytes) -> tuple[tuple[int, bytes], ...]:
        return tuple((pcr, hashed) for pcr, _, hashed in MeasurementLog.parse(log).extends())


# Loose quotes, and checkpoints.


def feed_quote(draft: LooseQuote) -> str:
    """As `imakexec verify LOG -m ...` reads it."""
    judgement = judge_list(test_detached.LOG, draft.vouchers)
    json.dumps(judgement.to_json(), allow_nan=False)
    assert f"{judgement.where}{judgement.sentence}".isprintable(), "it could deface a terminal"
    assert judgement.verdict in (Verdict.IN_SYNC, Verdict.INVALID_EVIDENCE)
    if judgement.verdict is Verdict.IN_SYNC:
        proof = authenticate(draft.vouchers)
        assert proof.key is not None
        assert draft.proof.key is not None
        assert proof.quotes == draft.proof.quotes
        assert proof.key.fingerprint == draft.proof.key.fingerprint
    return judgement.reason


def feed_checkpoint(content: bytes, *, path: Path) -> str:
    """As `imakexec verify --checkpoint` reads it, and writes it again."""
    path.write_bytes(content)
    checkpoint = Checkpoint.load(path)
    assert checkpoint is not None
    checkpoint.save(path)
    assert Checkpoint.load(path) == checkpoint
    return READ


# All of them.


def lists(_: Path) -> Fuzz:
    return partial(
        fuzz,
        Target("lists", malformed_list, feed_list, len, bytes.hex, factor=12, constant=1 << 15),
    )


def buffers(_: Path) -> Fuzz:
    return partial(
        fuzz,
        Target(
            "buffers", malformed_buffer, feed_buffer, len, bytes.hex, factor=12, constant=1 << 15
        ),
    )


def ascii_lists(_: Path) -> Fuzz:
    return partial(
        fuzz,
        Target("ascii", malformed_ascii, feed_ascii, _lengths, _hex, factor=12, constant=1 << 15),
    )


def list_files(folder: Path) -> Fuzz:
    files = ListFiles(folder)
    return partial(
        fuzz, Target("files", files.make, files.feed, _lengths, _hex, factor=12, constant=1 << 15)
    )


def tpm_structures(_: Path) -> Fuzz:
    return partial(
        fuzz,
        Target(
            "structures",
            malformed_structure,
            feed_structure,
            len,
            bytes.hex,
            factor=12,
            constant=1 << 15,
        ),
    )


def evidence(folder: Path) -> Fuzz:
    folders = Folders(folder)
    return partial(
        fuzz,
        Target(
            "evidence",
            folders.make,
            folders.feed,
            lambda draft: draft.size,
            _shown,
            factor=12,
            constant=1 << 19,  # files are hashed through a buffer of 256 KiB
        ),
    )


def loose_quotes(_: Path) -> Fuzz:
    return partial(
        fuzz,
        Target(
            "quotes",
            malformed_quote,
            feed_quote,
            lambda draft: draft.size,
            lambda draft: str(draft.vouchers),
            factor=12,
            constant=1 << 19,  # the judgement, and what cryptography keeps of a key
        ),
    )


def checkpoint_files(folder: Path) -> Fuzz:
    whole = checkpoints()
    return partial(
        fuzz,
        Target(
            "checkpoints",
            partial(malformed_checkpoint, whole=whole),
            partial(feed_checkpoint, path=folder / "checkpoint"),
            len,
            bytes.decode,
            factor=40,  # a parsed number of JSON takes many times what it has digits
            constant=1 << 21,  # the file is read through a buffer of 1 MiB
        ),
    )


BROKEN: Mapping[str, tuple[object, str]] = {
    "lists": (MeasurementLog, "parse"),
    "buffers": (HandoverBuffer, "parse"),
    "ascii": (crosscheck, "_line"),
    "files": (source, "detect_layout"),
    "structures": (PARSERS[0], "parse"),
    "evidence": (verdict, "verify_quote"),
    "quotes": (detached, "verify_quote"),
    "checkpoints": (checkpoint, "parse_json"),
}
"""What is broken in each to see whether the fuzzer notices."""


def _lengths(parts: tuple[bytes, bytes]) -> int:
    return sum(map(len, parts))


def _hex(parts: tuple[bytes, bytes]) -> str:
    return " and ".join(part.hex() for part in parts)


def _shown(draft: Draft) -> str:
    changed = {
        name: item.hex() if isinstance(item, bytes) else item
        for name, item in draft.files.items()
        if item != draft.original.files[name]
    }
    return f"changed files {changed}, manifest {draft.text!r}"


Fuzz = Callable[..., Counter[str]]
TARGETS: Mapping[str, Callable[[Path], Fuzz]] = {
    "lists": lists,
    "buffers": buffers,
    "ascii": ascii_lists,
    "files": list_files,
    "structures": tpm_structures,
    "evidence": evidence,
    "quotes": loose_quotes,
    "checkpoints": checkpoint_files,
}

A_FEW = {
    "lists": 6000,
    "buffers": 4000,
    "ascii": 5000,
    "files": 1000,
    "structures": 8000,
    "evidence": 1000,
    "quotes": 2000,
    "checkpoints": 1500,
}
"""Inputs that take half a minute in all."""

MALFORMED = {reason for reason in Reason if reason.verdict is Verdict.MALFORMED}
IN_LISTS = MALFORMED - {Reason.MANIFEST, Reason.HANDOVER_HEADER, Reason.NOT_A_LIST}
INVALID = {reason for reason in Reason if reason.verdict is Verdict.INVALID_EVIDENCE}

MUST_COME_OUT: Mapping[str, AbstractSet[str]] = {
    "lists": {READ, *IN_LISTS},
    "buffers": {READ, Reason.HANDOVER_HEADER, Reason.FIELD_SUM, Reason.PCR_INDEX},
    "ascii": {"agrees", NO_ASCII, *(f"differs in {name}" for name in ("pcr", "digest", "d-ng"))},
    "files": {
        Reason.NOT_A_LIST,
        Reason.FIELD_SUM,
        "list, agrees",
        "list, differs",
        "handover, differs",
    },
    "structures": {"none", *(kind.__name__ for kind in PARSERS)},
    "evidence": {Reason.MATCH, Reason.FOREIGN_EXTEND, Reason.MANIFEST, *INVALID, *IN_LISTS},
    # What stands behind the signature cannot be wrong without it.
    "quotes": {Reason.MATCH, Reason.MAGIC_TYPE, Reason.ATTEST, Reason.AK}
    | {Reason.SIGNATURE, Reason.NONCE, Reason.PCR_DIGEST},
    "checkpoints": {READ, "UserError"},
}
"""If all inputs die at the same check, nothing behind it is tested."""


@pytest.mark.parametrize("name", TARGETS)
def test_inputs(name: str, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    number, asked = (pytestconfig.getoption(f"--fuzz-{what}") for what in ("number", "inputs"))
    count = asked or A_FEW[name]
    numbers = range(count) if number is None else (number,)
    outcomes = TARGETS[name](tmp_path)(seed=pytestconfig.getoption("--fuzz-seed"), numbers=numbers)
    print(f"\n{name}, {outcomes.total()} inputs:\n{table(outcomes)}")
    if len(numbers) >= A_FEW[name]:
        assert MUST_COME_OUT[name] - set(outcomes) == set(), "this never came out"


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("name", ["lists", "evidence"])
def test_a_million_inputs(
    name: str, part: int, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    numbers = range(part * MILLION // 10, (part + 1) * MILLION // 10)
    outcomes = TARGETS[name](tmp_path)(seed=pytestconfig.getoption("--fuzz-seed"), numbers=numbers)
    print(f"\n{name}, part {part}, {outcomes.total()} inputs:\n{table(outcomes)}")


# Whether the fuzzer notices.


def reader(
    feed: Callable[[bytes], str], *, factor: int = 4, constant: int = 1 << 15
) -> Target[bytes]:
    """Something that reads up to ten bytes."""
    return Target(
        "reader",
        make=lambda random: random.randbytes(random.randrange(1, 11)),
        feed=feed,
        size=len,
        show=bytes.hex,
        factor=factor,
        constant=constant,
    )


@pytest.mark.parametrize("error", [KeyError, ValueError, RecursionError, struct.error, OSError])
def test_an_exception_that_is_not_ours_is_noticed_and_comes_again(error: type[Exception]) -> None:
    def feed(data: bytes) -> str:
        if data[0] == 7:
            raise error("seven")
        raise Rejection(Reason.SHORT_RECORD, "short")

    with pytest.raises(Defect, match=rf"{error.__name__}: .*seven") as first:
        fuzz(reader(feed), seed=1, numbers=range(10_000))
    words = str(first.value).split()
    number = int(words[words.index("input") + 1].rstrip(":"))
    assert f"--fuzz-seed=1 --fuzz-number={number}" in str(first.value)
    with pytest.raises(Defect) as again:
        fuzz(reader(feed), seed=1, numbers=[number])
    assert str(again.value) == str(first.value)
    assert fuzz(reader(feed), seed=1, numbers=range(number)) == {"short_record": number}


def test_a_hang_is_noticed_even_if_every_exception_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def feed(_: bytes) -> str:
        while True:
            with suppress(Exception):
                while True:
                    pass

    monkeypatch.setattr(fuzzing, "HANG_SECONDS", 0.05)
    with pytest.raises(Defect, match=r"reader, seed 1, input 3: Hang: no end"):
        fuzz(reader(feed), seed=1, numbers=[3])
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0), "it would ring in another test"


@pytest.mark.parametrize(("size", "noticed"), [(1 << 10, False), (1 << 16, True)])
def test_memory_that_an_input_does_not_account_for_is_noticed(size: int, noticed: bool) -> None:
    def feed(_: bytes) -> str:
        return f"{len(bytes(size))} bytes"

    if noticed:
        with pytest.raises(Defect, match="bytes of memory were used"):
            fuzz(reader(feed), seed=1, numbers=range(fuzzing.MEASURED_EVERY + 1))
    else:
        fuzz(reader(feed), seed=1, numbers=range(fuzzing.MEASURED_EVERY + 1))


def test_memory_that_is_kept_is_noticed() -> None:
    kept: list[bytes] = []

    def feed(_: bytes) -> str:
        kept.append(b"x" * 1_000_000)
        return READ

    with pytest.raises(Defect, match="were not given back"):
        fuzz(reader(feed, constant=1 << 21), seed=1, numbers=range(100))


@pytest.mark.parametrize("name", TARGETS)
def test_no_target_hides_what_is_not_ours(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every target reaches its reader, and lets what it raises through."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    module, attribute = BROKEN[name]
    monkeypatch.setattr(module, attribute, broken)
    with pytest.raises(Defect, match=f"{name}, seed 1, input .*: ZeroDivisionError"):
        TARGETS[name](tmp_path)(seed=1, numbers=range(200))
