# SPDX-License-Identifier: GPL-2.0-only
"""The page of a run: all that it must show, whatever the artefacts hold, and nothing that acts."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from genuine import VECTORS
from html_tree import Node, parse_page
from hypothesis import given, settings
from hypothesis import strategies as st

from imakexec.attest import judge_folder
from imakexec.errors import InfraError
from imakexec.project import find_project
from imakexec.report.html import shown, write_html
from imakexec.report.section import anchors, moment, period
from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import Attempt, Complaint, KernelIdentity, Step, SuiteRun, TestResult

BANNER = "Linux version 6.1.176 (u@h) (gcc 12.2.0) #1 SMP"
KERNEL = KernelIdentity(
    subject="patched",
    release="6.1.176",
    banner=BANNER,
    base="linux-source-6.1 6.1.176-1",
    patches=(("0001-ima.patch", "a" * 64), ("0002-ima.patch", "b" * 64)),
    key="c" * 64,
    config="d" * 64,
    arch="x86_64",
)
PANIC = "Kernel panic - not syncing: Attempted to kill init!"
HOSTILE = "<script>alert(1)</script>\"' onload=x &amp; \x1b[31m\u202e\x00\ud800"
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def a_test(name: str, outcome: Outcome = Outcome.PASS, **more: Any) -> TestResult:
    values = {"scenario": 3, "kernel": KERNEL, "seconds": 9.0, "budget": 16.0, **more}
    return TestResult(f"harness/test_x.py::test_{name}[patched]", outcome, **values)


def a_run(*tests: TestResult, **more: Any) -> SuiteRun:
    values: dict[str, Any] = {
        "started": "2026-12-01T02:00:00Z",
        "seconds": 754.0,
        "command": ("harness", "-k", "gap or chain"),
        "project": "82f0e1d0-dirty",
        "host": {"qemu": "7.2.22"},
    }
    return SuiteRun(tests=tests, **{**values, **more})


@cache
def _document(vector: str) -> str:
    return json.dumps({**judge_folder(VECTORS / vector).to_json(), "evidence": "evidence"})


def judgement_of(vector: str) -> dict[str, Any]:
    """A judgement of its own, to be changed at will."""
    document: dict[str, Any] = json.loads(_document(vector))
    return document


def put(folder: Path, name: str, judgement: object = None, console: bytes | None = None) -> str:
    """Make the artefacts of a test."""
    own = folder / name
    (own / "evidence").mkdir(parents=True)
    if judgement is not None:
        text = judgement if isinstance(judgement, bytes) else json.dumps(judgement).encode()
        (own / "judgement.json").write_bytes(text)
    if console is not None:
        (own / "evidence" / "console.log").write_bytes(console)
    return name


def page_of(folder: Path, *tests: TestResult, **more: Any) -> Node:
    return parse_page(write_html(a_run(*tests, **more), folder).read_text("utf-8"))


def section(page: Node, name: str) -> Node:
    return page.one("details", "test", id=f"t-test-{name}-patched")


def stamped(*lines: str) -> bytes:
    return "".join(f"{at:11.6f} [{at:12.6f}] {line}\n" for at, line in enumerate(lines)).encode()


@pytest.fixture
def everything(tmp_path: Path) -> Node:
    """A page with all outcomes and all artefacts."""
    red = put(tmp_path, "red", judgement_of("truncated"), stamped(BANNER, "x", PANIC))
    for name in ("events.jsonl", "reproduce.sh", "evidence/qemu.cmd", "evidence/a b#?.txt"):
        (tmp_path / red / name).write_text("x")
    (tmp_path / red / "diagnosis").mkdir()
    (tmp_path / red / "diagnosis" / "registers.txt").write_text("RIP")
    put(tmp_path / red, "first", console=b"swtpm\n")
    (tmp_path / "results.json").write_text("{}")
    return page_of(
        tmp_path,
        a_test("good", folder=put(tmp_path, "good", judgement_of("main-job"), stamped(BANNER))),
        a_test(
            "red",
            Outcome.FAIL,
            why=("O1 replay: lost\nreally", "O2 prefix: lost"),
            ending="kernel panic",
            started="2026-12-01T02:00:09.5Z",
            seconds=21.5,
            accelerator="tcg",
            host="lab2",
            verdict="TRUNCATED",
            folder=red,
            steps=(Step("boot", 0.5, 2.0), Step("execute", 3.0, 4.0)),
            complaints=(
                Complaint("panic", 1, PANIC, "panic:do_exit", ""),
                Complaint("warning", 0, "WARNING: x", "", "K7: it is known"),
            ),
            attempts=(Attempt("swtpm died", 3.0, f"{red}/first"),),
        ),
        a_test("broken", Outcome.INFRA, why=("KeyError: 1",), in_test=True, scenario=12),
        a_test("host", Outcome.INFRA, why=("QEMU died",), scenario=2),
        a_test("known", Outcome.KNOWN, why=("A1: it is lost",), scenario=1),
        a_test("absent", Outcome.SKIP, why=("needs arm64",), scenario=None, kernel=None, seconds=0),
    )


# The whole page.


def test_a_page_stands_alone(everything: Node, tmp_path: Path) -> None:
    text = (tmp_path / "index.html").read_text("utf-8")
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert not everything.all("img") + everything.all("link") + everything.all("iframe")
    assert not [node for node in everything if "src" in node.attributes]
    policy = everything.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert policy.startswith("default-src 'none'")


def test_only_the_page_s_own_script_runs(everything: Node) -> None:
    [script] = everything.one("script").children
    assert isinstance(script, str)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = everything.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [name for node in everything for name in node.attributes if name.startswith("on")]


def test_every_link_leads_somewhere(everything: Node, tmp_path: Path) -> None:
    ids = [node.attributes["id"] for node in everything if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    hrefs = [node.attributes["href"] for node in everything if "href" in node.attributes]
    inside = {href[1:] for href in hrefs if href.startswith("#")}
    assert inside <= set(ids)
    files = {unquote_to_bytes(href) for href in hrefs if not href.startswith("#")}
    assert all(
        (os.fsencode(tmp_path) + b"/" + name) and (tmp_path / os.fsdecode(name)).is_file()
        for name in files
    )
    every = {os.fsencode(path.relative_to(tmp_path)) for path in _files(tmp_path)}
    assert files == every - {b"index.html"}
    labels = [
        node.attributes["aria-labelledby"]
        for node in everything
        if "aria-labelledby" in node.attributes
    ]
    assert set(labels) <= set(ids)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def test_the_red_ones_come_first_each_with_its_reason(everything: Node) -> None:
    assert everything.one("h1").text == "3 of 6 tests are red"
    items = [item.words for item in everything.one("ol", "red-list").all("li")]
    assert [item.split()[0] for item in items] == ["fail", "infra", "infra"]
    assert items[0] == (
        "fail 03 overflow boundary sweep: test_red[patched] on patched 6.1.176 "
        "O1 replay: lost; really"
    )
    order = [node.attributes["data-outcome"] for node in everything.all("details", "test")]
    assert order == ["fail", "infra", "infra", "known", "pass", "skip"]
    opened = [
        node.attributes["data-outcome"] for node in everything.all("details", "test", open="")
    ]
    assert opened == order[:3]


def test_a_run_without_anything_red_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, a_test("good"))
    assert page.one("h1").text == "Nothing is red"
    assert not page.all("ol", "red-list")
    assert page_of(tmp_path).one("h1").text == "No tests were run"


def test_counts_of_all_outcomes(everything: Node) -> None:
    counts = [item.words for item in everything.one("ul", "counts").all("li")]
    assert counts == ["fail 1", "infra 2", "known 1", "pass 1", "skip 1"]


def test_what_was_run(everything: Node) -> None:
    text = everything.one("section", aria_labelledby="run").words
    for part in (
        "linux-source-6.1 6.1.176-1",
        BANNER,
        "0002-ima.patch",
        "pytest harness -k 'gap or chain'",
        "82f0e1d0, with files changed since",
        "2026-12-01 02:00:00 UTC",
        "12 min 34 s",
        "tcg (1 test)",
        "qemu 7.2.22",
    ):
        assert part in text


def test_the_index_has_a_row_for_each_test_by_scenario(everything: Node) -> None:
    rows = everything.one("table", id="index").one("tbody").all("tr")
    assert [row.attributes["data-outcome"] for row in rows] == [
        *("known", "infra", "pass", "fail", "infra", "skip")
    ]
    assert rows[3].words == (
        "fail 03 overflow boundary sweep test_red[patched] O1 replay: lost; really "
        "patched 6.1.176 TRUNCATED 21.5 s over its budget ! of 16.0 s"
    )
    assert CATALOGUE[3].name in rows[3].words
    for row in rows:
        anchor = row.attributes["data-test"]
        assert row.one("a").attributes["href"] == f"#{anchor}"
        assert everything.one(id=anchor).attributes["data-of"] == anchor


def test_the_filter_knows_the_outcomes_that_there_are(everything: Node) -> None:
    bar = everything.one("form", id="filter")
    assert "hidden" in bar.attributes, "without JavaScript nothing can be filtered"
    values = [button.attributes["value"] for button in bar.all("button")]
    assert values == ["", "fail", "infra", "known", "pass", "skip"]
    assert bar.one("input").attributes["aria-label"]


def test_a_section_says_all_about_its_test(everything: Node) -> None:
    red = section(everything, "red")
    for part in (
        "The kernel did not do what it must.",
        "its machine ended: kernel panic",
        "accelerator tcg",
        "host lab2",
        "started 2026-12-01 02:00:09 UTC",
        "took 21.5 s of 16.0 s, over its budget",
        "harness/test_x.py::test_red[patched]",
        "O2 prefix: lost",
        "TRUNCATED (segment_full, snapshot after)",
        "Boot the machine cold; give the list more room at the next kexec load.",
        f"panic boot 1 {PANIC} panic:do_exit allowed: no",
        "WARNING: x allowed: K7: it is known",
        "1 boot 2.00 s",
        "2 execute 4.00 s",
        "swtpm died (3.0 s)",
    ):
        assert part in red.words
    bars = [bar for bar in red.one("svg", "steps").all("rect") if "x" in bar.attributes]
    assert [bar.attributes["x"] for bar in bars] == ["2.33%", "13.95%"]
    assert "The test itself is broken" in section(everything, "broken").words
    assert "The host failed" in section(everything, "host").words


def test_the_files_of_an_attempt_are_shown_with_it_alone(everything: Node) -> None:
    first, own = section(everything, "red").all("dl", "files")
    assert [link.text for link in first.all("a")] == ["console.log"]
    assert "red/first/evidence/console.log" not in [
        link.attributes["href"] for link in own.all("a")
    ]


# The picture.


def picture_of(tmp_path: Path, judgement: dict[str, Any]) -> Node:
    page = page_of(tmp_path, a_test("x", folder=put(tmp_path, "x", judgement)))
    return section(page, "x")


def marks(picture: Node, lane: str) -> list[str]:
    plot = picture.one("svg", "plot")
    return [" ".join(mark.classes) for mark in plot.all("g", data_mark=lane)]


def test_the_picture_of_a_list_in_sync(tmp_path: Path) -> None:
    shown = picture_of(tmp_path, judgement_of("two-kexecs"))
    plot = shown.one("svg", "plot")
    bands = [band.one("title").text for band in plot.one("g", "bands").all("g")]
    assert bands == [
        "boot 0, cold: 24 records, Linux 6.1.176",
        "boot 1, kexec: 23 records, Linux 6.1.176",
        "boot 2, kexec: 5 records, Linux 6.1.176",
    ]
    assert marks(shown, "boot_aggregate") == ["good"] * 3
    assert [bar.attributes["width"] for bar in plot.all("rect", "bar", "mark")] == ["7"] * 7
    assert marks(shown, "kexec_load") == marks(shown, "kexec_execute") == ["good"] * 2
    assert set(marks(shown, "quotes")) == {"good"}
    assert not plot.all("rect", "lost") + plot.all("rect", "doubted")
    assert not marks(shown, "doubt") + marks(shown, "violations")
    gauges = [figure.words for figure in shown.one("div", "gauges").all("figcaption")]
    assert gauges == [
        "Hand-over before record 24: 2,903 of 45,056 bytes used, 6.4 %; markers complete",
        "Hand-over before record 47: 5,678 of 49,152 bytes used, 11.6 %; markers complete",
    ]
    assert [bank.words for bank in shown.one("table", "pcr").all("th", scope="row")] == [
        *("sha1", "sha256")
    ]
    assert "match after record 52 of 52" in shown.one("table", "pcr").words


def test_the_picture_of_a_truncated_list(tmp_path: Path) -> None:
    shown = picture_of(tmp_path, judgement_of("truncated"))
    plot = shown.one("svg", "plot")
    assert marks(shown, "kexec_load") == ["good"]
    assert marks(shown, "kexec_execute") == ["absent"]
    assert "absent" in plot.words
    assert marks(shown, "quotes") == ["good", "good", "bad"]
    assert plot.one("text", "lost").text == "22 lost"
    assert plot.one("g", data_mark="doubt").words == "first record in doubt: 77"
    assert len(plot.all("rect", "doubted")) == 2
    bar = shown.one("svg", "gauge")
    assert bar.one("rect", "lost").attributes["x"] == bar.one("line", "end").attributes["x1"]
    assert shown.one("div", "gauges").one("figcaption").words == (
        "Hand-over before record 77: 8,099 of 8,192 bytes used, 98.9 %; kexec_load is there, "
        "kexec_execute is absent; full: one more record of 100 bytes found no room; "
        "22 records that were seen before it are missing after it"
    )
    assert shown.one("tr", "first").words.startswith("in doubt 77 ima-ng")
    assert shown.one("table", "pcr").words.count("no match") == 2


def test_what_a_kernel_without_markers_lacks_is_no_alarm(tmp_path: Path) -> None:
    shown = picture_of(tmp_path, judgement_of("plain-base"))
    assert marks(shown, "kexec_load") == marks(shown, "kexec_execute") == ["none"]
    bar = shown.one("svg", "gauge")
    assert bar.all("rect", "frame", "unknown")
    assert not bar.all("line", "end")
    assert "size of the segment unknown" in shown.one("div", "gauges").words


def test_a_boot_aggregate_that_does_not_match(tmp_path: Path) -> None:
    judgement = judgement_of("main-job")
    first, second = (row for row in judgement["timeline"]["rows"] if row["boot_aggregate"])
    first["boot_aggregate"]["state"] = "differs"
    second["boot_aggregate"]["state"] = "zero"
    assert marks(picture_of(tmp_path, judgement), "boot_aggregate") == ["bad", "open"]


def test_a_marker_that_is_rejected_says_why(tmp_path: Path) -> None:
    judgement = judgement_of("main-job")
    [marker] = [
        row["marker"] for row in judgement["timeline"]["rows"] if row["kind"] == "kexec_load"
    ]
    marker.update(accepted=False, flaws=["it counts too many"])
    shown = picture_of(tmp_path, judgement)
    assert marks(shown, "kexec_load") == ["bad"]
    assert "rejected: it counts too many" in shown.one("svg", "plot").words


def test_violations_are_marked(tmp_path: Path) -> None:
    shown = picture_of(tmp_path, judgement_of("violations"))
    assert marks(shown, "violations") == ["violation"] * 2
    assert "1 violation: record 6" in shown.one("svg", "plot").words


def test_records_lost_before_the_list_begins_are_shown(tmp_path: Path) -> None:
    judgement = judgement_of("truncated")
    timeline = judgement["timeline"]
    timeline["rows"] = [
        {**row, "boot": 0, "index": row["index"] - 77}
        for row in timeline["rows"]
        if row["boot"] == 1
    ]
    timeline["boots"] = [{**timeline["boots"][1], "number": 0, "index": 0}]
    timeline["handovers"][0].update(index=0, lost=99, full=False)
    judgement["first_divergence"] = 0
    shown = picture_of(tmp_path, judgement)
    bands = [band.classes for band in shown.one("svg", "plot").one("g", "bands").all("g")]
    assert bands == [{"before"}, {"kexec"}]
    assert marks(shown, "kexec_execute") == ["absent"]
    assert "99 records that were seen before it are missing after it, though there was room" in (
        shown.words
    )


def test_a_longer_run_of_records_is_a_longer_bar(tmp_path: Path) -> None:
    plot = picture_of(tmp_path, judgement_of("truncated")).one("svg", "plot")
    runs = [float(bar.attributes["width"][:-1]) for bar in plot.all("rect", "run")]
    assert runs[1] > 2 * runs[0] > 4


def test_all_parts_of_a_picture_are_beside_each_other(tmp_path: Path) -> None:
    plot = picture_of(tmp_path, judgement_of("two-kexecs")).one("svg", "plot")
    edge = 0.0
    for band in plot.one("g", "bands").all("rect"):
        assert float(band.attributes["x"][:-1]) == pytest.approx(edge, abs=0.02)
        edge += float(band.attributes["width"][:-1])
    assert edge == pytest.approx(100, abs=0.1)


def test_a_picture_is_bounded_however_long_the_list(tmp_path: Path) -> None:
    judgement = judgement_of("two-kexecs")
    timeline = judgement["timeline"]
    [aggregate, run, load, more, execute] = timeline["rows"][:5]
    [handover] = timeline["handovers"][:1]
    rows: list[dict[str, Any]] = []
    handovers = []
    for boot in range(2000):
        for row in (aggregate, *((run, load) * (3000 if boot == 1 else 1)), more, execute):
            index = rows[-1]["index"] + rows[-1]["count"] if rows else 0
            rows.append({**row, "index": index, "boot": boot})
        handovers.append({**handover, "index": rows[-1]["index"] + 1, "lost": boot % 3})
    records = rows[-1]["index"] + 1
    timeline.update(
        rows=rows,
        handovers=handovers,
        boots=[{**timeline["boots"][1], "number": boot} for boot in range(2000)],
    )
    judgement.update(records=records, violations=list(range(records)), first_divergence=5000)
    judgement["snapshots"] *= 1000
    write_html(a_run(a_test("x", folder=put(tmp_path, "x", judgement))), tmp_path)
    page = parse_page((tmp_path / "index.html").read_text("utf-8"))
    plot = page.one("svg", "plot")
    assert records > 100_000
    assert len(list(plot)) < 5000
    assert "boots" in plot.words
    assert "not drawn" in plot.words
    assert len(marks(page, "violations")) <= 101
    assert len(page.all("svg", "gauge")) == 24
    assert "and 1976 more, in judgement.json" in page.words
    assert (tmp_path / "index.html").stat().st_size < 1_000_000


# What is damaged, missing or elsewhere.


def _other_schema() -> dict[str, Any]:
    return {**judgement_of("main-job"), "schema": "imakexec-judgement/2"}


def _without(member: str) -> dict[str, Any]:
    judgement = judgement_of("main-job")
    del judgement[member]
    return judgement


def _wrong_row() -> dict[str, Any]:
    judgement = judgement_of("main-job")
    judgement["timeline"]["rows"][1]["size"] = "large"
    return judgement


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b"", "not JSON"),
        (b'{"schema"', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "an object expected"),
        (_other_schema, "'imakexec-judgement/1' expected"),
        (lambda: _without("schema"), "member 'schema' is missing"),
        (lambda: _without("timeline"), "member 'timeline' is missing"),
        (_wrong_row, "timeline.rows[1].size: a whole number expected"),
    ],
)
def test_a_damaged_judgement_costs_its_picture_alone(
    tmp_path: Path, damaged: bytes | Callable[[], object], said: str
) -> None:
    content = damaged() if callable(damaged) else damaged
    page = page_of(
        tmp_path,
        a_test("x", folder=put(tmp_path, "x", content)),
        a_test("y", folder=put(tmp_path, "y", judgement_of("main-job"))),
    )
    bad = section(page, "x")
    assert "The judgement cannot be read, so there is no picture" in bad.words
    assert said in bad.one("p", "note").words
    assert not bad.all("svg", "plot")
    assert section(page, "y").all("svg", "plot")


def test_evidence_without_a_list_has_no_picture(tmp_path: Path) -> None:
    judgement = {**judgement_of("main-job"), "timeline": None, "banks": [], "records": None}
    shown = picture_of(tmp_path, judgement)
    assert "No list was judged, so there is no picture." in shown.words
    assert not shown.all("svg", "plot") + shown.all("table", "pcr")


_WRONG: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 2**63, 0.5, float("nan"), "", HOSTILE, [], {}, [0], [[]], {"index": 1}]
)
_NUMBERS = st.one_of(st.integers(0, 200), st.sampled_from([2**40, 2**63 - 1]))
_NONSENSE: dict[type, st.SearchStrategy[Any]] = {
    int: _NUMBERS,
    float: st.floats(0, 1e300),
    bool: st.booleans(),
    str: st.sampled_from(["", "kexec_load", "kexec_execute", "boot_aggregate", "absent", HOSTILE]),
    type(None): _NUMBERS,
}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_judgement_of_wrong_types_costs_the_page(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    judgement = judgement_of("truncated")
    places = list(_places(judgement))
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(_WRONG)
    _show(tmp_path_factory.mktemp("run"), judgement)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_judgement_that_makes_no_sense_costs_the_page(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    judgement = judgement_of("truncated")
    places = [
        (holder, key)
        for holder, key in _places(judgement)
        if type(holder[key]) in _NONSENSE and key != "schema"
    ]
    for holder, key in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=8)):
        holder[key] = data.draw(_NONSENSE[type(holder[key])])
    _show(tmp_path_factory.mktemp("run"), judgement)


def _show(folder: Path, judgement: object) -> None:
    page = page_of(folder, a_test("x", Outcome.FAIL, folder=put(folder, "x", judgement)))
    assert section(page, "x").all("a")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Everything in a document that can be replaced."""
    keys: Any = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def test_no_artefact_need_be_there(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        a_test("x", Outcome.FAIL, folder=""),
        a_test("y", Outcome.FAIL, folder="gone"),
        a_test("z", Outcome.FAIL, folder=put(tmp_path, "z")),
    )
    for name in ("x", "y", "z"):
        assert not section(page, name).all("a")
        assert not section(page, name).all("svg")
    assert not page.one("footer").all("a")


