# SPDX-License-Identifier: GPL-2.0-only
"""What a bisection has found: a few lines for the terminal, and a text that can be mailed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap

from imakexec import __version__
from imakexec.bisect.driver import BAD_SIDE, GOOD_SIDE, Found, Tried
from imakexec.bisect.fate import Quality
from imakexec.bisect.step import Judged
from imakexec.errors import UserError, counted
from imakexec.options import Aim
from imakexec.suite.artefacts import read_runs
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import SuiteRun

WIDTH = 72
"""Columns of a mail."""

_LABEL = 10
_FINDINGS = 10

_ASKED = {
    Aim.CONFIG: "whether the configuration of a guest can be made of the tree",
    Aim.BUILD: "whether the kernel builds",
    Aim.BOOT: "whether the kernel boots",
    Aim.SCENARIO: "whether the kernel stands",
}


def summary(found: Found, report: Path) -> Iterator[str]:
    """The result, for the terminal.

    Args:
        report: the file with the whole text.
    """
    if found.is_exact:
        [(name, title)] = found.suspects
        yield f"first bad  {name} {title}"
    else:
        yield f"first bad  one of {len(found.suspects)}, which could not be judged:"
        yield from (f"           {name} {title}" for name, title in found.suspects)
    yield f"because    {found.first_bad.answer.why}"
    if found.chance_missed > 0:
        yield f"certainty  {_certainty(found)}"
    yield f"steps      {len(found.steps)}, and both ends"
    yield f"evidence   {found.folder / GOOD_SIDE}"
    yield f"           {found.folder / BAD_SIDE}"
    yield f"report     {report}"


def judged_lines(judged: Judged) -> Iterator[str]:
    """What a single step came to, for the terminal and for git's log."""
    answer = judged.answer
    name = f"{judged.commit} " if judged.commit else ""
    yield f"{name}{judged.quality}: {answer.fate}: {answer.why}"
    if answer.like:
        yield f"    the same kernel, byte for byte, as {answer.like}"
    if judged.quality is Quality.BAD and answer.defects:
        options = " ".join(f"--known {defect}" for defect in answer.defects)
        yield f"    if good commits have these known defects too: {options}"
    if answer.folder:
        yield f"    evidence {answer.folder}"


def mail(found: Found) -> str:
    """The whole result as a text of 72 columns, with the first bad commit as a patch at its end.

    Raises:
        InfraError: what the runs have left cannot be read.
    """
    lines = [*_head(found), "", *_question(found), "", *_sides(found), *_faults(found)]
    lines += ["", *_steps(found), "", *_again(found)]
    if found.patch:
        lines += ["", "The commit:", "", *found.patch.splitlines()]
    return "\n".join(lines) + "\n"


def _head(found: Found) -> Iterator[str]:
    if found.is_exact:
        [(name, title)] = found.suspects
        yield f"Subject: [REGRESSION] {name}: {title}"
        yield ""
        yield from _text(
            f'Commit {name} ("{title}") is the first bad one between {found.ends[0].name} and '
            f"{found.ends[1].name} of {found.what}."
        )
        return
    yield f"Subject: [REGRESSION] between {found.last_good.name} and {found.first_bad.name}"
    yield ""
    yield from _text(
        f"One of these {counted(len(found.suspects), 'commit')} of {found.what} is the first bad "
        "one. Those between the last good one and the last of them cannot be judged."
    )
    yield ""
    yield from (f"  {name} {title}"[:WIDTH] for name, title in found.suspects)


def _question(found: Found) -> Iterator[str]:
    question = found.question
    asked = _ASKED[question.aim]
    if question.aim is Aim.SCENARIO:
        asked += f" these tests of imakexec {__version__}: {question.selection}"
    yield from _text(
        f"Each commit was asked {asked}. It ran in QEMU with a TPM, {question.arch.name}. "
        f"A good one has passed {counted(question.runs, 'run')}."
    )
    if question.known:
        listed = ", ".join(sorted(question.known))
        yield from _text(f"Known defects that the good end has too are no fault: {listed}.")
    if found.chance_missed > 0:
        yield from _text(_certainty(found) + ".")


