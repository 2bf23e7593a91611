# SPDX-License-Identifier: GPL-2.0-only
"""A run of the tests as a document: what is written is read, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suite_maker import HOSTILE, PASSED, RUN, defaced, digest, run_of

from imakexec.strict_json import UNPRINTABLE, JsonFault, parse_json
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import (
    Attempt,
    Complaint,
    Found,
    KernelIdentity,
    Step,
    SuiteRun,
    TestResult,
)

TEXTS = st.text(max_size=20).map(lambda text: UNPRINTABLE.sub("?", text))
SECONDS = st.floats(min_value=0, allow_infinity=False) | st.integers(0, 1 << 40).map(float)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
NATURALS = st.integers(0, (1 << 63) - 1)


def several(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=2).map(tuple)


KERNELS = st.builds(
    KernelIdentity,
    subject=TEXTS,
    release=TEXTS,
    banner=TEXTS,
    base=TEXTS,
    patches=several(st.tuples(TEXTS, DIGESTS)),
    key=TEXTS,
    config=DIGESTS,
    arch=TEXTS,
    features=several(TEXTS),
)
TESTS = st.builds(
    TestResult,
    nodeid=TEXTS,
    outcome=st.sampled_from(Outcome),
    why=several(TEXTS),
    ending=TEXTS,
    in_test=st.booleans(),
    started=TEXTS,
    seconds=SECONDS,
    budget=SECONDS,
    scenario=st.none() | NATURALS,
    kernel=st.none() | KERNELS,
    accelerator=TEXTS,
    verdict=TEXTS,
    folder=TEXTS,
    steps=several(st.builds(Step, TEXTS, SECONDS, SECONDS)),
    complaints=several(st.builds(Complaint, TEXTS, NATURALS, TEXTS, TEXTS, TEXTS)),
    findings=several(st.builds(Found, TEXTS, TEXTS, TEXTS)),
    mended=several(TEXTS),
    attempts=several(st.builds(Attempt, TEXTS, SECONDS, TEXTS)),
)
RUNS = st.builds(
    SuiteRun,
    started=TEXTS,
    seconds=SECONDS,
    command=several(TEXTS),
    project=TEXTS,
    host=st.dictionaries(TEXTS, TEXTS, max_size=2),
    tests=several(TESTS),
)

Place = tuple[str | int, ...]


def read(document: object) -> SuiteRun:
    return SuiteRun.read(parse_json(json.dumps(document).encode(), "suite.json"))


def test_what_is_written_is_read() -> None:
    assert read(RUN.to_json()) == RUN
    assert read(run_of().to_json()) == run_of()


@given(RUNS)
def test_any_run_comes_back_as_it_was(run: SuiteRun) -> None:
    assert read(run.to_json()) == run


def test_text_that_could_deface_a_terminal_is_refused_and_any_other_comes_back() -> None:
    for text in HOSTILE:
        run = run_of(defaced(PASSED, text))
        if UNPRINTABLE.search(text):
            with pytest.raises(JsonFault, match="without control characters"):
                read(run.to_json())
        else:
            assert read(run.to_json()) == run


# What is wrong is refused, with its place.


def written() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(RUN.to_json()))
    return document


@dataclass(frozen=True)
class Member:
    """A value in the document, and where it stands."""

    place: Place
    value: object

    @property
    def field(self) -> str:
        """As a complaint names it."""
        steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.place]
        return "".join(steps).removeprefix(".")

    def put(self, value: object) -> dict[str, Any]:
        """The document with another value there."""
        document = written()
        at: Any = document
        for step in self.place[:-1]:
            at = at[step]
        at[self.place[-1]] = value
        return document


def members(value: object, place: Place = ()) -> Iterator[Member]:
    yield Member(place, value)
    if isinstance(value, dict):
        for name, item in value.items():
            yield from members(item, (*place, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from members(item, (*place, index))


MEMBERS = list(members(written()))
FIXED = [
    each for each in MEMBERS if isinstance(each.value, dict) and each.place not in ((), ("host",))
]
"""The objects whose members are known, but for the whole."""


def complaint(document: object) -> JsonFault:
    with pytest.raises(JsonFault) as caught:
        read(document)
    return caught.value


def test_a_value_of_another_type_is_refused_wherever_it_stands() -> None:
    for member in MEMBERS[1:]:
        for other in (7, {}) if isinstance(member.value, str) else ("7", True):
            if type(other) is not type(member.value):
                assert complaint(member.put(other)).field == member.field, other


def test_a_value_that_must_be_there_is_not_null() -> None:
    for member in MEMBERS[1:]:
        if member.place[-1] not in ("scenario", "kernel"):
            assert complaint(member.put(None)).field == member.field


def test_a_member_that_is_missing_or_unknown_is_named() -> None:
    assert len(FIXED) > 10
    for member in FIXED:
        assert isinstance(member.value, dict)
        for name in member.value:
            less = {other: item for other, item in member.value.items() if other != name}
            fault = complaint(member.put(less))
            assert (fault.field, f"member '{name}' is missing" in fault.what) == (
                member.field,
                True,
            )
        fault = complaint(member.put({**member.value, "further": 1}))
        assert (fault.field, "unknown member" in fault.what) == (f"{member.field}.further", True)


def test_the_whole_has_its_members_and_no_others() -> None:
    for name in written():
        document = written()
        del document[name]
        assert f"member '{name}' is missing" in complaint(document).what
    assert complaint({**written(), "further": 1}).field == "further"
    assert complaint([]).what.startswith("an object expected")


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("schema", "imakexec-suite/2", "'imakexec-suite/1' expected"),
        ("schema", "imakexec-evidence/1", "'imakexec-suite/1' expected"),
        ("tests[0].outcome", "PASS", "one of pass, known, skip, fail, infra expected"),
        ("tests[0].outcome", "", "one of pass, known, skip, fail, infra expected"),
        ("tests[0].seconds", -1, "a finite number from 0 expected"),
        ("tests[0].seconds", float("nan"), "a finite number from 0 expected"),
        ("seconds", float("inf"), "a finite number from 0 expected"),
        ("tests[0].scenario", 1.0, "a whole number expected"),
        ("tests[0].scenario", -1, "a whole number expected"),
        ("tests[2].complaints[0].boot", 1 << 63, "a whole number of up to 63 bits expected"),
        ("tests[0].kernel.config", digest("x").upper(), "a SHA-256 expected"),
        ("tests[0].kernel.patches[1]", ["name"], "a name and a SHA-256 expected"),
        ("tests[0].kernel.patches[1]", ["a", "b", "c"], "a name and a SHA-256 expected"),
        ("tests[0].kernel.patches[1][1]", "abc", "a SHA-256 expected"),
        ("tests[0].why", "why", "an array expected"),
    ],
)
def test_a_value_that_cannot_be_is_refused(field: str, value: object, what: str) -> None:
    [member] = [each for each in MEMBERS if each.field == field]
    fault = complaint(member.put(value))
    assert (fault.field, fault.file) == (field, "suite.json")
    assert fault.what.startswith(what)


def test_two_members_of_one_name_are_refused() -> None:
    text = json.dumps(written()).replace('"seconds": 300.5', '"seconds": 1, "seconds": 300.5')
    with pytest.raises(JsonFault, match="two members of the same name"):
        parse_json(text.encode(), "suite.json")