@pytest.mark.parametrize(
    "name", ["../outside", "/etc", "a/../../outside", "\0", "x" * 5000, "\ud800"]
)
def test_nothing_outside_the_folder_is_shown(tmp_path: Path, name: str) -> None:
    put(tmp_path, "outside", judgement_of("main-job"), stamped(PANIC))
    (tmp_path / "run" / "a").mkdir(parents=True)
    page = page_of(tmp_path / "run", a_test("x", Outcome.FAIL, folder=name))
    assert not section(page, "x").all("a")
    assert PANIC not in page.text


def test_no_link_is_followed_out_of_the_folder(tmp_path: Path) -> None:
    put(tmp_path, "outside", judgement_of("main-job"), stamped(PANIC))
    run = tmp_path / "run"
    put(run, "x")
    for name in ("judgement.json", "evidence/console.log"):
        (run / "x" / name).symlink_to(tmp_path / "outside" / name)
    (run / "x" / "more").symlink_to(tmp_path / "outside")
    shown = section(page_of(run, a_test("x", Outcome.FAIL, folder="x")), "x")
    assert PANIC not in shown.text
    assert not shown.all("a") + shown.all("svg")


def test_what_would_make_a_reader_wait_is_not_read(tmp_path: Path) -> None:
    folder = put(tmp_path, "x")
    os.mkfifo(tmp_path / folder / "judgement.json")
    os.mkfifo(tmp_path / folder / "evidence" / "console.log")
    assert not section(page_of(tmp_path, a_test("x", Outcome.FAIL, folder="x")), "x").all("a")