def _certainty(found: Found) -> str:
    answer = found.first_bad.answer
    return (
        f"{answer.bad} of {counted(answer.good + answer.bad, 'run')} failed; a kernel that fails "
        f"as often is called good with a probability of {found.chance_missed:.2%}"
    )


def _sides(found: Found) -> Iterator[str]:
    """The last good commit and the first bad one beside each other."""
    sides = (found.last_good, found.first_bad)
    runs = [_run_of(found.folder / side) for side in (GOOD_SIDE, BAD_SIDE)]
    yield from _row("", [Quality.GOOD, Quality.BAD])
    yield from _row("commit", [side.name for side in sides])
    yield from _row("subject", [side.title for side in sides])
    yield from _row("kernel", [side.answer.fate for side in sides])
    yield from _row("runs", [f"{it.answer.good} good, {it.answer.bad} bad" for it in sides])
    for name in dict.fromkeys(test.nodeid for run in runs if run for test in run.tests):
        yield from _text(name.rpartition("/")[2])
        yield from _row("", [_outcome(run, name) for run in runs])


def _outcome(run: SuiteRun | None, nodeid: str) -> str:
    for test in run.tests if run else ():
        if test.nodeid == nodeid:
            verdict = f", {test.verdict}" if test.verdict else ""
            return f"{test.outcome}{verdict}"
    return "not run"


def _run_of(folder: Path) -> SuiteRun | None:
    """What the tests on one side came to; None where none were run."""
    if not folder.is_dir():
        return None
    try:
        return read_runs(folder)
    except UserError:
        return None  # a boot alone leaves no results


def _row(label: str, columns: Sequence[str]) -> Iterator[str]:
    """Two columns beside each other, each folded."""
    width = (WIDTH - _LABEL - 2) // 2
    cells = [wrap(text, width) or [""] for text in columns]
    for number in range(max(map(len, cells))):
        shown = [cell[number] if number < len(cell) else "" for cell in cells]
        head = label if number == 0 else ""
        yield f"{head:{_LABEL}}{shown[0]:{width}}  {shown[1]}".rstrip()


def _faults(found: Found) -> Iterator[str]:
    run = _run_of(found.folder / BAD_SIDE)
    faults = [found.first_bad.answer.why]
    for test in run.tests if run else ():
        if test.outcome in (Outcome.FAIL, Outcome.KNOWN):
            faults += test.why
            faults += [f"{said.name}: {said.line}" for said in test.complaints if not said.because]
    yield ""
    yield "What was found in the bad one:"
    yield ""
    shown = list(dict.fromkeys(faults))
    for fault in shown[:_FINDINGS]:
        yield from wrap(fault, WIDTH, initial_indent="- ", subsequent_indent="  ")
    if len(shown) > _FINDINGS:
        yield f"- and {len(shown) - _FINDINGS} more"


def _steps(found: Found) -> Iterator[str]:
    yield f"All commits that were tried, in {found.seconds / 60:.1f} minutes:"
    yield ""
    for tried in (*found.ends, *found.steps):
        yield f"  {tried.quality:5}{tried.name:13} {tried.answer.seconds:6.1f} s  {tried.title}"[
            :WIDTH
        ]
        yield from wrap(_reason(tried), WIDTH, initial_indent=" " * 7, subsequent_indent=" " * 7)


def _reason(tried: Tried) -> str:
    if tried.answer.like:
        return f"not run: the same kernel, byte for byte, as {tried.answer.like}"
    return tried.answer.why


def _again(found: Found) -> Iterator[str]:
    yield "To see it again, in a tree of that commit:"
    yield ""
    words = [f'"{scenario.name}"' for scenario in found.question.selection.scenarios]
    words += [f"'{test}'" for test in found.question.selection.tests]
    yield f"  run_qemu.sh bisect-step --runs {found.question.runs} \\"
    for number, word in enumerate(words, 1):
        yield f"      --scenario {word}" + (" \\" if number < len(words) else "")
    yield ""
    yield from _text("which exits with 0 for good, 1 for bad and 125 for not known.")


def _text(text: str) -> list[str]:
    return wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
