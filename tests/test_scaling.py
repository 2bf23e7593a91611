# SPDX-License-Identifier: GPL-2.0-only
"""Input that is made to be slow takes no more than a multiple of its size: nothing is quadratic.

CPU time is compared, with four times the input, so that other work on the host does not count.
"""

from __future__ import annotations

import gc
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evidence_maker import Machine, buf, ng, pack, payload
from list_writer import entry
from list_writer import pack as pack_entries

from imakexec.attest import (
    MalformedLog,
    Verdict,
    judge,
    judge_list,
    judge_log,
    read_list,
    replay,
    verdict,
)
from imakexec.attest.detached import authenticate
from imakexec.attest.log import MeasurementLog
from imakexec.evidence import BootKind, Evidence, EvidenceWriter

NO_MATCH = {"sha256": {10: b"\xab" * 32}}
_MOST = 9
"""Four times as long is linear; twice that leaves room for what grows a little faster."""


def seconds(work: Callable[[], object]) -> float:
    """The least CPU time of two runs."""
    times = []
    for _ in range(2):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def assert_linear(made: Callable[[int], Callable[[], object]], size: int) -> None:
    small, large = seconds(made(size)), seconds(made(4 * size))
    assert large < _MOST * small, f"{small:.3f} s, and {large:.3f} s for four times as much"


def boots(count: int) -> bytes:
    return pack([Machine().boot_aggregate()] * count)


def markers(count: int) -> bytes:
    first = Machine().boot_aggregate()
    return pack([first, *[buf("kexec_execute", payload(1, 2, 3))] * count])


def loads_and_boots(count: int) -> bytes:
    first = Machine().boot_aggregate()
    return pack([first, buf("kexec_load", payload(4096, 24, 1))] * (count // 2))


@pytest.mark.parametrize(
    ("made", "size"), [(boots, 3000), (markers, 6000), (loads_and_boots, 3000)]
)
def test_lists_of_nothing_but_what_is_special(made: Callable[[int], bytes], size: int) -> None:
    proof = authenticate(NO_MATCH)

    def work(count: int) -> Callable[[], object]:
        log = MeasurementLog.parse(made(count))
        return lambda: judge_log(log, proof)

    assert_linear(work, size)


def test_many_boots_behind_a_list_that_was_seen_before() -> None:
    def work(count: int) -> Callable[[], object]:
        machine = Machine()
        machine.boot()
        machine.files(count)
        machine.load()
        machine.snapshot("before")
        machine.records = [machine.boot_aggregate()] * count
        machine.epoch = 10**6
        machine.boots = []
        machine.snapshot("after")
        evidence = machine.evidence()
        return lambda: judge(evidence)

    assert_linear(work, 300)


def nested(count: int) -> bytes:
    """A dump of hand-over headers, each of which counts all that follows."""
    record = pack_entries([entry("/a")])
    size = count * (24 + len(record))
    parts = []
    for number in range(count):
        left = size - number * (24 + len(record))
        parts.append(struct.pack("<H6xQQ", 1, left, 1) + record)
    return b"\xee" * 64 + b"".join(parts)


def test_dump_that_is_full_of_headers(tmp_path: Path) -> None:
    path = tmp_path / "dump"

    def work(count: int) -> Callable[[], object]:
        content = nested(count)

        def read() -> None:
            path.write_bytes(content)
            with pytest.raises(MalformedLog):
                read_list(path)

        return read

    assert_linear(work, 400)
    path.write_bytes(nested(1600))
    tracemalloc.start()
    with pytest.raises(MalformedLog):
        read_list(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * path.stat().st_size + (1 << 20)
    assert judge_list(path, NO_MATCH).verdict is Verdict.MALFORMED


def test_folder_that_names_a_file_many_times_holds_it_once(tmp_path: Path) -> None:
    machine = Machine()
    machine.boot()
    machine.measure(ng("/" + "x" * (1 << 20)))
    machine.snapshot("now")
    evidence = machine.evidence()
    assert evidence.ak_public is not None
    assert evidence.ak_pem is not None
    with EvidenceWriter.create(tmp_path / "folder") as writer:
        writer.set_required_banks(evidence.required_banks)
        writer.set_ak(evidence.ak_public, evidence.ak_pem)
        writer.add_boot(replace(evidence.boots[0], transition=BootKind.COLD))
        writer.add_snapshot(evidence.snapshots[0])
        [entry_of] = writer._snapshots
        writer._snapshots = [{**entry_of, "name": f"s{number}"} for number in range(50)]
    tracemalloc.start()
    loaded = Evidence.load(tmp_path / "folder")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(loaded.snapshots) == 50
    assert peak < 4 << 20


def test_a_rejected_list_is_given_back_at_once() -> None:
    """Without the help of a collection of cycles, which may come late."""
    content = pack([ng(f"/{number}") for number in range(30000)]) + b"\1"

    def reject() -> None:
        data = bytes(bytearray(content))
        with pytest.raises(Exception, match="too few for a record header"):
            MeasurementLog.parse(data)

    gc.disable()
    tracemalloc.start()
    try:
        reject()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(4):
            reject()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < len(content)


def test_a_list_that_many_snapshots_name_is_replayed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    machine.boot()
    machine.files(5)
    for number in range(20):
        machine.snapshot(f"s{number}")
    log = machine.snapshots[0].log
    machine.snapshots = [replace(snapshot, log=log) for snapshot in machine.snapshots]
    calls = []
    genuine = replay

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return genuine(*arguments, **named)

    monkeypatch.setattr(verdict, "replay_list", counted)
    assert judge(machine.evidence()).verdict is Verdict.IN_SYNC
    assert len(calls) == 1