def test_many_files_are_not_all_linked(tmp_path: Path) -> None:
    folder = put(tmp_path, "x")
    for number in range(450):
        (tmp_path / folder / f"{number}").touch()
    shown = section(page_of(tmp_path, a_test("x", folder=folder)), "x")
    assert len(shown.all("a")) == 400
    assert "There are more files than these." in shown.words


def test_a_page_that_cannot_be_written_is_trouble_of_the_host(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="the report cannot be written"):
        write_html(a_run(), tmp_path / "gone")


# Hostile text.


def _spoiled(value: Any) -> Any:
    """The same with hostile text in every string."""
    if isinstance(value, Outcome):
        return value
    if isinstance(value, str):
        return f"{value}{HOSTILE}"
    if is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in fields(value) if item.name != "folder"]
        return replace(value, **{name: _spoiled(getattr(value, name)) for name in names})
    if isinstance(value, tuple | list):
        return type(value)(map(_spoiled, value))
    if isinstance(value, dict):
        return {_spoiled(key): _spoiled(item) for key, item in value.items()}
    return value


def _with_hostile_texts(value: Any) -> Any:
    """The same judgement with hostile text in each string that is not its schema's name."""
    if isinstance(value, dict):
        return {
            key: item if key == "schema" else _with_hostile_texts(item)
            for key, item in value.items()
        }
    return (
        [_with_hostile_texts(item) for item in value]
        if isinstance(value, list)
        else (f"{value}{HOSTILE}" if isinstance(value, str) else value)
    )


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = put(
        tmp_path,
        "<script>x",
        _with_hostile_texts(judgement_of("truncated")),
        stamped(BANNER, PANIC) + HOSTILE.encode("utf-8", "surrogatepass") + b"\xff\xfe\r\n",
    )
    names = [b'"><img src=x onerror=y>', b"javascript:alert(1)", b"\xff\x1b[31m\n", b"a?b#c%41"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path / folder) + b"/" + name)).touch()
    test = a_test(
        "x",
        Outcome.FAIL,
        why=("why",),
        ending="ending",
        started="started",
        accelerator="kvm",
        verdict="TRUNCATED",
        steps=(Step("boot", 0, 1),),
        complaints=(Complaint("panic", 1, PANIC, "a:b", "because"),),
        attempts=(Attempt("why", 1, ""),),
        folder=folder,
    )
    known = a_test("y", Outcome.KNOWN, why=("known",), folder="")
    run: SuiteRun = _spoiled(a_run(test, known))
    content = write_html(run, tmp_path).read_bytes()
    text = content.decode("utf-8")
    assert not _UNSEEN.search(text)
    page = parse_page(text)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    for node in page:
        assert not [name for name in node.attributes if name.startswith("on")]
        assert not node.attributes.get("href", "").lower().startswith("javascript")
    links = {
        unquote_to_bytes(link.attributes["href"]).rpartition(b"/")[2]
        for link in page.all("dl", "files")[0].all("a")
    }
    assert links == {*names, b"judgement.json", b"console.log"}
    assert r"\x1b[31m\u202e\x00\ud800" in page.text
    red = page.all("details", "test", "fail")[0]
    for part in ("why", "ending", "started", "kvm", "TRUNCATED", "boot", "because"):
        assert f"{part}<script>alert(1)</script>" in red.text


