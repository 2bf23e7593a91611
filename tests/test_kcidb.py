# SPDX-License-Identifier: GPL-2.0-only
"""The KCIDB report of a run: valid, and true by what the schema says that its words mean."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kcidb_io.schema import LATEST
from suite_maker import (
    DEBUG,
    FAILED,
    GIVEN,
    HOST_FAILED,
    HOSTILE,
    KNOWN,
    PASSED,
    PATCHED,
    PLAIN,
    RUN,
    SKIPPED,
    TEST_FAILED,
    UNBOUND,
    UNBOUND_FAILED,
    defaced,
    digest,
    run_of,
)

from imakexec.errors import InfraError, UserError
from imakexec.report.kcidb import kcidb_document, without_kernel
from imakexec.suite.defects import DEFECTS
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import KernelIdentity, SuiteRun, TestResult

Object = dict[str, Any]
LISTS = ("checkouts", "builds", "tests", "issues", "incidents")


def report(run: SuiteRun, folder: Path | None = None, origin: str = "ours") -> Object:
    found = kcidb_document(run, origin=origin, folder=folder)
    document: Object = json.loads(json.dumps(found))
    assert document == found
    LATEST.validate_exactly(document)
    return document


def reported(test: TestResult, folder: Path | None = None) -> Object:
    [found] = report(run_of(test), folder)["tests"]
    assert isinstance(found, dict)
    return found


def of_kernel(kernel: KernelIdentity) -> tuple[Object, Object]:
    """The checkout and the build."""
    document = report(run_of(replace(PASSED, kernel=kernel)))
    return document["checkouts"][0], document["builds"][0]


# The whole.


def test_it_is_of_the_newest_schema_and_survives_the_library() -> None:
    document = report(RUN)
    assert document["version"] == {"major": LATEST.major, "minor": LATEST.minor}
    assert LATEST.is_compatible_exactly(document)
    assert LATEST.dedup(document) == document
    assert not LATEST.has_metadata(document)


def test_every_object_is_of_the_origin_and_has_an_id_of_its_own() -> None:
    document = report(RUN)
    for name in LISTS:
        ids = [item["id"] for item in document[name]]
        assert len(ids) == len(set(ids)) > 1
        assert all(each.startswith("ours:imakexec-") for each in ids)
        assert {item["origin"] for item in document[name]} == {"ours"}


def test_what_is_referred_to_is_there() -> None:
    document = report(RUN)
    ids = {name: {item["id"] for item in document[name]} for name in LISTS}
    assert {build["checkout_id"] for build in document["builds"]} == ids["checkouts"]
    assert {test["build_id"] for test in document["tests"]} == ids["builds"]
    assert {incident["issue_id"] for incident in document["incidents"]} == ids["issues"]
    assert {incident["test_id"] for incident in document["incidents"]} <= ids["tests"]
    assert all(incident["present"] is True for incident in document["incidents"])


def test_a_run_without_tests_is_a_report_without_objects() -> None:
    document = report(run_of())
    assert all(document[name] == [] for name in LISTS)


@pytest.mark.parametrize("origin", ["", "Ours", "a-b", "a:b", "a b", "ours\n"])
def test_an_origin_that_is_none_is_the_users_mistake(origin: str) -> None:
    with pytest.raises(UserError, match="not a name of a CI system"):
        kcidb_document(RUN, origin=origin, folder=None)


def test_a_report_that_is_not_valid_is_never_returned() -> None:
    with pytest.raises(InfraError) as caught:
        kcidb_document(run_of(replace(PASSED, started="now")), origin="ours", folder=None)
    assert caught.value.where == "$.tests[0].start_time"
    assert str(LATEST) in caught.value.what
    assert "'now' is not a 'date-time'" in caught.value.what


# Ids.


def ids_of(document: Object, name: str) -> list[str]:
    return [item["id"] for item in document[name]]


def test_the_same_run_has_the_same_ids_and_another_run_other_tests() -> None:
    first, again = report(RUN), report(SuiteRun(**vars(RUN)))
    assert first == again
    for other in (
        replace(RUN, started="2026-11-25T14:45:20Z"),
        replace(RUN, host={"system": "another"}),
    ):
        later = report(other)
        for name in ("checkouts", "builds", "issues"):
            assert later[name] == first[name]
        for name in ("tests", "incidents"):
            assert not set(ids_of(later, name)) & set(ids_of(first, name))


def test_ids_do_not_change_as_a_run_goes_on() -> None:
    whole = report(RUN)
    for count in range(len(RUN.tests)):
        part = report(run_of(*RUN.tests[:count]))
        for name in LISTS:
            assert part[name] == whole[name][: len(part[name])]


def test_two_tests_of_one_name_have_two_ids() -> None:
    first, second = ids_of(report(run_of(PASSED, PASSED)), "tests")
    assert first != second


# Kernels.


def test_a_checkout_per_source_and_a_build_per_kernel() -> None:
    document = report(RUN)
    assert len(document["checkouts"]) == len({PLAIN, PATCHED, GIVEN})
    assert len(document["builds"]) == len({PLAIN, PATCHED, DEBUG, GIVEN})
    assert of_kernel(PATCHED)[0] == of_kernel(DEBUG)[0]
    assert of_kernel(PATCHED)[1]["id"] != of_kernel(DEBUG)[1]["id"]


def test_a_kernel_is_the_same_build_whatever_it_is_tried_as() -> None:
    assert of_kernel(replace(PLAIN, subject="given")) == of_kernel(PLAIN)


def test_a_tree_of_the_users_is_another_checkout_when_its_content_is() -> None:
    edited = replace(GIVEN, key=digest("edited"))
    assert of_kernel(GIVEN)[0]["id"] != of_kernel(edited)[0]["id"]
    debian = replace(PLAIN, key=digest("configured otherwise"))
    assert of_kernel(PLAIN)[0]["id"] == of_kernel(debian)[0]["id"]


def test_objects_with_one_id_are_one_object() -> None:
    """A database mixes the members of two that share an id."""
    known: dict[str, Object] = {}
    changes: list[dict[str, Any]] = [
        {member: "other"} for member in vars(PLAIN) if member not in ("patches", "config")
    ]
    changes += [{"patches": PATCHED.patches}, {"config": digest("other")}, {}]
    for kernel in (PLAIN, GIVEN):
        for change in changes:
            for item in of_kernel(replace(kernel, **change)):
                assert known.setdefault(item["id"], item) == item


def test_the_hash_of_a_patchset_is_that_of_the_command_in_the_schema(tmp_path: Path) -> None:
    for name, content in (("1.patch", "one"), ("2.patch", "two")):
        (tmp_path / name).write_text(content)
    command = "sha256sum *.patch | cut -c-64 | sha256sum | cut -c-64"
    due = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert of_kernel(PATCHED)[0]["patchset_hash"] == due.strip()
    assert of_kernel(PLAIN)[0]["patchset_hash"] == ""


def test_a_checkout_says_what_is_known_of_its_source() -> None:
    checkout, _ = of_kernel(PATCHED)
    assert checkout["tree_name"] == "linux-source-6.1"
    assert checkout["comment"] == "linux-source-6.1 6.1.176-1"
    assert checkout["valid"] is True
    assert [patch["name"] for patch in checkout["misc"]["patches"]] == [
        "0001-one.patch",
        "0002-two.patch",
    ]
    given_tree, _ = of_kernel(GIVEN)
    assert "tree_name" not in given_tree
    assert given_tree["comment"] == "/home/user/linux"


def test_a_build_says_of_what_and_by_what_it_was_built() -> None:
    _, build = of_kernel(PLAIN)
    assert build["architecture"] == "x86_64"
    assert build["compiler"] == "gcc (Debian 12.2.0-14+deb12u1) 12.2.0"
    assert build["status"] == "PASS"
    assert build["config_name"] == f"imakexec {PLAIN.config[:12]}"
    assert build["misc"]["config_sha256"] == PLAIN.config
    assert build["comment"] == PLAIN.banner


@pytest.mark.parametrize(
    ("banner", "compiler"),
    [
        ("Linux version 6.1.0 (a@b) (clang version 16.0.6, LLD 16.0.6) #1", "clang version 16.0.6"),
        (
            "Linux version 4.9.0 (a@b) (gcc version 6.3.0 (Debian) ) #1",
            "gcc version 6.3.0 (Debian) ",
        ),
        ("Linux version 6.1.0 (a@b) #1", None),
        ("", None),
    ],
)
def test_the_compiler_is_what_the_banner_says(banner: str, compiler: str | None) -> None:
    _, build = of_kernel(replace(PLAIN, banner=banner))
    assert build.get("compiler") == compiler


def test_an_architecture_that_the_schema_has_no_word_for_is_left_out() -> None:
    assert "architecture" not in of_kernel(replace(PLAIN, arch="PA-RISC"))[1]


# Tests.


@pytest.mark.parametrize(
    ("test", "status"),
    [
        (PASSED, "PASS"),
        (KNOWN, "FAIL"),
        (FAILED, "FAIL"),
        (SKIPPED, "SKIP"),
        (HOST_FAILED, "MISS"),
        (TEST_FAILED, "ERROR"),
    ],
)
def test_a_status_is_what_the_schema_means_by_it(test: TestResult, status: str) -> None:
    found = reported(test)
    assert found["status"] == status
    assert found["misc"]["outcome"] == test.outcome


def test_a_test_of_no_kernel_is_left_out_and_can_be_asked_for() -> None:
    assert without_kernel(RUN) == (UNBOUND, UNBOUND_FAILED)
    found = [test["comment"] for test in report(RUN)["tests"]]
    assert found == [test.nodeid for test in RUN.tests if test.kernel]


@pytest.mark.parametrize(
    ("test", "path"),
    [
        (PASSED, "imakexec.gap_events.test_gap"),
        (KNOWN, "imakexec.gap_events.test_gap"),
        (FAILED, "imakexec.failed_second_load.test_failed_load.a_b-0x_1"),
        (replace(PASSED, scenario=99), "imakexec.scenario_99.test_gap"),
        (replace(PASSED, scenario=None), "imakexec.gap_events.test_gap"),
        (replace(UNBOUND, kernel=PLAIN), "imakexec.signals.test_signal.INT"),
        (
            replace(PASSED, nodeid="harness/test_x.py::TestIt::test_y[a.b-patched-patched]"),
            "imakexec.gap_events.TestIt.test_y.a_b-patched",
        ),
    ],
)
def test_a_path_names_the_test_and_not_the_kernel(test: TestResult, path: str) -> None:
    assert reported(test)["path"] == path


def test_a_test_says_when_where_and_how_it_ran() -> None:
    found = reported(FAILED)
    assert found["start_time"] == "2026-11-24T14:45:24Z"
    assert found["duration"] == 4.25
    assert found["environment"]["misc"] == {"host": dict(RUN.host), "accelerator": "tcg"}
    assert "qemu 7.2.15" in found["environment"]["comment"]
    assert found["misc"]["ending"] == "kernel panic"
    assert found["misc"]["fingerprints"] == ["ima_dump:memcpy"]
    assert found["misc"]["complaints"][1]["because"] == "the test asks for it"
    assert found["misc"]["steps"][1] == {"name": "execute", "at": 2.5, "seconds": 1.0}
    assert found["misc"]["in_test"] is False
    assert found["misc"]["kernel"] == "debug"
    assert found["misc"]["project"] == RUN.project
    assert reported(PASSED)["misc"]["verdict"] == "IN_SYNC"
    assert reported(TEST_FAILED)["misc"]["in_test"] is True
    assert "start_time" not in reported(SKIPPED)
    assert "accelerator" not in reported(SKIPPED)["environment"]["misc"]
    assert "ran on" not in reported(PASSED)["environment"]["misc"]
    assert reported(replace(PASSED, host="lab2"))["environment"]["misc"]["ran on"] == "lab2"


def test_earlier_tries_are_no_tests_of_their_own() -> None:
    document = report(run_of(replace(HOST_FAILED, outcome=Outcome.PASS, why=())))
    [found] = document["tests"]
    assert found["status"] == "PASS"
    assert [each["why"] for each in found["misc"]["attempts"]] == ["swtpm died", "no memory"]


# Known defects.


def test_a_known_defect_is_an_issue_and_its_showing_an_incident() -> None:
    document = report(run_of(KNOWN))
    assert ids_of(document, "issues") == ["ours:imakexec-A1", "ours:imakexec-B15"]
    [test] = document["tests"]
    found = {each["issue_id"]: each for each in document["incidents"]}
    assert found.keys() == set(ids_of(document, "issues"))
    assert {each["test_id"] for each in found.values()} == {test["id"]}
    assert found["ours:imakexec-A1"]["comment"] == "A1: the list is copied at load\nA1: again"
    for issue in document["issues"]:
        assert found[issue["id"]]["issue_version"] == issue["version"]
        assert issue["culprit"] == {"code": True, "tool": False, "harness": False}


def test_an_issue_is_the_same_by_whichever_line_it_shows() -> None:
    one, other = (
        report(run_of(replace(KNOWN, why=(f"A1: {reason}",))))["issues"] for reason in "xy"
    )
    assert one == other
    assert one[0]["comment"] == str(next(defect for defect in DEFECTS if defect.id == "A1"))


def test_an_id_that_this_version_does_not_know_is_described_by_its_line() -> None:
    [issue] = report(run_of(replace(KNOWN, why=("Z99: of another version",))))["issues"]
    assert (issue["id"], issue["comment"]) == ("ours:imakexec-Z99", "Z99: of another version")


def test_only_a_known_defect_is_an_issue() -> None:
    for outcome in set(Outcome) - {Outcome.KNOWN}:
        document = report(run_of(replace(KNOWN, outcome=outcome)))
        assert document["issues"] == document["incidents"] == []
    document = report(run_of(replace(KNOWN, why=("pytest says so", "a1: x", "A1 x", "x A1: y"))))
    assert document["issues"] == document["incidents"] == []


# What stands in the folders.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run, with the artefacts of `FAILED`."""
    place = tmp_path / "run" / FAILED.folder
    (place / "evidence").mkdir(parents=True)
    (place / "evidence" / "attest").write_text("in a folder")
    (place / "manifest.json").write_text("{}")
    (place / "a b[1].log").write_text("x")
    (place / "evidence" / "console.log").write_text("first\nlast\n")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "console.log").write_text("secret")
    (place / "link").symlink_to(tmp_path / "secret" / "console.log")
    return tmp_path / "run"


