# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark of the verifier: its lists, what it believes, and how it shows figures."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from rich.console import Console

from imakexec import verify_bench
from imakexec.attest.log import MeasurementLog
from imakexec.attest.replay import replay
from imakexec.bench import Runs, Sample
from imakexec.errors import InfraError, UserError
from imakexec.kernel.cache import Cache
from imakexec.progress import SilentProgress
from imakexec.report.verify_bench import print_verify_bench, render_markdown
from imakexec.verify_bench import (
    BANKS,
    FamilyPeak,
    MadeList,
    Memory,
    Row,
    VerifyFigures,
    VerifyHost,
    hash_seconds,
    make_list,
    verify_lists,
    written_records,
)

ALL = BANKS[4]


def made(folder: Path, records: int) -> MadeList:
    with SilentProgress().step("") as step:
        return make_list(folder / "list", records, step)


def test_a_list_leads_where_it_is_said_to(tmp_path: Path) -> None:
    one = made(tmp_path, 2000)
    log = MeasurementLog.parse(one.path.read_bytes())
    outcome = replay(log, ALL, {bank: [one.pcrs[bank]] for bank in ALL})
    assert outcome.matched(one.pcrs) == one.records == len(log)
    assert outcome.contradiction is None
    assert one.size == one.path.stat().st_size
    assert {template.name for template in log.templates} == {"ima-ng", "ima-buf"}
    assert list(outcome.violations) == [997, 1994]
    names = [template.name for template, _ in log.sizes()]
    assert names.count("ima-ng") > 0.9 * len(names)


def test_the_lists_are_the_same_each_time(tmp_path: Path) -> None:
    digest = "30ca439c6c93653285466c1b0bd2eef6"
    found = hashlib.sha256(made(tmp_path, 500).path.read_bytes()).hexdigest()
    assert found[:32] == digest
    (tmp_path / "longer").mkdir()
    longer = made(tmp_path / "longer", 600).path.read_bytes()
    assert longer.startswith((tmp_path / "list").read_bytes())


def test_hashes_alone_take_time_for_each_bank() -> None:
    data = [record.data for record in islice(written_records(), 3000)]
    assert 0 < hash_seconds(["sha1"], data) < hash_seconds(ALL, data) < 5


def test_an_answer_that_is_wrong_is_no_figure(tmp_path: Path) -> None:
    one = made(tmp_path, 20)
    subject = verify_bench._Ours(one, BANKS[2], cpus=1)
    values = {bank: one.pcrs[bank].hex() for bank in BANKS[2]}
    banks = [
        {"bank": bank, "expected": value, "quoted": value, "matched_records": 20}
        for bank, value in values.items()
    ]
    right = {"verdict": "IN_SYNC", "records": 20, "banks": banks}
    subject.require_right(right)
    for wrong in (
        {**right, "verdict": "TRUNCATED"},
        {**right, "records": 19},
        {**right, "banks": banks[:1]},
        {**right, "banks": [banks[0], {**banks[1], "matched_records": 19}]},
        {**right, "banks": [banks[0], {**banks[1], "quoted": "00" * 32}]},
        {"verdict": "IN_SYNC", "records": 20},
    ):
        with pytest.raises(InfraError, match="wrong answer"):
            subject.require_right(wrong)


def test_a_list_that_evmctl_does_not_accept_is_no_figure(tmp_path: Path) -> None:
    one = made(tmp_path, 20)
    zeros = {bank: bytes(len(value)) for bank, value in one.pcrs.items()}
    with pytest.raises(InfraError, match="does not accept the list of the benchmark: rejected"):
        verify_bench._Evmctl.of(MadeList(one.path, one.records, one.size, zeros))


def test_evmctl_that_says_something_else_is_no_figure(tmp_path: Path) -> None:
    evmctl = verify_bench._Evmctl.of(made(tmp_path, 20))
    assert evmctl.run().wall > 0
    other = verify_bench._Evmctl(evmctl.command, evmctl.words + "and more", evmctl.log)
    with pytest.raises(InfraError, match="something else"):
        other.run()