def test_what_cannot_be_seen_is_shown_as_an_escape() -> None:
    assert shown("a\tb\nc") == "a\tb\nc"
    assert shown("\x1b\x7f\x9b\u2028\u202e\ud800") == r"\x1b\x7f\x9b\u2028\u202e\ud800"
    assert shown("Grüße, 世界") == "Grüße, 世界"


# The console.


def console_of(tmp_path: Path, content: bytes, **more: Any) -> Node:
    test = a_test("x", Outcome.FAIL, folder=put(tmp_path, "x", None, content), **more)
    return section(page_of(tmp_path, test), "x")


def test_the_console_of_a_green_test_is_only_linked(tmp_path: Path) -> None:
    folder = put(tmp_path, "x", None, stamped(BANNER))
    shown = section(page_of(tmp_path, a_test("x", folder=folder)), "x")
    assert not shown.all("div", "console")
    assert BANNER not in shown.text
    assert shown.one("a").attributes["href"] == "x/evidence/console.log"


def test_a_console_of_2000_lines_is_shown_whole(tmp_path: Path) -> None:
    content = stamped(BANNER, *(f"line {number}" for number in range(2, 2001)))
    shown = console_of(tmp_path, content)
    assert content.decode().strip("\n") == shown.one("pre").text.strip("\n")
    assert "left out" not in shown.words