def test_an_excerpt_is_what_was_found_and_what_was_said_last(folder: Path) -> None:
    found = "\n".join(FAILED.why)
    assert reported(FAILED, folder)["log_excerpt"] == f"{found}\n\nfirst\nlast"
    assert reported(FAILED)["log_excerpt"] == found
    passed = replace(FAILED, outcome=Outcome.PASS, why=())
    assert "log_excerpt" not in reported(passed, folder)


def test_an_excerpt_has_the_last_whole_lines_that_there_is_room_for(folder: Path) -> None:
    lines = [f"[{number:12}] said" for number in range(10_000)]
    (folder / FAILED.folder / "evidence" / "console.log").write_text("\n".join(lines))
    excerpt = reported(FAILED, folder)["log_excerpt"]
    found, _, said = excerpt.partition("\n\n")
    assert found == "\n".join(FAILED.why)
    assert 16384 - len(lines[0]) - 1 < len(excerpt) <= 16384
    assert said.split("\n") == lines[-len(said.split("\n")) :]


@pytest.mark.parametrize("size", [16_000, 16_383, 16_384, 16_385, 40_000])
def test_an_excerpt_is_never_too_long(folder: Path, size: int) -> None:
    (folder / FAILED.folder / "evidence" / "console.log").write_bytes(
        b"\xff\n" * 20_000 + b"\xe2\x82\xac" * size
    )
    excerpt = reported(replace(FAILED, why=("w" * size,)), folder)["log_excerpt"]
    assert excerpt.startswith("w" * min(size, 16_384))
    assert len(excerpt) <= 16_384