def test_it_measures_both_on_the_same_lists(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    figures = verify_lists(SilentProgress(), records=[200], banks=[2], runs=2, cache=cache)
    assert [row.records for row in figures.rows if row.cpus == 1] == [200]
    for row in figures.rows:
        assert len(row.ours.samples) == len(row.evmctl.samples) == figures.runs == 2
        assert row.banks == BANKS[2]
        assert row.factor > 1
        assert 8 << 20 < row.memory < 60 << 20
    assert figures.host.evmctl.startswith("evmctl")
    assert json.loads(json.dumps(figures.to_json()))["rows"][0]["records"] == 200
    assert not list((tmp_path / "tmp").iterdir())


def test_a_number_of_banks_that_there_is_not() -> None:
    with pytest.raises(UserError, match="no choice of 3 banks"):
        verify_lists(SilentProgress(), banks=[3])


# Memory

ROLLUP = """\
00400000-7ffd3a7f5000 ---p 00000000 00:00 0                              [rollup]
Rss:               24680 kB
Pss:               15000 kB
Pss_Dirty:          8000 kB
Shared_Clean:      12000 kB
Shared_Dirty:        680 kB
Private_Clean:      3000 kB
Private_Dirty:      9000 kB
Swap:                  0 kB
"""


def test_memory_is_read_as_the_kernel_shows_it() -> None:
    assert Memory.parse(ROLLUP) == Memory(24680 * 1024, 12000 * 1024)
    assert Memory.parse("") == Memory(0, 0)


def test_memory_of_copies_is_what_they_have_for_themselves() -> None:
    code = """
import os
kept = bytearray(b"x") * (40 << 20)
read, write = os.pipe()
if not os.fork():
    own = bytearray(b"x") * (20 << 20)
    os.write(write, b"1")
    os.read(0, 1)
    os._exit(0)
os.read(read, 1)
print("ready", flush=True)
os.read(0, 1)
os.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        seen = FamilyPeak()
        seen.look(child.pid)
        child.communicate(b"12")
    assert 60 << 20 < seen.peak < 90 << 20
    after = FamilyPeak()
    after.look(child.pid)
    assert after.peak == 0


# Figures


def runs(*walls: float) -> Runs:
    return Runs(tuple(Sample(wall, 2 * wall) for wall in walls))


FIGURES = VerifyFigures(
    VerifyHost("a CPU", 2, "a system", 0.5, "Python 3, OpenSSL 3", "evmctl 1.4"),
    3,
    tuple(
        Row(records, 134 * records, BANKS[banks], cpus, ours, evmctl, hashing, 30 << 20)
        for records, banks, cpus, ours, evmctl, hashing in (
            (1_000_000, 2, 1, runs(1.0, 2.0, 3.0), runs(4.0, 2.0, 12.0), 1.6),
            (1_000_000, 4, 2, runs(2.0, 2.5, 2.25), runs(4.0, 2.0, 12.0), 3.0),
            (2_000_000, 2, 1, runs(4.0, 4.0, 4.0), runs(8.0, 8.0, 8.0), 3.2),
        )
    ),
)


def test_what_follows_from_the_runs() -> None:
    row = FIGURES.rows[0]
    assert row.records_per_second == 500_000
    assert row.microseconds == 2
    assert (row.advantage.least, row.advantage.median, row.advantage.most) == (1, 4, 4)
    assert row.factor == 2.5


def test_tables_fit_a_terminal() -> None:
    text = io.StringIO()
    print_verify_bench(Console(file=text, width=200), FIGURES)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "1000000 records (127.8 MiB)" in lines
    cells = [line.split() for line in lines if line.startswith("2 banks, 1 CPU")]
    assert cells[0][4:] == ["2.00", "1.00", "3.00", "4.00", "4.00", "2.50", "2.00", "30"]
    assert cells[1][4:] == ["4.00", "4.00", "4.00", "8.00", "2.00", "2.50", "2.00", "30"]
    assert [line.split()[1:] for line in lines if line.startswith("evmctl")] == [
        ["4.00", "2.00", "12.00", "8.00"],
        ["8.00", "8.00", "8.00", "16.00"],
    ]
    assert any(line.startswith("4 banks, 2 CPUs") for line in lines)


def test_markdown_has_the_same_figures() -> None:
    lines = render_markdown(FIGURES).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert len(rows) == 2 + 2 + 3
    assert "| 4 banks, 2 CPUs | 2.25 |" in rows[4]