def test_of_a_long_console_what_matters_is_shown(tmp_path: Path) -> None:
    lines = [f"line {number};" for number in range(1, 6001)]
    lines[2999] = "WARNING: at line 3000;"
    shown = console_of(tmp_path, stamped(*lines))
    text = shown.one("div", "console").text
    numbers = {int(number) for number in re.findall(r"line (\d+);", text)}
    kept = {*range(1, 201), *range(2985, 3041), *range(5601, 6001)}
    assert numbers == kept
    assert f"6000 lines, {6000 - len(kept)} of them left out here; all of it" in shown.words
    gaps = [int(gap.words.split()[0]) for gap in shown.all("p", "left-out")]
    assert gaps == [2784, 2560]


@pytest.mark.parametrize("line", ["WARNING: x", BANNER, PANIC])
def test_no_console_makes_a_long_page(tmp_path: Path, line: str) -> None:
    shown = console_of(tmp_path, stamped(*[line] * 20_000))
    assert 600 <= shown.one("div", "console").text.count(f"] {line}") <= 2100
    assert len([item for jumps in shown.all("ul", "jumps") for item in jumps.all("li")]) <= 50


def test_lines_against_the_kernel_are_marked_in_words_and_can_be_jumped_to(tmp_path: Path) -> None:
    shown = console_of(
        tmp_path,
        stamped(BANNER, "WARNING: CPU: 0", "fine", "ima: is sad", PANIC),
        complaints=(
            Complaint("IMA message", 0, "ima: is sad", "", ""),
            Complaint("warning", 0, "WARNING: CPU: 0", "", "K7"),
        ),
    )
    assert [(mark.classes, mark.one("i").text) for mark in shown.all("mark")] == [
        ({"suspicious"}, "suspicious: warning"),
        ({"suspicious"}, "suspicious: IMA message"),
        ({"fatal"}, "fatal: panic"),
    ]
    assert [item.words for item in shown.one("ul", "jumps").all("li")] == [
        "line 2: suspicious, warning allowed: K7",
        "line 4: suspicious, IMA message",
        "line 5: fatal, panic",
    ]


