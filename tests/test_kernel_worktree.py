# SPDX-License-Identifier: GPL-2.0-only
"""The working copy changes only where it must, and the pristine tree never."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kernel_trees import make_patch, make_tree

from imakexec.deadline import Deadline
from imakexec.errors import UserError
from imakexec.kernel import worktree
from imakexec.kernel.cache import Cache
from imakexec.kernel.series import PatchSeries
from imakexec.kernel.source import SourceTree, user_tree
from imakexec.kernel.worktree import WorkTree
from imakexec.progress import SilentProgress


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def pristine(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "pristine")


@pytest.fixture
def series(tmp_path: Path) -> PatchSeries:
    """Change log.c; change it again and add new.c; remove kexec.c."""
    states = [make_tree(tmp_path / "state0")]
    for n in range(1, 4):
        states.append(tmp_path / f"state{n}")
        shutil.copytree(states[-2], states[-1])
        log = states[-1] / "ima/log.c"
        match n:
            case 1:
                log.write_text(log.read_text().replace("line 2\n", "line two\n"))
            case 2:
                log.write_text(log.read_text().replace("line 8\n", "line eight\n"))
                (states[-1] / "ima/new/deep").mkdir(parents=True)
                (states[-1] / "ima/new/deep/new.c").write_text("new\n")
            case 3:
                (states[-1] / "ima/kexec.c").unlink()
        make_patch(tmp_path / "patches", f"{n}.patch", states[-2], states[-1])
    return PatchSeries.read(tmp_path / "patches")


def _debian(path: Path) -> SourceTree:
    return SourceTree(path, "pkg=1", "6.1.192", "pkg-1", "pkg 1")


def _user(path: Path, cache: Cache) -> SourceTree:
    return user_tree(path, cache, SilentProgress(), Deadline.after(20))


def _prepare(source: SourceTree, cache: Cache, series: PatchSeries) -> Path:
    work = WorkTree(source, cache)
    with SilentProgress().step("prepare") as step:
        work.prepare(series, step, Deadline.after(20))
    return work.tree


def _content(tree: Path) -> dict[str, str]:
    return {
        str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()
    }


def _times(tree: Path) -> dict[str, int]:
    return {
        str(path.relative_to(tree)): path.stat().st_mtime_ns
        for path in tree.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["debian", "user"])
@pytest.mark.parametrize("steps", [(3,), (0, 1, 2, 3), (3, 0), (2, 3, 1, 0, 2)])
def test_every_prefix_in_any_order(
    pristine: Path,
    cache: Cache,
    series: PatchSeries,
    tmp_path: Path,
    kind: str,
    steps: tuple[int, ...],
) -> None:
    before = _content(pristine), _times(pristine)
    source = _debian(pristine) if kind == "debian" else _user(pristine, cache)
    for n in steps:
        tree = _prepare(source, cache, series.first(n))
        assert _content(tree) == _content(tmp_path / f"state{n}")
        assert not (tree / "ima/new").exists() or n >= 2
    assert (_content(pristine), _times(pristine)) == before


def test_a_step_rewrites_only_what_differs(
    pristine: Path, cache: Cache, series: PatchSeries
) -> None:
    tree = _prepare(_debian(pristine), cache, series.first(2))
    before = _times(tree)
    _prepare(_debian(pristine), cache, series.first(3))
    after = _times(tree)
    assert before.keys() - after.keys() == {"ima/kexec.c"}
    assert {name for name, time in after.items() if time != before[name]} == set()
    _prepare(_debian(pristine), cache, series.first(1))
    changed = {name for name, time in _times(tree).items() if time != before.get(name)}
    assert changed == {"ima/log.c", "ima/kexec.c"}


def test_a_restored_file_is_newer_than_what_was_built_from_the_patched_one(
    pristine: Path, cache: Cache, series: PatchSeries
) -> None:
    patched = _prepare(_debian(pristine), cache, series.first(1)) / "ima/log.c"
    built = patched.stat().st_mtime_ns
    _prepare(_debian(pristine), cache, PatchSeries())
    assert patched.stat().st_mtime_ns > built


def test_debians_tree_is_linked_and_a_users_is_copied(pristine: Path, cache: Cache) -> None:
    linked = _prepare(_debian(pristine), cache, PatchSeries())
    copied = _prepare(_user(pristine, cache), cache, PatchSeries())
    assert (linked / "ima/log.c").samefile(pristine / "ima/log.c")
    assert not (copied / "ima/log.c").samefile(pristine / "ima/log.c")


def test_edits_of_a_users_tree_arrive_and_leftovers_do_not(
    pristine: Path, cache: Cache, series: PatchSeries
) -> None:
    tree = _prepare(_user(pristine, cache), cache, series.first(1))
    before = _times(tree)
    (pristine / "ima/kexec.c").unlink()
    (pristine / "ima/kexec.c").mkdir()
    (pristine / "ima/kexec.c/now-a-folder.c").write_text("x\n")
    (pristine / "ima/log.o").touch()
    _prepare(_user(pristine, cache), cache, series.first(1))
    after = _times(tree)
    assert set(after) - set(before) == {"ima/kexec.c/now-a-folder.c"}
    assert set(before) - set(after) == {"ima/kexec.c"}
    assert after["ima/log.c"] == before["ima/log.c"]


def test_a_patch_that_does_not_apply_leaves_the_copy_as_it_was(
    pristine: Path, cache: Cache, series: PatchSeries
) -> None:
    tree = _prepare(_debian(pristine), cache, series.first(1))
    before = _content(tree)
    with pytest.raises(UserError, match="does not apply"):
        _prepare(_debian(pristine), cache, PatchSeries(series.patches[:1] * 2))
    assert _content(tree) == before


def test_an_update_that_was_killed_half_way_is_made_good(
    pristine: Path,
    cache: Cache,
    series: PatchSeries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace = worktree._replace

    def die_at_the_new_file(source: Path, target: Path) -> None:
        if target.name == "new.c":
            raise KeyboardInterrupt
        replace(source, target)

    _prepare(_debian(pristine), cache, PatchSeries())
    monkeypatch.setattr(worktree, "_replace", die_at_the_new_file)
    with pytest.raises(KeyboardInterrupt):
        _prepare(_debian(pristine), cache, series.first(2))
    monkeypatch.undo()
    tree = _prepare(_debian(pristine), cache, PatchSeries())
    assert _content(tree) == _content(tmp_path / "state0")


def test_an_edit_while_the_tree_is_copied_is_noticed(pristine: Path, cache: Cache) -> None:
    source = _user(pristine, cache)
    (pristine / "ima/log.c").write_text("edited meanwhile\n")
    with pytest.raises(UserError, match="changed while it was being copied"):
        _prepare(source, cache, PatchSeries())
