# SPDX-License-Identifier: GPL-2.0-only
"""A bisection finds the first bad commit, whatever git meets on the way, and forgets nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from imakexec.arch import X86_64
from imakexec.bisect import driver
from imakexec.bisect.driver import Found, Request, bisect
from imakexec.bisect.fate import Fate, Quality
from imakexec.bisect.judge import Answer, Judge, Memory, Question
from imakexec.errors import UserError
from imakexec.job import Workshop
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.cache import Cache
from imakexec.kernel.repository import user_of
from imakexec.kernel.source import SourceTree
from imakexec.options import Aim
from imakexec.progress import SilentProgress, Step
from imakexec.report.bisect import WIDTH, mail, summary
from imakexec.suite.runner import BuiltKernel, Selection, options_for, subject_of

GAP = Selection.parse(["gap events"])
QUESTION = Question(GAP, 1, Aim.SCENARIO, frozenset(), X86_64, None)
KERNEL = KernelRequest(X86_64)
COMMITS = 12


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with commits "0" to "11", each of which writes its number to a file."""
    folder = tmp_path / "linux"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for number in range(COMMITS):
        (folder / "number").write_text(f"{number}\n")
        git(folder, "add", "number")
        git(folder, "commit", "--quiet", "--message", f"{number}")
    return folder


