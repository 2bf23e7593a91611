# SPDX-License-Identifier: GPL-2.0-only
"""Drives a bisection from its ends to the first bad commit, and goes on where one was interrupted.

git chooses what is tried next. What is known of each commit is kept as it becomes known, and a run
with the same request asks for it first: that is how an interrupted bisection goes on.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from textwrap import shorten

from imakexec.bisect.fate import Fate, Quality, Tally, aim_of, quality_of
from imakexec.bisect.history import History, SeriesHistory, TreeHistory
from imakexec.bisect.judge import Answer, Judge, Memory, Question
from imakexec.deadline import Deadline
from imakexec.errors import UserError, counted
from imakexec.job import Workshop
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.cache import Cache, explained
from imakexec.kernel.repository import own_place
from imakexec.options import Aim
from imakexec.progress import Step, within

_LEFT = re.compile(r"^Bisecting: .*roughly (\d+) steps?", re.MULTILINE)
_FOUND = re.compile(r"^([0-9a-f]{40,64}) is the first bad commit$", re.MULTILINE)
_ONLY_SKIPPED = "There are only 'skip'ped commits left to test."
_COMMIT = re.compile(r"^[0-9a-f]{40,64}$", re.MULTILINE)

_LOCK_SECONDS = 60.0
"""How long to wait for another bisection of the same user to end."""

_KNOWN = "known.json"
_KEPT = 10
"""Bisections of which is kept what is known."""

_WHY = 60
"""Characters of a reason that are shown in a step; the report has all of it."""

_TITLE = 24
"""Characters of a subject line that are shown in a step."""

REPORT = "report.txt"
"""What a bisection has found, as a mail."""

GOOD_SIDE = "good"
BAD_SIDE = "bad"
"""Folders for what the runs of the last good commit and of the first bad one have left."""


@dataclass(frozen=True)
class Tried:
    """One commit that was judged.

    Attributes:
        commit: its full name.
        name: its short name.
        title: its subject.
        quality: in git's words.
        answer: how far its kernel came.
        remembered: whether that was known from an earlier run.
    """

    commit: str
    name: str
    title: str
    quality: Quality
    answer: Answer
    remembered: bool


@dataclass(frozen=True)
class Found:
    """What a bisection came to.

    Attributes:
        what: was bisected.
        question: that was asked of every commit.
        ends: the good end and the bad end.
        steps: the commits in between that were judged, in order.
        suspects: the first bad commit; several if none of them could be judged.
        patch: the first bad commit as a patch; empty if there are several suspects.
        last_good: the one before it that was judged good.
        first_bad: it, or the first after the suspects that was judged bad.
        seconds: all of the runs took, also those of earlier sessions.
        folder: has all that is left.
    """

    what: str
    question: Question
    ends: tuple[Tried, Tried]
    steps: tuple[Tried, ...]
    suspects: tuple[tuple[str, str], ...]
    patch: str
    last_good: Tried
    first_bad: Tried
    seconds: float
    folder: Path

    @property
    def is_exact(self) -> bool:
        """Whether there is a single suspect."""
        return len(self.suspects) == 1

    @property
    def chance_missed(self) -> float:
        """How likely a kernel that fails as often as the first bad one has been called good."""
        answer = self.first_bad.answer
        return Tally(answer.good, answer.bad).chance_missed(self.question.runs)


@dataclass
class Bisection:
    """From a good commit to the first bad one.

    Attributes:
        workshop: builds and packs.
        history: what is bisected.
        question: what is asked; its aim and its known defects come from the ends.
        aim: what is looked for; None for what is wrong with the bad end.
        folder: for what is known, and for what the runs leave; it may be from an earlier session.
    """

    workshop: Workshop
    history: History
    question: Question
    aim: Aim | None
    folder: Path
    _tried: dict[str, Tried] = field(init=False, default_factory=dict)

    def run(self, good: str, bad: str) -> Found:
        """Find the first bad commit.

        Args:
            good: full name of a commit that is good.
            bad: of a later one that is not.

        Raises:
            UserError: they are not what they are said to be, or there is no such test.
            InfraError: the host cannot judge kernels.
        """
        if good == bad:
            raise UserError(
                "the good end and the bad end are the same commit",
                where=self.history.name(good),
                remedy="name two commits, of which the good one is the earlier",
            )
        first, last = self._ends(good, bad)
        steps: list[Tried] = []
        said = self._start(good, bad)
        while (suspects := self._suspects(said)) is None:
            commit = self.history.repository.git("rev-parse", "--verify", "BISECT_HEAD")
            tried = self._try(commit, self.question, self._outlook(steps, said))
            steps.append(tried)
            said = self._tell(tried)
        return self._result((first, last), tuple(steps), suspects)

    def _ends(self, good: str, bad: str) -> tuple[Tried, Tried]:
        """Show that the ends are what they are said to be, and learn from them what to look for.

        Known defects that the good end shows are no fault of any commit, and what it sets out to
        do, all must. How far the bad end comes is what is looked for, if nothing else was said.
        """
        self.question = replace(self.question, aim=self.aim or Aim.SCENARIO)
        first = self._try(good, replace(self.question, known=None), "good end")
        self.question = replace(
            self.question,
            known=frozenset(first.answer.defects),
            features=frozenset(first.answer.features),
        )
        last = self._try(bad, self.question, "bad end")
        aim = self.aim or aim_of(last.answer.fate)
        if aim is None or quality_of(last.answer.fate, aim) is not Quality.BAD:
            raise self._no_end("bad", last)
        if quality_of(first.answer.fate, aim) is not Quality.GOOD:
            raise self._no_end("good", first)
        self.question = replace(self.question, aim=aim)
        for tried in (first, last):  # their kernels need not be run again for this question
            self._memory().keep(f"{tried.name} {self.question.key}", tried.answer)
        return first, replace(last, quality=Quality.BAD)

    def _no_end(self, end: str, tried: Tried) -> UserError:
        rarely = end == "bad" and tried.answer.fate in (Fate.PASSES, Fate.UNDECIDED)
        return UserError(
            f"the {end} end is not {end}: {tried.name} {tried.answer.fate}: {tried.answer.why}",
            where=tried.answer.folder or self.history.what,
            remedy="if it fails only sometimes, give more --runs; else name another --bad"
            if rarely
            else f"name another --{end}, or another --scenario",
        )

    def _outlook(self, steps: Sequence[Tried], said: str) -> str:
        """Which step comes, about how many there are, and how long the rest takes."""
        found = _LEFT.search(said)
        more = int(found[1]) if found else 0
        number = len(steps) + 1
        times = [it.answer.seconds for it in self._tried.values() if not it.answer.like]
        minutes = (more + 1) * median(times) / 60
        return f"step {number} of about {number + more}, {minutes:.0f} min left"

    # git.

    def _start(self, good: str, bad: str) -> str:
        repository = self.history.repository
        repository.tried("bisect", "reset")
        repository.git("update-ref", "--no-deref", "HEAD", bad)  # git bisects from one only
        started = repository.tried("bisect", "start", "--no-checkout", bad, good)
        if started.returncode != 0:
            raise UserError(
                "git cannot bisect between these commits",
                where=f"{self.history.name(good)} .. {self.history.name(bad)}",
                remedy="name a good commit that the bad one comes from",
                tail=started.output,
            )
        return started.output

    def _tell(self, tried: Tried) -> str:
        """Tell git what a commit is, and return what it says."""
        told = self.history.repository.tried("bisect", tried.quality, tried.commit)
        is_over = _FOUND.search(told.output) or _ONLY_SKIPPED in told.output
        if told.returncode != 0 and not is_over:
            raise UserError(
                f"git does not go on after {tried.name} is {tried.quality}",
                where=self.history.what,
                remedy="the fault may be in the good end too, and mended in between: name another",
                tail=told.output,
            )
        return told.output

    def _suspects(self, said: str) -> tuple[str, ...] | None:
        """The first bad commit, or those of which one is; None if it is not over."""
        found = _FOUND.search(said)
        if found is not None:
            return (found[1],)
        if _ONLY_SKIPPED not in said:
            return None
        named = set(_COMMIT.findall(said))
        left = ("refs/bisect/bad", "--not", "--glob=refs/bisect/good-*")
        order = self.history.repository.git("rev-list", "--topo-order", "--reverse", *left)
        return tuple(commit for commit in order.split() if commit in named)

    # Commits.

    def _try(self, commit: str, question: Question, where: str) -> Tried:
        """Judge a commit, unless it is known.

        Args:
            where: it is within the bisection, for people.
        """
        name, title = self.history.name(commit), self.history.title(commit)
        memory = self._memory()
        with self.workshop.progress.step(f"{where}: {name} {title:.{_TITLE}}") as step:
            known = memory.answers.get(f"{name} {question.key}")
            answer = known or self._judge(commit, question, memory, step)
            quality = quality_of(answer.fate, question.aim)
            why = shorten(answer.why, _WHY, placeholder=" ...")
            step.done(f"{quality}{_aside(answer, known is not None)}: {why}")
        tried = Tried(commit, name, title, quality, answer, known is not None)
        self._tried[commit] = tried
        return tried

    def _judge(self, commit: str, question: Question, memory: Memory, step: Step) -> Answer:
        runs = self.folder / "runs" / self.history.name(commit).replace(" ", "-")
        with explained(self.folder):
            runs.mkdir(parents=True, exist_ok=True)
        quiet = Workshop(self.workshop.project, within(step), self.workshop.cache)
        request = self.history.request(commit, step)
        judge = Judge(quiet, question, memory, runs)
        return judge.judge(self.history.name(commit), request, step)

    def _memory(self) -> Memory:
        return Memory(self.folder / _KNOWN, self.history.what)

    # What came out.

    def _result(
        self, ends: tuple[Tried, Tried], steps: tuple[Tried, ...], suspects: Sequence[str]
    ) -> Found:
        repository = self.history.repository
        first_bad = self._tried[repository.git("rev-parse", "refs/bisect/bad")]
        last_good = self._last_good(first_bad.commit, ends[0])
        exact = len(suspects) == 1
        found = Found(
            what=self.history.what,
            question=self.question,
            ends=ends,
            steps=steps,
            suspects=tuple((self.history.name(it), self.history.title(it)) for it in suspects),
            patch=self.history.patch(suspects[0]) if exact else "",
            last_good=last_good,
            first_bad=first_bad,
            seconds=sum(tried.answer.seconds for tried in (*ends, *steps)),
            folder=self.folder,
        )
        self._keep_evidence(found)
        return found

    def _last_good(self, bad: str, good_end: Tried) -> Tried:
        """The good commit that is nearest before the bad one."""
        repository = self.history.repository
        before = repository.git("rev-list", "--topo-order", bad, f"^{good_end.commit}").split()
        for commit in before:
            tried = self._tried.get(commit)
            if tried is not None and tried.quality is Quality.GOOD:
                return tried
        return good_end

    def _keep_evidence(self, found: Found) -> None:
        """Put what the runs on both sides have left beside each other."""
        sides = ((GOOD_SIDE, found.last_good), (BAD_SIDE, found.first_bad))
        with explained(self.folder):
            for side, tried in sides:
                target = self.folder / side
                shutil.rmtree(target, ignore_errors=True)
                left = self._folder_of(tried)
                if left is not None:
                    shutil.copytree(left, target, symlinks=True)
            if found.patch:
                path = self.folder / "first-bad.patch"
                path.write_text(f"{found.patch}\n", encoding="utf-8", errors="surrogateescape")

    def _folder_of(self, tried: Tried) -> Path | None:
        folder = Path(tried.answer.folder)
        return folder if tried.answer.folder and folder.is_dir() else None


def _aside(answer: Answer, remembered: bool) -> str:
    """How a judgement was come by, if not by one run."""
    runs = answer.good + answer.bad
    words = [
        f"{answer.bad} of {counted(runs, 'run')} failed" if runs > 1 else "",
        f"the same kernel as {answer.like}" if answer.like else "",
        "known from an earlier run" if remembered else "",
    ]
    said = ", ".join(filter(None, words))
    return f" ({said})" if said else ""


def state_folder(cache: Cache, history: History, question: Question, ends: Sequence[str]) -> Path:
    """Where a bisection keeps what it knows: a request that is made again finds it again.

    Args:
        ends: the full names of both commits.
    """
    told = [history.identity(commit) for commit in ends]
    asked = json.dumps([history.what, question.key, *told])
    digest = hashlib.sha256(asked.encode()).hexdigest()
    return cache.root / "bisect" / digest[:16]


@dataclass(frozen=True)
class Request:
    """A bisection as it is asked for.

    Attributes:
        tree: a kernel tree with its history; None to bisect a series.
        patches: a folder with a series; None to bisect a tree.
        base: the source that a series is applied to, see `KernelRequest`.
        kernel_tree: a tree of the user's that it is applied to instead.
        good: the good end, as the user names it.
        bad: the bad end; empty for the last commit.
        aim: what is looked for; None for what is wrong with the bad end.
        question: what is asked of every commit.
        fresh: whether to forget what an earlier run with the same request has found.
    """

    tree: Path | None
    patches: Path | None
    base: str
    kernel_tree: Path | None
    good: str
    bad: str
    aim: Aim | None
    question: Question
    fresh: bool = False


def bisect(workshop: Workshop, request: Request) -> Found:
    """Find the first bad commit of a tree or a series.

    Raises:
        UserError: there is no such history, its ends are not what they are said to be, or there is
            no such test.
        InfraError: the host cannot judge kernels.
    """
    cache = workshop.cache
    deadline = Deadline.after(_LOCK_SECONDS)
    of = request.tree or request.patches
    assert of is not None
    place = own_place(cache, of)
    with cache.lock(place.name, deadline, workshop.progress):
        history = _open(workshop, request, of, place)
        good = history.commit(request.good)
        bad = history.commit(request.bad or history.last)
        folder = state_folder(cache, history, request.question, (good, bad))
        if request.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        with explained(cache.root):
            _forget_old(folder.parent, folder)
            folder.mkdir(parents=True, exist_ok=True)
        return Bisection(workshop, history, request.question, request.aim, folder).run(good, bad)


def _forget_old(states: Path, current: Path) -> None:
    """Remove what is known of bisections before the last few."""
    known = [path.parent for path in states.glob(f"*/{_KNOWN}") if path.parent != current]
    known.sort(key=lambda folder: (folder / _KNOWN).stat().st_mtime)
    for folder in known[:-_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


def _open(workshop: Workshop, request: Request, of: Path, place: Path) -> History:
    """The history of a tree or a series, in a repository of our own at that place."""
    kernel = KernelRequest(
        request.question.arch, base=request.base, kernel_tree=request.kernel_tree
    )
    if request.tree is not None:
        with workshop.progress.step(f"history of {of}"):
            return TreeHistory.open(of, place, kernel)
    source = workshop.source(kernel)
    return SeriesHistory.open(of, place, kernel, source.identity)