def test_a_kernel_that_prints_no_times_is_understood(tmp_path: Path) -> None:
    shown = console_of(tmp_path, f"   0.500000 {BANNER}\n   1.500000 {PANIC}\n".encode())
    assert shown.one("mark", "fatal")
    assert shown.one("h5")


def test_each_kernel_of_a_console_has_its_heading(tmp_path: Path) -> None:
    other = BANNER.replace("176", "192")
    shown = console_of(tmp_path, stamped("firmware", BANNER, "a", "b", other, "c"))
    assert [heading.words for heading in shown.all("h5")] == [
        f"boot 0: {BANNER}",
        f"boot 1: {other}",
    ]
    assert len(shown.all("pre")) == 3


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    shown = console_of(tmp_path, b"x" * 1_000_000 + b"\nlast")
    assert len(shown.one("pre").text) < 5000
    assert "2 lines;" in shown.words
    assert "last" in shown.one("pre").text


def test_a_console_of_one_boot_alone_is_better_than_none(tmp_path: Path) -> None:
    folder = put(tmp_path, "x")
    (tmp_path / folder / "evidence" / "console-0.log").write_bytes(stamped(BANNER, PANIC))
    shown = section(page_of(tmp_path, a_test("x", Outcome.FAIL, folder=folder)), "x")
    assert shown.one("mark", "fatal").words.startswith("!! 1.000000 [ 1.000000] Kernel panic")


# Small things.


def test_the_templates_are_installed_with_the_package() -> None:
    project = find_project()
    settings = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["setuptools"]
    report = project / "harness" / "imakexec" / "report"
    [pattern] = settings["package-data"]["imakexec.report"]
    installed = set(report.glob(pattern))
    assert {path.name for path in installed} >= {"page.html", "page.css", "page.js"}
    assert installed == {
        path for path in report.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }


def test_tests_of_one_name_have_anchors_of_their_own() -> None:
    names = list(anchors(["a.py::test_x[1]", "b.py::test_x[1]", "b.py::test_x_1", "", "::é"]))
    assert names == ["t-test-x-1", "t-test-x-1--2", "t-test-x-1--3", "t-", "t---2"]


def test_times_are_written_for_people() -> None:
    assert moment("2026-12-01T02:00:09.123Z") == "2026-12-01 02:00:09 UTC"
    assert moment("yesterday") == "yesterday"
    assert [period(value) for value in (0.04, 99.9, 100, 754, 3600, 7384)] == [
        *("0.0 s", "99.9 s", "1 min 40 s", "12 min 34 s", "1 h 00 min", "2 h 03 min")
    ]