@dataclass
class World:
    """Where kernels have the fates that a test gives them.

    Attributes:
        fates: by number of the commit; the others pass.
        like: commits whose kernels are those of another one.
        judged: the numbers that were judged, in order.
        stop_after: how many can be judged before the user interrupts.
    """

    workshop: Workshop
    fates: dict[int, Fate] = field(default_factory=dict)
    like: Mapping[int, str] = field(default_factory=dict)
    defects: tuple[str, ...] = ()
    judged: list[int] = field(default_factory=list)
    stop_after: int = 1000

    def judge(self, request: KernelRequest) -> Answer:
        assert request.kernel_tree is not None or request.further is not None
        number = (
            int((request.kernel_tree / "number").read_text())
            if request.kernel_tree is not None
            else len(request.further)
        )
        if len(self.judged) >= self.stop_after:
            raise KeyboardInterrupt
        self.judged.append(number)
        fate = self.fates.get(number, Fate.PASSES)
        return Answer(
            fate,
            f"number {number} {fate}",
            good=1,
            like=self.like.get(number, ""),
            seconds=60.0,
            defects=self.defects,
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    workshop = Workshop(tmp_path, SilentProgress(), Cache(tmp_path / "cache"))
    made = World(workshop)

    def judge(self: Judge, commit: str, request: KernelRequest, _step: Step) -> Answer:
        answer = made.judge(request)
        self.memory.keep(f"{commit} {self.question.key}", answer)
        return answer

    monkeypatch.setattr(Judge, "judge", judge)
    return made


def fails_from(first: int, fate: Fate = Fate.FAILS) -> dict[int, Fate]:
    return dict.fromkeys(range(first, COMMITS), fate)


def of_tree(tree: Path, **more: object) -> Request:
    made = Request(
        tree=tree,
        patches=None,
        base="linux-6.1",
        kernel_tree=None,
        good=f"HEAD~{COMMITS - 1}",
        bad="",
        aim=None,
        question=replace(QUESTION, known=None),
    )
    return replace(made, **more)  # type: ignore[arg-type]  # names, by test


def suspects(found: Found) -> list[str]:
    return [title for _, title in found.suspects]


@pytest.mark.parametrize("first", range(1, COMMITS))
def test_each_commit_can_be_the_first_bad_one(world: World, tree: Path, first: int) -> None:
    world.fates = fails_from(first)
    found = bisect(world.workshop, of_tree(tree))
    assert suspects(found) == [str(first)]
    assert (found.last_good.title, found.first_bad.title) == (str(first - 1), str(first))
    assert len(found.steps) <= 4
    assert found.patch.endswith(f"\n+{first}")
    assert (found.folder / "first-bad.patch").read_text().startswith("From ")


def test_the_users_repository_is_not_touched(world: World, tree: Path) -> None:
    world.fates = fails_from(5)
    (tree / "number").write_text("an edit that is not committed")
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    bisect(world.workshop, of_tree(tree))
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


def test_what_cannot_be_judged_is_left_out(world: World, tree: Path) -> None:
    world.fates = fails_from(9) | dict.fromkeys((4, 5, 6), Fate.NOT_BUILT)
    found = bisect(world.workshop, of_tree(tree))
    assert suspects(found) == ["9"]
    assert Quality.SKIP in {step.quality for step in found.steps}


def test_all_suspects_are_named_in_order_where_none_can_be_judged(world: World, tree: Path) -> None:
    world.fates = fails_from(7) | dict.fromkeys((4, 5, 6), Fate.UNDECIDED)
    found = bisect(world.workshop, of_tree(tree))
    assert suspects(found) == ["4", "5", "6", "7"]
    assert (found.last_good.title, found.first_bad.title) == ("3", "7")
    assert found.patch == ""


@pytest.mark.parametrize(
    ("fate", "aim"),
    [
        (Fate.NOT_CONFIGURED, Aim.CONFIG),
        (Fate.NOT_BUILT, Aim.BUILD),
        (Fate.NOT_BOOTED, Aim.BOOT),
        (Fate.FAILS, Aim.SCENARIO),
    ],
)
def test_what_is_wrong_with_the_bad_end_is_looked_for(
    world: World, tree: Path, fate: Fate, aim: Aim
) -> None:
    world.fates = fails_from(8, fate)
    if aim is not Aim.CONFIG:
        world.fates |= dict.fromkeys((3, 4), Fate.NOT_CONFIGURED)  # another one, mended at 5
    found = bisect(world.workshop, of_tree(tree))
    assert (suspects(found), found.question.aim) == (["8"], aim)


def test_a_fault_can_be_asked_for_that_is_not_the_first_of_the_bad_end(
    world: World, tree: Path
) -> None:
    world.fates = fails_from(3) | fails_from(8, Fate.NOT_BOOTED)
    assert suspects(bisect(world.workshop, of_tree(tree))) == ["8"]
    assert suspects(bisect(world.workshop, of_tree(tree, bad="HEAD~5"))) == ["3"]


@pytest.mark.parametrize(
    ("fates", "said"),
    [
        ({}, "the bad end is not bad"),
        ({COMMITS - 1: Fate.UNDECIDED}, "the bad end is not bad"),
        (fails_from(0), "the good end is not good"),
        ({0: Fate.NOT_BUILT, COMMITS - 1: Fate.FAILS}, "the good end is not good"),
    ],
)
def test_ends_that_are_not_what_they_are_said_to_be(
    world: World, tree: Path, fates: dict[int, Fate], said: str
) -> None:
    world.fates = fates
    with pytest.raises(UserError, match=said):
        bisect(world.workshop, of_tree(tree))
    assert set(world.judged) <= {0, COMMITS - 1}


def test_known_defects_of_the_good_end_are_no_fault(world: World, tree: Path) -> None:
    world.fates, world.defects = fails_from(5), ("C4",)
    assert bisect(world.workshop, of_tree(tree)).question.known == frozenset({"C4"})


def test_an_interrupted_bisection_goes_on(world: World, tree: Path) -> None:
    world.fates = fails_from(5)
    whole = bisect(world.workshop, of_tree(tree))
    order, world.judged = world.judged, []
    for _ in order[1:]:
        world.stop_after = len(world.judged) + 1
        with pytest.raises(KeyboardInterrupt):
            bisect(world.workshop, of_tree(tree, fresh=not world.judged))
    world.stop_after = 1000
    found = bisect(world.workshop, of_tree(tree))
    assert world.judged == order, "each commit was judged once"
    assert all(step.remembered for step in found.steps[:-1])
    assert suspects(found) == suspects(whole)


def test_another_request_remembers_nothing(world: World, tree: Path) -> None:
    world.fates = fails_from(5)
    bisect(world.workshop, of_tree(tree))
    count = len(world.judged)
    bisect(world.workshop, of_tree(tree, question=replace(QUESTION, runs=3, known=None)))
    assert len(world.judged) == 2 * count
    bisect(world.workshop, of_tree(tree, fresh=True))
    assert len(world.judged) == 3 * count


def test_only_the_last_bisections_are_kept(
    world: World, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_KEPT", 2)
    world.fates = fails_from(5)
    folders = [
        bisect(
            world.workshop, of_tree(tree, question=replace(QUESTION, runs=runs, known=None))
        ).folder
        for runs in range(1, 6)
    ]
    assert [folder.exists() for folder in folders] == [False, False, True, True, True]


@pytest.mark.parametrize("revision", ["nowhere", "--all", "HEAD~100", ""])
def test_a_commit_that_does_not_exist(world: World, tree: Path, revision: str) -> None:
    with pytest.raises(UserError, match="there is no commit"):
        bisect(world.workshop, of_tree(tree, good=revision))


def test_a_good_end_that_is_on_another_branch(world: World, tree: Path) -> None:
    git(tree, "checkout", "--quiet", "-b", "other", "HEAD~6")
    git(tree, "commit", "--quiet", "--allow-empty", "--message", "side")
    world.fates = fails_from(8)
    found = bisect(world.workshop, of_tree(tree, good="other", bad="@{-1}"))
    assert suspects(found) == ["8"]


def test_a_fault_that_the_common_commit_has_too(world: World, tree: Path) -> None:
    git(tree, "checkout", "--quiet", "-b", "other", "HEAD~6")
    (tree / "number").write_text("0\n")
    git(tree, "commit", "--quiet", "--all", "--message", "mended")
    world.fates = fails_from(1)
    with pytest.raises(UserError, match="git does not go on"):
        bisect(world.workshop, of_tree(tree, good="other", bad="@{-1}"))


def test_a_folder_without_history(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no git repository"):
        bisect(world.workshop, of_tree(tmp_path))


# Series.


@pytest.fixture
def series(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = SourceTree(tmp_path, "base=1", "6.1", "base", "base 1")
    monkeypatch.setattr(world.workshop, "source", lambda _request: source)
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "0000-cover-letter.patch").write_text("Subject: [PATCH 0/11] of numbers\n")
    for number in range(1, COMMITS):
        text = f"--- a/{number}\n+++ b/{number}\n@@ -0,0 +1 @@\n+{number}\n"
        (folder / f"{number:04}-number.patch").write_text(text)
    return folder


def of_series(series: Path, **more: object) -> Request:
    return replace(of_tree(series), tree=None, patches=series, good="0", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [1, 6, COMMITS - 1])
def test_a_series_is_bisected_without_a_tree(world: World, series: Path, first: int) -> None:
    world.fates = fails_from(first)
    found = bisect(world.workshop, of_series(series))
    assert suspects(found) == [f"{first:04}-number.patch"]
    assert found.patch.endswith(f"\n+{first}")


def test_an_edited_patch_is_another_series(world: World, series: Path) -> None:
    world.fates = fails_from(5)
    bisect(world.workshop, of_series(series))
    count = len(world.judged)
    path = series / "0003-number.patch"
    path.write_text(path.read_text() + "\n")
    bisect(world.workshop, of_series(series))
    assert len(world.judged) == 2 * count


@pytest.mark.parametrize("number", ["12", "-1", "x"])
def test_a_patch_that_does_not_exist(world: World, series: Path, number: str) -> None:
    with pytest.raises(UserError, match="the series has 11"):
        bisect(world.workshop, of_series(series, bad=number))


def test_a_folder_without_patches(world: World, series: Path) -> None:
    for path in series.glob("*-number.patch"):
        path.unlink()
    with pytest.raises(UserError, match="there are no patches"):
        bisect(world.workshop, of_series(series))


# What is said.


@pytest.fixture(params=["exact", "several", "of a build", "rare"])
def found(request: pytest.FixtureRequest, world: World, tree: Path) -> Found:
    world.fates = fails_from(7, Fate.NOT_BUILT if request.param == "of a build" else Fate.FAILS)
    if request.param == "several":
        world.fates |= dict.fromkeys((5, 6), Fate.UNDECIDED)
    result = bisect(world.workshop, of_tree(tree))
    if request.param == "rare":
        answer = replace(result.first_bad.answer, good=4, bad=2)
        result = replace(result, first_bad=replace(result.first_bad, answer=answer))
    return result


def test_the_report_can_be_mailed(found: Found) -> None:
    text = mail(found)
    head, _, patch = text.partition("\nThe commit:\n")
    subject, _, body = head.partition("\n")
    assert subject.startswith("Subject: [REGRESSION] ")
    # A path that is too long stays whole, to be copied.
    assert [line for line in body.splitlines() if len(line) > WIDTH and " " in line.strip()] == []
    assert bool(patch) == found.is_exact
    for tried in (*found.ends, *found.steps):
        assert f" {tried.name} " in body
    assert all(title in head for _, title in found.suspects)
    assert ("66.67%" in body) == (found.first_bad.answer.bad == 2)


def test_the_summary_names_the_suspects(found: Found, tmp_path: Path) -> None:
    said = "\n".join(summary(found, tmp_path / "report.txt"))
    assert all(f"{name} {title}" in said for name, title in found.suspects)
    assert "report.txt" in said


# What the tests are asked for.


@pytest.mark.parametrize("name", ["2", "double load", "Double Load", "double_load"])
def test_a_scenario_has_several_names(name: str) -> None:
    assert str(Selection.parse([name])) == "double load"


def test_scenarios_and_tests_become_arguments_of_pytest() -> None:
    both = Selection.parse(["gap events", "7"])
    assert both.arguments("given") == [
        "-k",
        "(gap_events or unload_and_legacy_replace) and given",
        "harness",
    ]
    failed = "harness/test_gap_events.py::test_gap_events[patched-5]"
    assert Selection.parse([failed]).arguments("given") == [
        "-m",
        "",
        "harness/test_gap_events.py::test_gap_events[given-5]",
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [(["gap event"], "no scenario 'gap event'"), (["1", "test_a.py::test_b"], "cannot be mixed")],
)
def test_names_that_mean_nothing(names: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Selection.parse(names)


def test_a_kernel_without_further_patches_is_the_plain_one() -> None:
    assert subject_of(KERNEL) == "plain"
    assert subject_of(replace(KERNEL, further=(Path("/a"),))) == "given"
    given = replace(KERNEL, kernel_tree=Path("/linux"))
    assert subject_of(given) == "given"
    assert "--kernel-tree=/linux" in options_for(given, None)


# What is remembered.


def test_answers_outlive_the_process_and_not_the_bisection(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    answer = Answer(
        Fate.FAILS, "lost", 1, 2, ("A1",), ("markers",), "/runs/1", ("aa", "bb"), "", 3.5
    )
    variant = replace(BuiltKernel.of(KERNEL), symbols=("CONFIG_A=y",))
    memory = Memory(path, "one")
    memory.keep("abc key", answer)
    memory.keep_variants([variant, variant])
    memory.trust_host()
    again = Memory(path, "one")
    assert (again.answers, again.variants) == ({"abc key": answer}, [variant])
    assert again.host_is_good
    other = Memory(path, "another")
    assert (other.answers, other.variants, other.host_is_good) == ({}, [], False)


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        (Answer(Fate.FAILS, "", kernels=("aa",)), True),
        (Answer(Fate.FAILS, "", kernels=("aa", "bb")), False),
        (Answer(Fate.UNDECIDED, "", kernels=("aa",)), False),
        (Answer(Fate.FAILS, "", kernels=("aa",), like="other"), False),
    ],
)
def test_a_kernel_is_not_run_again_that_was_run_as_another_commit(
    answer: Answer, same: bool
) -> None:
    memory = Memory(None, "")
    memory.keep("patch 3 key", answer)
    expected = ("patch 3", answer) if same else None
    assert memory.same_kernels("key", ("aa",)) == expected
    assert memory.same_kernels("other key", ("aa",)) is None


def test_who_has_tested_is_told_by_the_users_settings(tree: Path) -> None:
    git(tree, "config", "user.name", "A Tester")
    git(tree, "config", "user.email", "a@example.org")
    assert user_of(tree) == "A Tester <a@example.org>"


def test_nobody_is_made_up(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    assert user_of(tree) == ""
