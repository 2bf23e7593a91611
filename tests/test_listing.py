# SPDX-License-Identifier: GPL-2.0-only
"""`imakexec show` and `imakexec pcr`: what they print, what they write, and how they end."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Run
from evidence_maker import Machine, patched_run
from evidence_maker import pack as pack_records
from list_writer import BANKS, ORDERS, Entry, Order, ascii_list, entry, handover, naive_pcrs, pack

ENTRIES = [
    entry("boot_aggregate"),
    entry("/a"),
    replace(entry("/v"), violation=True),
    entry("/b", template="ima-sig", pcr=11),
    entry("/c", template="d-ng|future"),
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def written(folder: Path, content: bytes, name: str = "list") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def document(path: Path) -> Mapping[str, object]:
    read: Mapping[str, object] = json.loads(path.read_text())
    return read


@pytest.mark.parametrize(
    ("order", "said"),
    [("little", "little-endian, the canonical format"), ("big", "big-endian, the native format")],
)
def test_show_says_what_a_list_is_made_of(
    run: Run, tmp_path: Path, order: Order, said: str
) -> None:
    path, result = written(tmp_path, pack(ENTRIES, order)), tmp_path / "json"
    ended = run("show", path, "--json", result)
    assert (ended.code, ended.err) == (0, "")
    assert said in ended.out
    assert f"5 records, {len(pack(ENTRIES))} bytes, 1 violations" in ended.out
    assert re.search(r"templates d-ng\|future 1 .*, ima-ng 3 .*, ima-sig\s+1 ", ended.out)
    assert "unknown, so that nothing in them has a meaning: d-ng|future" in ended.out
    assert "PCRs      10, 11\n" in ended.out
    shown = document(result)
    assert (shown["schema"], shown["exit_code"]) == ("imakexec-list/1", 0)
    assert (shown["byteorder"], shown["canonical"]) == (order, order == "little")
    assert (shown["records"], shown["violations"], shown["pcrs"]) == (5, [2], [10, 11])
    assert shown["templates"] == [
        {"name": name, "fields": fields, "records": count, "size": size}
        for name, fields, count, size in [
            ("d-ng|future", None, 1, len(ENTRIES[4].pack())),
            ("ima-ng", ["d-ng", "n-ng"], 3, len(pack(ENTRIES[:3]))),
            ("ima-sig", ["d-ng", "n-ng", "sig"], 1, len(ENTRIES[3].pack())),
        ]
    ]


def test_show_tells_the_story_of_the_main_job(run: Run, tmp_path: Path) -> None:
    ended = run("show", written(tmp_path, pack_records(patched_run(25).records)))
    words = ["0  boot_aggregate", "6 records", "7  kexec_load", "segment", "8    25 records"]
    words += ["33  kexec_execute", "34  boot_aggregate", "4 records", "hand-over buffer", "%"]
    at = 0
    for word in words:
        at = ended.out.index(word, at) + len(word)
    assert "REJECTED" not in ended.out
    assert ended.code == 0


@pytest.mark.parametrize("bank", BANKS)
def test_markers_hold_in_the_list_of_any_bank(run: Run, tmp_path: Path, bank: str) -> None:
    """Their sizes are those of the list with SHA-1."""
    entries = [
        Entry(
            record.template.decode(),
            tuple(_fields(record.data)),
            record.pcr,
            record.violation,
        )
        for record in patched_run(3).records
    ]
    ended = run("show", written(tmp_path, pack(entries, bank=bank)))
    assert "kexec_execute\n" in ended.out
    assert "REJECTED" not in ended.out
    assert ("the list of bank" in ended.out) == (bank != "sha1")
    before = next(n for n, item in enumerate(entries) if b"kexec_execute\0" in item.values) + 1
    assert f" {24 + len(pack(entries[:before]))} of " in ended.out


def _fields(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def test_show_compares_other_lists(run: Run, tmp_path: Path) -> None:
    path, result = written(tmp_path, pack(ENTRIES)), tmp_path / "json"
    same = written(tmp_path, ascii_list(ENTRIES), "ascii")
    shorter = written(tmp_path, pack(ENTRIES[:3], bank="sha256"), "bank")
    further = written(tmp_path, ascii_list([*ENTRIES, entry()], bank="sha512"), "ascii512")
    ended = run("show", path, *[f"--against={item}" for item in (same, shorter, further)])
    assert f"against   {same} (ASCII, sha1)\n          5 records agree\n" in ended.out
    assert (
        f"against   {shorter} (binary, sha256)\n          3 records agree; it ends 2 records"
        in (ended.out)
    )
    assert "(ASCII, sha512)\n          5 records agree; it goes on after them, by 1" in ended.out
    assert ended.code == 0
    other = written(tmp_path, ascii_list([ENTRIES[0], entry("/B"), *ENTRIES[2:]]), "other")
    ended = run("show", path, "--against", other, "--json", result)
    assert ended.code == 12
    assert "DIFFERS in digest of record 1" in ended.out
    shown = document(result)
    assert shown["exit_code"] == 12
    checks = shown["checks"]
    assert isinstance(checks, dict)
    assert (checks[str(other)]["compared"], checks[str(other)]["field"]) == (1, "digest")


def test_a_record_that_contradicts_itself(run: Run, tmp_path: Path) -> None:
    entries = [*ENTRIES[:3], replace(entry("/x"), digest=bytes(range(20)))]
    path, result = written(tmp_path, pack(entries)), tmp_path / "json"
    for command in ("show", "pcr"):
        ended = run(command, path, "--json", result)
        assert ended.code == 12
        assert "TAMPERED  Record 3 contradicts itself" in ended.out
        shown = document(result)
        assert (shown["contradiction"], shown["exit_code"]) == (3, 12)


def test_show_of_a_hand_over_buffer_that_ran_full(run: Run, tmp_path: Path) -> None:
    content = handover(ENTRIES, size=len(handover(ENTRIES)) - 7)
    ended = run("show", written(tmp_path, b"dump" + content))
    assert f"hand-over buffer at offset 0x4: 5 records in {len(content)} bytes" in ended.out
    assert f"no room: {len(ENTRIES[4].pack()) - 7} bytes of it were carried" in ended.out


def test_show_of_a_trimmed_list(run: Run, tmp_path: Path) -> None:
    records = patched_run(3).records
    saved = written(tmp_path, pack_records(records[:3]), "saved")
    rest = written(tmp_path, pack_records(records[3:]), "rest")
    alone = run("show", rest)
    assert "does not begin with a boot_aggregate" in alone.out
    assert "REJECTED" in alone.out
    whole = run("show", rest, "--prepend", saved)
    assert "REJECTED" not in whole.out
    assert f"in all    {len(records)} records" in whole.out
    assert "does not begin" not in whole.out
    again = run("show", saved, "--prepend", saved)
    assert "The list itself begins with all saved records" in again.out


@pytest.mark.parametrize("order", ORDERS)
def test_pcr_against_a_naive_replay(run: Run, tmp_path: Path, order: Order) -> None:
    path, result = written(tmp_path, pack(ENTRIES, order)), tmp_path / "json"
    ended = run("pcr", path, *[f"--bank={bank}" for bank in BANKS], "--json", result)
    assert ended.code == 0
    shown = document(result)
    assert shown["schema"] == "imakexec-pcr/1"
    naive = {bank: naive_pcrs(ENTRIES, order, bank) for bank in BANKS}
    assert shown["pcrs"] == {
        str(pcr): {bank: naive[bank][pcr].hex() for bank in BANKS} for pcr in (10, 11)
    }
    lines = ended.out.splitlines()
    at = lines.index("PCR 11")
    assert lines[at + 1 : at + 5] == [f"  {bank:8}{naive[bank][11].hex()}" for bank in BANKS]


def test_pcr_of_the_two_usual_banks(run: Run, tmp_path: Path) -> None:
    machine = Machine()
    machine.boot()
    machine.files(3)
    ended = run("pcr", written(tmp_path, pack_records(machine.records)))
    values = [f"  {bank:8}{value.hex()}" for bank, value in machine.pcr10.items()]
    assert "\n".join(["PCR 10", *values, ""]) in ended.out


def test_pcr_of_saved_records_and_the_rest(run: Run, tmp_path: Path) -> None:
    parts = [written(tmp_path, pack(ENTRIES[:2]), "saved"), written(tmp_path, pack(ENTRIES[2:]))]
    ended = run("pcr", parts[1], "--prepend", parts[0], "--bank", "sha256")
    assert naive_pcrs(ENTRIES, "little", "sha256")[10].hex() in ended.out


def test_nothing_but_digests_and_files_is_wider_than_a_terminal(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path, pack([*ENTRIES, replace(entry(), digest=bytes(range(20)))], "big"))
    other = written(tmp_path, pack(ENTRIES[:2]), "other")
    for ended in (run("show", path, "--against", other), run("pcr", path, "--prepend", path)):
        for line in ended.out.splitlines():
            assert len(line) <= 80 or str(tmp_path) in line or re.search(r"[0-9a-f]{64}$", line)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("pcr", "list", "--bank", "md5"),
            2,
            "no bank 'md5'\n  where: --bank md5\n  to do: one of",
        ),
        (("show", "missing"), 2, "cannot be read: No such file"),
        (("show", "zero"), 14, "neither a list nor a hand-over buffer"),
        (("pcr", "cut"), 14, "announced"),
        (("show", "list", "--against", "zero"), 14, "cannot be the name of a template"),
        (("show", "list", "--prepend", "big"), 2, "they are no parts of one list"),
        (("show", "list", "--json", "list"), 2, "would replace a file that is to be read"),
        (("pcr", "list", "--prepend", "big", "--json", "big"), 2, "would replace a file"),
        (("show",), 2, "Missing argument"),
    ],
)
def test_what_is_refused(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, pack(ENTRIES), "list")
    written(tmp_path, pack(ENTRIES, "big"), "big")
    written(tmp_path, bytes(1000), "zero")
    written(tmp_path, pack(ENTRIES)[:-1], "cut")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    ended = run(*arguments)
    assert ended.code == code
    assert said in ended.err
    assert ended.out == ""
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_result_replaces_no_list_by_another_of_its_names(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path, pack(ENTRIES))
    content = path.read_bytes()
    other = tmp_path / "other"
    other.hardlink_to(path)
    ended = run("show", path, "--json", other)
    assert ended.code == 2
    assert "would replace a file" in ended.err
    assert path.read_bytes() == content


def test_a_result_that_no_file_system_can_name_is_refused(run: Run, tmp_path: Path) -> None:
    ended = run("show", written(tmp_path, pack(ENTRIES)), "--json", tmp_path / ("x" * 300))
    assert ended.code == 2
    assert "the result cannot be written: File name too long" in ended.err


def test_an_error_is_written_where_the_result_is_missed(run: Run, tmp_path: Path) -> None:
    result = tmp_path / "json"
    assert run("show", written(tmp_path, bytes(9)), "--json", result).code == 14
    shown = document(result)
    assert (shown["schema"], shown["exit_code"]) == ("imakexec-error/1", 14)
