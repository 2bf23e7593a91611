# SPDX-License-Identifier: GPL-2.0-only
"""A baseline notices what a kernel does, and does not take the noise of a host for a change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from suite_maker import PASSED
from test_review_report import FAIL, INFRA, LOST, PASS

from imakexec.errors import UserError
from imakexec.report.baseline import baseline_lines, comparison_lines
from imakexec.review.baseline import Baseline, compare, ratios_of, read_baseline
from imakexec.suite.result import Step, SuiteRun

NOISE = (0.98, 0.99, 1.0, 1.0, 1.01, 1.02)
KEPT = Baseline(
    kernel="Linux version 6.1.176",
    tests="the default set",
    endings={"a[*]": PASS, "b[*]": LOST},
    sizes={"records": 50, "segment": 45056},
    costs={"load": 0.5, "execute": 0.1},
    counted=True,
    boot_seconds=0.9,
    ratios={"boot": NOISE, "load": tuple(2 * time for time in NOISE)},
)


def test_the_same_is_no_change() -> None:
    found = compare(KEPT, KEPT)
    assert not found.is_behavioural
    assert found.drifts == ()
    assert list(comparison_lines(found)) == ["the kernel does what it did"]


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (replace(KEPT, endings={"a[*]": FAIL, "b[*]": LOST}), "worse: a[*]"),
        (replace(KEPT, endings={"a[*]": PASS, "b[*]": PASS}), "better: b[*]: known (A1)"),
        (replace(KEPT, endings={"a[*]": PASS}), "not run any more: b[*]"),
        (replace(KEPT, sizes={"records": 50, "segment": 49152}), "segment: 45056 -> 49152"),
        (replace(KEPT, endings={"a[*]": INFRA, "b[*]": LOST}), "other: a[*]: pass"),
    ],
)
def test_another_behaviour_is_a_change(now: Baseline, words: str) -> None:
    found = compare(KEPT, now)
    assert found.is_behavioural
    assert words in "\n".join(comparison_lines(found))
    assert found.is_known == (now.endings["a[*]"] is not INFRA)


@pytest.mark.parametrize(
    ("factor", "drifts"), [(1.0, 0), (1.05, 0), (1.08, 0), (1.2, 1), (0.8, 1), (3.0, 1)]
)
def test_a_drift_is_what_is_beyond_the_noise(factor: float, drifts: int) -> None:
    now = replace(KEPT, ratios={**KEPT.ratios, "boot": tuple(factor * time for time in NOISE)})
    found = compare(KEPT, now)
    assert len(found.drifts) == drifts
    assert not found.is_behavioural, "it is reported, and no failure"


def test_a_noisy_step_may_take_anything_within_its_noise() -> None:
    noisy = replace(KEPT, ratios={"boot": (1.0, 2.0, 3.0, 4.0, 5.0)})
    assert compare(noisy, replace(noisy, ratios={"boot": (5.0,) * 5})).drifts == ()


def test_too_few_times_say_nothing() -> None:
    few = replace(KEPT, ratios={"boot": (1.0, 1.0, 1.0)})
    assert compare(few, replace(few, ratios={"boot": (9.0, 9.0, 9.0)})).drifts == ()


def test_instructions_are_compared_and_single_times_are_not() -> None:
    now = replace(KEPT, costs={"load": 0.7, "execute": 0.1})
    [drift] = compare(KEPT, now).drifts
    assert (drift.what, round(drift.part, 2)) == ("load, instructions", 0.4)
    assert compare(replace(KEPT, counted=False), now).drifts == ()


def test_times_are_in_units_of_the_hosts_speed() -> None:
    steps = (Step("boot", 0.0, 2.0), Step("snapshot end", 2.0, 1.0), Step("snapshot a", 3.0, 3.0))
    run = SuiteRun("", 0.0, (), "", {}, (replace(PASSED, steps=steps),))
    assert ratios_of(run, 2.0) == {"boot": (1.0,), "snapshot": (0.5, 1.5)}


def test_it_is_kept_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(KEPT.to_json()))
    assert read_baseline(path) == KEPT
    assert any("45056" in line for line in baseline_lines(KEPT))


@pytest.mark.parametrize(
    "content",
    [None, "", "[]", '{"schema": "imakexec-baseline/2"}', json.dumps({**KEPT.to_json(), "x": 1})],
)
def test_what_is_no_baseline(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "baseline.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="baseline") as error:
        read_baseline(path)
    assert str(path) in error.value.where
