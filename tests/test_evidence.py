# SPDX-License-Identifier: GPL-2.0-only
"""An evidence folder comes back as it was written, or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evidence_maker import patched_run

from imakexec.errors import InfraError, UserError
from imakexec.evidence import (
    AK_PUBLIC,
    MANIFEST,
    Boot,
    BootKind,
    Evidence,
    EvidenceFault,
    EvidenceWriter,
    InvalidEvidence,
    MalformedEvidence,
    QuoteRecord,
    Snapshot,
)

MADE = patched_run(2).evidence()
FIRST = "snapshots/00-boot"


def write(folder: Path) -> EvidenceWriter:
    writer = EvidenceWriter.create(folder)
    writer.set_run({"command": ["imakexec", "run"], "files": 2})
    writer.set_required_banks(MADE.required_banks)
    assert MADE.ak_public is not None
    assert MADE.ak_pem is not None
    writer.set_ak(MADE.ak_public, MADE.ak_pem)
    for boot in MADE.boots:
        writer.add_boot(boot)
    for snapshot in MADE.snapshots:
        writer.add_snapshot(snapshot)
    writer.add_file("console.log", b"Linux version\n")
    return writer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with write(tmp_path / "evidence"):
        pass
    return tmp_path / "evidence"


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of a folder."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file and what the manifest says about it."""
    EvidenceWriter.create(folder / "scratch").add_file("x", content)
    entry = Evidence.load(folder / "scratch").files["x"]
    (folder / name).write_bytes(content)
    changed = {"sha256": entry.sha256, "size": entry.size}
    edit(folder, lambda manifest: manifest["files"].update({name: changed}))


def fault(folder: Path, kind: type[EvidenceFault]) -> EvidenceFault:
    with pytest.raises(EvidenceFault) as caught:
        Evidence.load(folder)
    assert type(caught.value) is kind
    return caught.value


def assert_printable(fault: EvidenceFault) -> None:
    """It fits on a screen and does nothing to it, whatever the evidence says."""
    assert len(str(fault)) < 500
    assert all(line.isprintable() for line in str(fault).splitlines())


def test_round_trip(folder: Path) -> None:
    read = Evidence.load(folder)
    assert read.snapshots == MADE.snapshots
    assert read.boots == MADE.boots
    assert read.required_banks == MADE.required_banks
    assert (read.ak_public, read.ak_pem) == (MADE.ak_public, MADE.ak_pem)
    assert read.run == {"command": ["imakexec", "run"], "files": 2}
    assert read.files["console.log"].size == len("Linux version\n")
    assert read.complete


def test_layout(folder: Path) -> None:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    first = {"attest", "signature", "nonce", "pcrs.json", "binary_runtime_measurements"}
    after = {"attest-after", "signature-after", "nonce-after", "pcrs-after.json"}
    assert {f"{FIRST}/{name}" for name in first | after} < names
    assert {MANIFEST, "ak.pub", "ak.pem", "console.log"} < names
    assert json.loads((folder / MANIFEST).read_text())["schema"] == "imakexec-evidence/1"


