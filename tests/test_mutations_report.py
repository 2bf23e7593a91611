# SPDX-License-Identifier: GPL-2.0-only
"""What became of the mutations, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imakexec.report.mutations import document, exit_code, markdown, outcome_lines, summary
from imakexec.series.mutate import Fate, Mutation, Outcome


def outcome(fate: Fate, reason: str = "assert 1 == 2", test: str = "test_storm[0]") -> Outcome:
    what = "What is broken here, said in so many words that the line has to be folded somewhere."
    mutation = Mutation("some-name", Path("some-name.patch"), what, ("test_a.py::test_storm[0]",))
    return Outcome(mutation, fate, test, reason, 61.24, Path("/logs/some-name.log"))


@pytest.mark.parametrize(
    ("fates", "code"),
    [
        ([Fate.KILLED, Fate.KILLED], 0),
        ([Fate.KILLED, Fate.SURVIVED], 1),
        ([Fate.INVALID], 1),
        ([Fate.INFRA, Fate.KILLED], 3),
        ([Fate.INFRA, Fate.SURVIVED], 1),
    ],
)
def test_only_if_all_are_killed_is_all_well(fates: list[Fate], code: int) -> None:
    outcomes = [outcome(fate) for fate in fates]
    assert exit_code(outcomes) == code
    assert document(outcomes, 9)["exit_code"] == code


def test_lines_fit_80_columns_and_name_the_log_of_what_went_wrong() -> None:
    killed = [line.plain for line in outcome_lines(outcome(Fate.KILLED))]
    survived = [line.plain for line in outcome_lines(outcome(Fate.SURVIVED, "1 tests passed", ""))]
    assert killed[0] == "killed   some-name  61 s"
    assert killed[-2:] == ["         by test_storm[0]", "         assert 1 == 2"]
    assert survived[-2:] == ["         1 tests passed", "         log: /logs/some-name.log"]
    lines = [part for text in killed + survived for part in text.splitlines()]
    assert all(len(line) <= 80 for line in lines)


def test_summary_table_and_document() -> None:
    outcomes = [outcome(Fate.KILLED), outcome(Fate.SURVIVED, "2 tests | passed", "")]
    assert summary(outcomes).plain == "2 mutations in 2.0 min: 1 killed, 1 survived"
    rows = markdown(outcomes).splitlines()[2:]
    assert rows[0].startswith("| `some-name` | What is broken here")
    assert rows[0].endswith(" | `test_storm[0]` |")
    assert rows[1].endswith(r" | **survived**: 2 tests \| passed |")
    found = document(outcomes, 40)
    assert (found["exit_code"], found["wanted"]) == (1, 40)
    text = json.dumps(found)
    assert '"fate": "killed", "test": "test_storm[0]", "reason": "assert 1 == 2"' in text
