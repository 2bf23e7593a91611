# SPDX-License-Identifier: GPL-2.0-only
"""One step of a `git bisect run`: the kernel in a tree, judged in git's exit codes.

0 is good, 1 is bad, 125 cannot be judged, and from 128 on git stops (git-bisect(1), "Bisect run").
`imakexec.__main__` sees to it that no other code comes out, whatever happens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from imakexec.bisect.fate import Quality, quality_of
from imakexec.bisect.judge import Answer, Judge, Memory, Question
from imakexec.deadline import Deadline
from imakexec.job import Workshop, new_run_folder
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.repository import Repository, short

EXIT_CODES = {Quality.GOOD: 0, Quality.BAD: 1, Quality.SKIP: 125}

_LOCK_SECONDS = 3600.0


@dataclass(frozen=True)
class Judged:
    """What a step came to.

    Attributes:
        quality: in git's words.
        answer: how far the kernel came.
        commit: its short name; empty where there is no repository.
        folder: what the runs left.
    """

    quality: Quality
    answer: Answer
    commit: str
    folder: Path


def judge_tree(workshop: Workshop, tree: Path, question: Question) -> Judged:
    """Judge the kernel in a tree as it is.

    Within one bisection a commit whose kernels have the same bytes as an earlier one's is not run
    again, and that the host is good is shown once.

    Raises:
        UserError: it is no kernel tree, or there is no such test.
        InfraError: a known good kernel fails on this host, too.
    """
    repository = Repository(tree)
    commit = repository.head()
    runs = new_run_folder(workshop.cache)
    request = KernelRequest(question.arch, kernel_tree=tree)
    with workshop.cache.lock("bisect-step", Deadline.after(_LOCK_SECONDS), workshop.progress):
        judge = Judge(workshop, question, _memory(workshop, repository), runs)
        with workshop.progress.step(f"kernel of {short(commit) or tree}") as step:
            # A tree can be edited between two steps of a bisection.
            content = workshop.source(request).identity
            answer = judge.judge(f"{short(commit)}@{content}", request, step)
            step.done(answer.fate)
    return Judged(quality_of(answer.fate, question.aim), answer, short(commit), runs)


def _memory(workshop: Workshop, repository: Repository) -> Memory:
    """What earlier steps of the same bisection have found; nothing where there is none going on."""
    if not repository.exists:
        return Memory(None, "")
    start = repository.file("BISECT_START")
    try:
        identity = f"{start.stat().st_mtime_ns} {start.read_text(encoding='utf-8')}"
    except FileNotFoundError:
        return Memory(None, "")
    name = hashlib.sha256(str(start.resolve()).encode()).hexdigest()
    return Memory(workshop.cache.root / "bisect" / "steps" / f"{name}.json", identity)
