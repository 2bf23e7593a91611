# SPDX-License-Identifier: GPL-2.0-only
"""A large file is read as if it were in memory, and one that changes meanwhile is found out."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from list_writer import entry, pack

from imakexec.attest import source
from imakexec.attest.crosscheck import ListForm
from imakexec.attest.log import MeasurementLog
from imakexec.attest.replay import replay
from imakexec.attest.source import compare_with, read_list, read_source
from imakexec.attest.stored import StoredBytes
from imakexec.errors import UserError

CONTENT = bytes(range(256)) * 200
ENTRIES = [entry(f"/usr/bin/{number}") for number in range(2000)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "list"
    path.write_bytes(CONTENT)
    return path


def stored(path: Path) -> StoredBytes:
    with path.open("rb") as file:
        found = StoredBytes.of(path, file, least=1)
    assert found is not None
    return found


offset = st.one_of(st.none(), st.integers(-len(CONTENT) - 5, len(CONTENT) + 5))


# The file is only read.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spans=st.lists(st.tuples(offset, offset), max_size=5))
def test_any_part_is_that_of_the_file(
    path: Path, spans: list[tuple[int | None, int | None]]
) -> None:
    data = stored(path)
    assert len(data) == len(CONTENT)
    for start, stop in spans:
        assert data[start:stop] == CONTENT[start:stop]
        near = (start or 0) + 1
        assert data[near : near + 3] == CONTENT[near : near + 3]


def test_what_is_small_or_no_regular_file_is_not_left_where_it_is(
    path: Path, tmp_path: Path
) -> None:
    with path.open("rb") as file:
        assert StoredBytes.of(path, file, least=len(CONTENT)) is not None
        assert StoredBytes.of(path, file, least=len(CONTENT) + 1) is None
    with Path("/dev/zero").open("rb") as file:
        assert StoredBytes.of(path, file, least=0) is None
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file:
        assert StoredBytes.of(path, file, least=1) is None


@pytest.mark.parametrize("size", [100, len(CONTENT) // 2, 40000])
def test_a_file_that_is_cut_is_no_crash(path: Path, size: int) -> None:
    data = stored(path)
    assert data[:10] == CONTENT[:10]
    os.truncate(path, 50)
    with pytest.raises(UserError, match=f"of {len(CONTENT)} bytes it now has 50") as caught:
        data[20000 : 20000 + size]
    assert caught.value.where == str(path)
    assert "a copy" in caught.value.remedy


def test_a_file_that_grows_or_is_overwritten_is_found_out(path: Path) -> None:
    data = stored(path)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="was written to"):
        data[:20000]
    data = stored(path)
    with path.open("r+b") as file:
        file.write(b"x")
    # As it is some milliseconds later.
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10_000_000))
    with pytest.raises(UserError, match="was written to"):
        data[:20000]


def test_a_file_that_is_replaced_is_found_out(path: Path) -> None:
    data = stored(path)
    new = path.with_name("new")
    new.write_bytes(b"other")
    new.replace(path)
    with pytest.raises(UserError, match="was written to"):
        data[:]


def test_a_file_whose_times_are_set_back_is_found_out(path: Path) -> None:
    data = stored(path)
    state = path.stat()
    with path.open("r+b") as file:
        file.write(b"evil")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(UserError, match="was written to"):
        data[:]


def test_a_disk_that_fails_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(path)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(UserError, match="Input/output error") as caught:
        data[7:9]
    assert caught.value.where == f"{path}, offset 7"


def test_a_read_that_gives_nothing_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems tell the new size of a file later than they refuse its old end."""
    data = stored(path)
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(UserError, match="was written to"):
        data[0:9]


def test_a_read_that_gives_less_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: whole(file, min(size, 1000), at))
    assert stored(path)[5:45000] == CONTENT[5:45000]


def test_its_descriptor_is_closed_with_it(path: Path) -> None:
    def descriptors() -> set[str]:
        return {item.name for item in Path("/proc/self/fd").iterdir()}

    before = descriptors()
    data = stored(path)
    assert len(descriptors()) == len(before) + 1
    del data
    assert descriptors() == before


# Lists in such files


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are left in their files however small they are."""
    monkeypatch.setattr(source, "_MUCH", 1)


@pytest.mark.usefixtures("leaving")
def test_a_list_is_left_in_its_file(tmp_path: Path) -> None:
    content = pack(ENTRIES)
    parts = (tmp_path / "saved", tmp_path / "rest")
    cut = len(pack(ENTRIES[:700]))
    parts[0].write_bytes(content[:cut])
    parts[1].write_bytes(content[cut:])
    whole = read_list(parts[1], parts[:1])
    assert not isinstance(whole.sources[0].log.data, bytes)
    assert not isinstance(whole.log.data, bytes)
    assert len(whole.log.data) == len(content)
    for start, stop in ((0, len(content)), (cut - 5, cut + 5), (5, 9), (cut, cut), (-9, None)):
        assert whole.log.data[start:stop] == content[start:stop]
    expected = MeasurementLog.parse(content)
    assert list(whole.log) == list(expected)
    wanted = {"sha256": [bytes(32)]}
    assert replay(whole.log, ["sha256"], wanted) == replay(expected, ["sha256"], wanted)
    assert not whole.repeats_saved_records
    (tmp_path / "whole").write_bytes(content)
    repeated = read_list(tmp_path / "whole", parts[:1])
    assert repeated.repeats_saved_records
    assert compare_with(expected, tmp_path / "whole").form is ListForm.BINARY


@pytest.mark.usefixtures("leaving")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_list_that_is_cut_while_it_is_replayed(
    tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("imakexec.attest.replay"), "_WORTH_A_PROCESS", 1)
    path = tmp_path / "list"
    path.write_bytes(pack(ENTRIES))
    log = read_source(path).log
    os.truncate(path, 1000)
    with pytest.raises(UserError, match="was written to"):
        replay(log, ["sha1", "sha256"], {"sha1": [], "sha256": []}, processes=processes)
