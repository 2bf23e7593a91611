# SPDX-License-Identifier: GPL-2.0-only
"""A quilt series is read, cut, and applied without fuzz."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_trees import make_patch, make_tree

from imakexec.deadline import Deadline
from imakexec.errors import UserError
from imakexec.kernel.series import PatchSeries


@pytest.fixture
def series(tmp_path: Path) -> PatchSeries:
    """Two patches: one changes a file, one removes it and adds another."""
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    make_tree(one)
    shutil.copytree(one, two)
    log = two / "ima/log.c"
    log.write_text(log.read_text().replace("line 5\n", "line five\n"))
    shutil.copytree(two, three)
    (three / "ima/log.c").unlink()
    (three / "ima/new.c").write_text("new\n")
    make_patch(tmp_path / "patches", "0001-change.patch", one, two)
    make_patch(tmp_path / "patches", "0002-replace.patch", two, three)
    return PatchSeries.read(tmp_path / "patches")


def _deadline() -> Deadline:
    return Deadline.after(20)


def test_order_comments_and_strip_option(tmp_path: Path) -> None:
    (tmp_path / "b.patch").write_text("b")
    (tmp_path / "a.patch").write_text("a")
    (tmp_path / "series").write_text("# comment\nb.patch # why\n\na.patch -p1\n")
    assert PatchSeries.read(tmp_path).names == ("b.patch", "a.patch")


@pytest.mark.parametrize(
    ("listing", "message"),
    [("gone.patch\n", "does not exist: gone.patch"), ("a.patch -p0\n", "not supported: -p0")],
)
def test_a_broken_series_is_named(tmp_path: Path, listing: str, message: str) -> None:
    (tmp_path / "a.patch").touch()
    (tmp_path / "series").write_text(listing)
    with pytest.raises(UserError, match=message) as caught:
        PatchSeries.read(tmp_path)
    assert caught.value.where == str(tmp_path / "series")


def test_further_patches_come_last(series: PatchSeries, tmp_path: Path) -> None:
    (tmp_path / "break.patch").write_text("x")
    assert series.and_then([tmp_path / "break.patch"]).names == (*series.names, "break.patch")
    with pytest.raises(UserError, match=r"no such patch: gone\.patch") as caught:
        series.and_then([tmp_path / "gone.patch"])
    assert caught.value.where == str(tmp_path / "gone.patch")


def test_a_missing_series_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no patch series"):
        PatchSeries.read(tmp_path)


def test_first_cuts_and_refuses_what_is_not_there(series: PatchSeries) -> None:
    assert series.first(0).names == ()
    assert series.first(1).names == ("0001-change.patch",)
    assert series.first(2) == series
    for n in (-1, 3):
        with pytest.raises(UserError, match="the series has 2 patches"):
            series.first(n)


def test_touched_paths(series: PatchSeries) -> None:
    assert series.first(1).touched == {"ima/log.c"}
    assert series.touched == {"ima/log.c", "ima/new.c"}
    assert PatchSeries().touched == frozenset()


def test_the_digest_follows_the_content(series: PatchSeries) -> None:
    first, second = series.patches
    assert first.digest != second.digest
    first.path.write_text(first.text + "\n")
    assert PatchSeries.read(first.path.parent).patches[0].digest != first.digest


def test_apply(series: PatchSeries, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    series.apply(tree, "tree", _deadline())
    assert (tree / "ima/new.c").read_text() == "new\n"
    assert not (tree / "ima/log.c").exists()


def test_apply_is_blind_to_a_repository_around_the_tree(
    series: PatchSeries, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    tree = make_tree(tmp_path / "tree")
    series.first(1).apply(tree, "tree", _deadline())
    assert "line five" in (tree / "ima/log.c").read_text()


def test_a_patch_that_does_not_apply_names_patch_file_hunk_and_tree(
    series: PatchSeries, tmp_path: Path
) -> None:
    tree = make_tree(tmp_path / "tree")
    log = tree / "ima/log.c"
    log.write_text(log.read_text().replace("line 3\n", "other context\n"))
    with pytest.raises(UserError) as caught:
        series.apply(tree, "linux-x 1.2", _deadline())
    assert caught.value.what == "the patch 0001-change.patch does not apply to linux-x 1.2"
    assert "file ima/log.c, hunk @@ -2,7 +2,7 @@" in caught.value.where
    assert "patch does not apply" in caught.value.tail


def test_git_apply_breaks_a_hard_link_instead_of_writing_through(
    series: PatchSeries, tmp_path: Path
) -> None:
    pristine = make_tree(tmp_path / "pristine")
    linked = tmp_path / "linked"
    subprocess.run(["cp", "-al", str(pristine), str(linked)], check=True)
    series.first(1).apply(linked, "linked", _deadline())
    assert "line 5\n" in (pristine / "ima/log.c").read_text()
    assert "line five\n" in (linked / "ima/log.c").read_text()