def test_a_copy_is_as_good(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert Evidence.load(copy) == Evidence.load(folder)


def test_readable_after_every_step(tmp_path: Path) -> None:
    """A harness that is killed leaves what it has added until then."""
    writer = EvidenceWriter.create(tmp_path / "evidence")
    assert Evidence.load(writer.folder).snapshots == ()
    writer.set_required_banks(["sha256"])
    assert Evidence.load(writer.folder).required_banks == ("sha256",)
    writer.add_snapshot(MADE.snapshots[0])
    read = Evidence.load(writer.folder)
    assert read.snapshots == MADE.snapshots[:1]
    assert read.ak_public is None
    assert not read.complete


def test_an_interrupted_manifest_is_never_seen_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EvidenceWriter(folder)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(folder.iterdir())
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.set_run({"new": True})
    assert Evidence.load(folder).run["files"] == 2
    assert sorted(folder.iterdir()) == before


def test_an_exception_leaves_it_incomplete(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), write(tmp_path / "evidence"):
        raise ZeroDivisionError
    assert not Evidence.load(tmp_path / "evidence").complete


def test_snapshot_without_log_or_second_quote(tmp_path: Path) -> None:
    bare = Snapshot("bare", 0, MADE.snapshots[0].before, None, None)
    with EvidenceWriter.create(tmp_path / "evidence") as writer:
        writer.add_snapshot(bare)
    assert Evidence.load(tmp_path / "evidence").snapshots == (bare,)


def test_file_from_a_path_and_in_place(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(b"CONFIG_IMA=y\n")
    with EvidenceWriter.create(tmp_path / "evidence") as writer:
        writer.add_file("kernel-a.config", tmp_path / "config")
        (writer.folder / "console.log").write_bytes(b"line\n")
        writer.add_file("console.log", writer.folder / "console.log")
    files = Evidence.load(writer.folder).files
    assert files["kernel-a.config"].size == 13
    assert files["console.log"].size == 5


def test_folder_in_use(folder: Path) -> None:
    with pytest.raises(UserError, match="not empty"):
        EvidenceWriter.create(folder)


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_bytes(b"")
    with pytest.raises(UserError):
        EvidenceWriter.create(tmp_path / "evidence")


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InfraError, match="cannot be written"):
        EvidenceWriter.create(tmp_path / "file" / "evidence")


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../b", "", "a//b", ".hidden", "a/.b", "a\\b", "a\n", MANIFEST]
)
def test_writer_refuses_names_that_lead_out(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a file"):
        EvidenceWriter(folder).add_file(name, b"")


def test_writer_replaces_nothing(tmp_path: Path) -> None:
    writer = write(tmp_path / "evidence")
    with pytest.raises(ValueError, match="already"):
        writer.add_file("console.log", b"another")
    assert Evidence.load(writer.folder).files["console.log"].size == len("Linux version\n")


def test_writer_refuses_snapshot_names_that_lead_out(folder: Path) -> None:
    snapshot = Snapshot("../x", 0, MADE.snapshots[0].before, None, None)
    with pytest.raises(ValueError, match="plain file name"):
        EvidenceWriter(folder).add_snapshot(snapshot)


def test_writer_refuses_snapshot_names_that_the_loader_refuses(tmp_path: Path) -> None:
    writer = write(tmp_path / "evidence")
    with pytest.raises(ValueError, match="plain file name"):
        writer.add_snapshot(replace(MADE.snapshots[0], name="a" * 65))
    with pytest.raises(ValueError, match="already"):
        writer.add_snapshot(MADE.snapshots[0])
    assert Evidence.load(writer.folder).snapshots == MADE.snapshots


def test_a_command_line_with_control_characters_can_be_read_back(tmp_path: Path) -> None:
    writer = EvidenceWriter.create(tmp_path / "evidence")
    writer.add_boot(replace(MADE.boots[0], cmdline="a\tb\nc\x1b[2J\ud800d\u00e4"))
    assert Evidence.load(writer.folder).boots[0].cmdline == "a\tb\nc\\x1b[2J\\ud800d\u00e4"


def test_writer_refuses_a_gap_in_the_epochs(tmp_path: Path) -> None:
    writer = EvidenceWriter.create(tmp_path / "evidence")
    with pytest.raises(ValueError, match="epoch 1"):
        writer.add_boot(Boot(1, "", "", "", "", "", BootKind.KEXEC))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such evidence folder"):
        Evidence.load(tmp_path / "nothing")


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="manifest is missing") as caught:
        Evidence.load(tmp_path)
    assert caught.value.where.endswith(MANIFEST)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["console.log", AK_PUBLIC, f"{FIRST}/attest", f"{FIRST}/nonce"])
def test_damaged_file(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    damaged = fault(folder, InvalidEvidence)
    assert damaged.file == name
    assert "SHA-256" in damaged.what


def test_shortened_file(folder: Path) -> None:
    (folder / "console.log").write_bytes(b"")
    assert "14 bytes expected, 0 found" in fault(folder, InvalidEvidence).what


def test_missing_file(folder: Path) -> None:
    (folder / "console.log").unlink()
    assert fault(folder, InvalidEvidence).file == "console.log"


def test_symbolic_link_in_place_of_a_file(folder: Path, tmp_path: Path) -> None:
    (folder / "console.log").rename(tmp_path / "console.log")
    (folder / "console.log").symlink_to(tmp_path / "console.log")
    assert "symbolic link" in fault(folder, InvalidEvidence).what


def test_symbolic_link_in_place_of_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "snapshots").rename(tmp_path / "snapshots")
    (folder / "snapshots").symlink_to(tmp_path / "snapshots")
    assert "symbolic link" in fault(folder, InvalidEvidence).what


def test_symbolic_link_in_place_of_the_manifest(folder: Path, tmp_path: Path) -> None:
    (folder / MANIFEST).rename(tmp_path / MANIFEST)
    (folder / MANIFEST).symlink_to(tmp_path / MANIFEST)
    assert fault(folder, InvalidEvidence).file == MANIFEST


@pytest.mark.parametrize("target", [MANIFEST, "nowhere"])
def test_manifest_that_is_a_link_to_nothing(folder: Path, target: str) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to(target)
    broken = fault(folder, InvalidEvidence)
    assert broken.file == MANIFEST
    assert "it is a symbolic link" in broken.what