def test_files_have_urls_that_lead_to_them(folder: Path) -> None:
    found = reported(FAILED, folder)
    place = folder / FAILED.folder
    assert found["log_url"] == (place / "evidence" / "console.log").as_uri()
    assert found["output_files"] == [
        {"name": name.replace("/", "_"), "url": f"{place.as_uri()}/{quote(name)}"}
        for name in ("a b[1].log", "manifest.json", "evidence/attest")
    ]
    assert not {"log_url", "output_files"} & reported(FAILED).keys()
    assert not {"log_url", "output_files"} & reported(replace(FAILED, folder="no"), folder).keys()


@pytest.mark.parametrize("name", ["../secret", "tests/../../secret", "{}/secret", "tests/link"])
def test_nothing_outside_of_the_folder_is_read(folder: Path, name: str) -> None:
    (folder / "tests" / "link").symlink_to(folder.parent / "secret")
    found = reported(replace(FAILED, folder=name.format(folder.parent)), folder)
    assert "secret" not in found["log_excerpt"]
    assert not {"log_url", "output_files"} & found.keys()


def test_a_console_that_is_no_file_is_not_read(folder: Path) -> None:
    console = folder / FAILED.folder / "evidence" / "console.log"
    console.unlink()
    console.symlink_to(folder.parent / "secret" / "console.log")
    assert reported(FAILED, folder)["log_excerpt"] == "\n".join(FAILED.why)
    console.unlink()
    console.mkdir()
    assert reported(FAILED, folder)["log_excerpt"] == "\n".join(FAILED.why)