@pytest.mark.parametrize("name", [MANIFEST, "ak.pem", f"{FIRST}/attest"])
def test_folder_in_place_of_a_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    broken = fault(folder, InvalidEvidence)
    assert broken.file == name
    assert "directory" in broken.what


def test_a_path_that_the_host_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short name in a deep folder can be too long as well."""

    def refuse(path: Path) -> bool:
        raise OSError(errno.ENAMETOOLONG, "File name too long", str(path))

    monkeypatch.setattr(Path, "is_symlink", refuse)
    broken = fault(folder, InvalidEvidence)
    assert broken.file.startswith("snapshots/")
    assert "too long" in broken.what


def test_fifo_does_not_hang(folder: Path) -> None:
    (folder / "console.log").unlink()
    os.mkfifo(folder / "console.log")
    assert "not a regular file" in fault(folder, InvalidEvidence).what


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ".", MANIFEST])
def test_name_that_leads_out(folder: Path, name: str) -> None:
    entry = {"sha256": "0" * 64, "size": 0}
    edit(folder, lambda manifest: manifest["files"].update({name: entry}))
    assert fault(folder, InvalidEvidence).file == MANIFEST


@pytest.mark.parametrize(
    "name", ["a" * 256, "a" * 5000, "/".join("a" * 3000), "\ud800x", "\x1b[2J"]
)
def test_name_that_no_file_can_have(folder: Path, name: str) -> None:
    entry = {"sha256": "0" * 64, "size": 0}
    edit(folder, lambda manifest: manifest["files"].update({name: entry}))
    wrong = fault(folder, InvalidEvidence)
    assert "is not a plain relative file name" in wrong.what
    assert_printable(wrong)


def test_reference_to_a_name_without_end(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["ak"].update(pem="a" * 5000))
    assert_printable(fault(folder, InvalidEvidence))


def test_reference_to_a_file_that_is_not_listed(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["snapshots"][0].update(log="../../etc/passwd"))
    assert fault(folder, InvalidEvidence).field == "snapshots[0].log"


@pytest.mark.parametrize("name", ["", "../x", ".x", "a/b", "a b", "a\n", "a" * 65, "\ud800x"])
@pytest.mark.parametrize("last", ["name", "required_banks"])
def test_name_that_is_not_plain(folder: Path, name: str, last: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["required_banks"] = [name if last == "required_banks" else "sha256"]
        manifest["snapshots"][0].update({"name": name} if last == "name" else {})

    edit(folder, change)
    wrong = fault(folder, MalformedEvidence)
    assert wrong.field in ("snapshots[0].name", "required_banks[0]")
    assert_printable(wrong)


def test_longest_name_of_a_snapshot(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["snapshots"][0].update(name="a" * 64))
    assert Evidence.load(folder).snapshots[0].name == "a" * 64


def test_two_snapshots_of_one_name(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["snapshots"][0].update(name="after-kexec"))
    wrong = fault(folder, MalformedEvidence)
    assert wrong.field == "snapshots"
    assert "different names" in wrong.what


@pytest.mark.parametrize("text", ["\ud800x", "\x1b[2J", "a\rb", "\0", "\x7f", "\x9b2J"])
@pytest.mark.parametrize("field", ["token", "boot_id", "banner", "release", "cmdline"])
def test_text_that_cannot_be_printed(folder: Path, field: str, text: str) -> None:
    edit(folder, lambda manifest: manifest["boots"][1].update({field: text}))
    wrong = fault(folder, MalformedEvidence)
    assert wrong.field == f"boots[1].{field}"
    assert_printable(wrong)


@pytest.mark.parametrize("name", ["\ud800x", "\x1b[2J", "a" * 5000])
def test_member_whose_name_cannot_be_printed(folder: Path, name: str) -> None:
    edit(folder, lambda manifest: manifest.update({name: 0}))
    assert_printable(fault(folder, MalformedEvidence))


@pytest.mark.parametrize("number", [1 << 63, 10**4000])
@pytest.mark.parametrize("field", ["boots", "snapshots", "files"])
def test_number_without_end(folder: Path, field: str, number: int) -> None:
    def change(manifest: dict[str, Any]) -> None:
        if field == "files":
            manifest["files"]["ak.pem"]["size"] = number
        else:
            manifest[field][-1]["epoch"] = number

    edit(folder, change)
    wrong = fault(folder, MalformedEvidence)
    assert wrong.field.startswith(field)
    assert "63 bits" in wrong.what
    assert_printable(wrong)


def test_value_without_end(folder: Path) -> None:
    """Neither the size nor the depth of a wrong value matters to the message."""
    edit(folder, lambda manifest: manifest["boots"][0].update(epoch=["a" * 5000, 10**4000] * 9))
    assert_printable(fault(folder, MalformedEvidence))
    (folder / MANIFEST).write_text("[" * 900 + "]" * 900)
    assert_printable(fault(folder, MalformedEvidence))


def test_unknown_schema(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(schema="imakexec-evidence/2"))
    wrong = fault(folder, MalformedEvidence)
    assert wrong.field == "schema"
    assert "version" in wrong.remedy
    edit(folder, lambda manifest: manifest.update(schema="x" * 5000))
    assert_printable(fault(folder, MalformedEvidence))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", None),
        ("complete", 1),
        ("run", []),
        ("required_banks", "sha1"),
        ("required_banks[0]", 4),
        ("ak", []),
        ("ak.public", 1),
        ("boots", {}),
        ("boots", [None]),
        ("boots[1].epoch", 2),
        ("snapshots[2].epoch", True),
        ("boots[0].epoch", -1),
        ("boots[0].token", 5),
        ("boots[0].transition", "warm"),
        ("snapshots", None),
        ("snapshots[0].epoch", 1.5),
        ("snapshots[0].epoch", "0"),
        ("snapshots[0].epoch", 1),
        ("snapshots[0].name", None),
        ("snapshots[0].before", None),
        ("snapshots[0].log", 1),
        ("snapshots[0].after.nonce", None),
        ("files", []),
        ("files.nonce.size", 1),
    ],
)
def test_wrong_type(folder: Path, field: str, value: object) -> None:
    def change(manifest: dict[str, Any]) -> None:
        *path, last = field.replace("[", ".").replace("]", "").split(".")
        at: Any = manifest
        for step in path:
            at = at.setdefault(step, {}) if isinstance(at, dict) else at[int(step)]
        at[int(last) if isinstance(at, list) else last] = value

    edit(folder, change)
    wrong = fault(folder, MalformedEvidence)
    assert wrong.file == MANIFEST
    assert wrong.field == "" or wrong.field.split(".")[0].split("[")[0] in field


@pytest.mark.parametrize("field", ["schema", "run", "snapshots", "required_banks", "complete"])
def test_missing_member(folder: Path, field: str) -> None:
    edit(folder, lambda manifest: manifest.pop(field))
    assert repr(field) in fault(folder, MalformedEvidence).what


def test_unknown_member(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["snapshots"][0].update(extra=1))
    assert fault(folder, MalformedEvidence).field == "snapshots[0].extra"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"schema": 1, "schema": 2}', b"[]", b"1" * 9999]
)
def test_manifest_that_is_none(folder: Path, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    assert fault(folder, MalformedEvidence).file == MANIFEST


def test_manifest_without_end(folder: Path) -> None:
    with (folder / MANIFEST).open("wb") as file:
        file.truncate(1 << 40)
    assert "longer than" in fault(folder, MalformedEvidence).what


@pytest.mark.parametrize(
    "text",
    [
        b'{"sha1": []}',
        b'{"sha1": {"24": "00"}}',
        b'{"sha1": {"00": "00"}}',
        b'{"sha1": {"x": "00"}}',
        b'{"sha1": {"0": "0"}}',
        b'{"sha1": {"0": "AA"}}',
        b'{"sha1": {"0": ""}}',
        b'{"sha1": {"0": 0}}',
        b'{"sha1": {"0": "00", "0": "11"}}',
        b"not json",
    ],
)
def test_pcr_values_that_are_none(folder: Path, text: bytes) -> None:
    rewrite(folder, f"{FIRST}/pcrs.json", text)
    assert fault(folder, MalformedEvidence).file == f"{FIRST}/pcrs.json"


@pytest.mark.parametrize("bank", ["\ud800x", "\x1b[2J", "a" * 65, ""])
def test_pcr_bank_that_is_none(folder: Path, bank: str) -> None:
    rewrite(folder, f"{FIRST}/pcrs.json", json.dumps({bank: {"0": "00"}}).encode())
    wrong = fault(folder, MalformedEvidence)
    assert wrong.file == f"{FIRST}/pcrs.json"
    assert_printable(wrong)


def test_pem_that_is_not_text(folder: Path) -> None:
    rewrite(folder, "ak.pem", b"\xff")
    assert fault(folder, MalformedEvidence).file == "ak.pem"


def test_quotes_of_a_snapshot() -> None:
    quote = QuoteRecord(b"", b"", b"", {})
    assert Snapshot("one", 0, quote, None, None).quotes == (quote,)
    assert Snapshot("two", 0, quote, None, quote).quotes == (quote, quote)