# Texts that are not meant well.


def check_holds(text: str, folder: Path | None) -> None:
    run = run_of(*(defaced(test, text) for test in RUN.tests))
    document = report(replace(run, command=(text,), project=text, host={text: text}), folder)
    json.dumps(document, ensure_ascii=False).encode()
    assert [test["misc"]["outcome"] for test in document["tests"]] == [
        test.outcome for test in RUN.tests
    ]
    statuses = Counter(test["status"] for test in document["tests"])
    assert statuses == {"PASS": 2, "FAIL": 3, "SKIP": 1, "MISS": 1, "ERROR": 1}
    assert ids_of(document, "issues") == ["ours:imakexec-A1"]
    assert all(test["path"].startswith("imakexec") for test in document["tests"])


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_gives_a_valid_report(text: str, folder: Path) -> None:
    check_holds(text, None)
    check_holds(text, folder)


@given(st.text(st.characters(), max_size=20))
def test_a_text_at_random_gives_a_valid_report(text: str) -> None:
    check_holds(text, None)


def test_control_characters_and_surrogates_become_question_marks(folder: Path) -> None:
    (folder / FAILED.folder / "evidence" / "console.log").write_bytes(b"\x1b[2Jgone\x00\tx\n")
    found = reported(replace(FAILED, why=("a\x00b\ud800c\td",)), folder)
    assert found["log_excerpt"] == "a?b?c\td\n\n?[2Jgone?\tx"
    assert found["misc"]["why"] == ["a?b?c\td"]
