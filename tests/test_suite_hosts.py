# SPDX-License-Identifier: GPL-2.0-only
"""Workers of pytest-xdist that see other files than the process that was started."""

from __future__ import annotations

import io
import json
import os
import platform
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import execnet
import pytest
from test_suite_plugin import CONFTEST, OUTCOMES, PLUGINS, TESTS, named

from imakexec.errors import InfraError
from imakexec.suite import artefacts, hosts
from imakexec.suite.result import SuiteRun

pytest_plugins = ["pytester"]

HOSTS = (*PLUGINS[:-2], "--dist=load")


@pytest.fixture
def elsewhere(pytester: pytest.Pytester) -> Path:
    """A checkout that is not the one where pytest is started."""
    folder = pytester.mkdir("elsewhere")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(TESTS)
    return folder


@pytest.fixture
def reported(pytester: pytest.Pytester, elsewhere: Path) -> SuiteRun:
    """What a run there says here, with its artefacts here."""
    start = pytester.mkdir("start")
    os.chdir(start)
    pytester.runpytest_inprocess(
        *HOSTS, f"--tx=popen//chdir={elsewhere}", "--artefacts=kept", "--junit-xml=run.xml"
    )
    return artefacts.read_runs(start / "kept")


def test_artefacts_come_home(reported: SuiteRun, pytester: pytest.Pytester) -> None:
    assert {name: str(test.outcome) for name, test in named(reported).items()} == OUTCOMES
    for name, test in named(reported).items():
        folder = pytester.path / "start" / "kept" / test.folder
        assert (folder / "of").read_text().partition("[")[0] == name
        assert (folder / "evidence" / "console.log").read_text().count("said") == 50
        assert os.access(folder / "reproduce.sh", os.X_OK)
        assert not os.access(folder / "of", os.X_OK)
        for attempt in test.attempts:
            assert (pytester.path / "start" / "kept" / attempt.folder / "of").is_file()


@pytest.mark.parametrize("name", ["lab2", platform.node()])
def test_a_result_says_on_which_other_host_it_was_found(
    pytester: pytest.Pytester, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    said = {"name": name, "system": "Debian"}
    monkeypatch.setattr(hosts, "_ASK", f"channel.send([{said!r}, '', ''])")
    pytester.runpytest_inprocess(
        *HOSTS, f"--tx=popen//chdir={elsewhere}", "-k", "test_good", "--json=run.json"
    )
    run = json.loads((pytester.path / "run.json").read_text())
    is_other = name == "lab2"
    assert [test["host"] for test in run["tests"]] == [name if is_other else ""]
    assert run["host"]["name"] == platform.node()
    assert run["host"].get(f"{name} system") == ("Debian" if is_other else None)


@pytest.mark.usefixtures("reported")
def test_nothing_stays_where_the_worker_starts(elsewhere: Path) -> None:
    assert not (elsewhere / "kept").exists()


@pytest.mark.usefixtures("reported")
def test_what_junit_attaches_is_here(pytester: pytest.Pytester) -> None:
    start = pytester.path / "start"
    text = "".join(ElementTree.parse(start / "run.xml").getroot().itertext())
    attached = [line for line in text.split("[[") if line.startswith("ATTACHMENT|")]
    paths = [start / Path(line.removeprefix("ATTACHMENT|").partition("]]")[0]) for line in attached]
    assert len(paths) > len(OUTCOMES)
    assert all(path.is_file() for path in paths)


def test_a_run_without_artefacts_sends_none(pytester: pytest.Pytester, elsewhere: Path) -> None:
    ran = pytester.runpytest_inprocess(
        *HOSTS, f"--tx=popen//chdir={elsewhere}", "-k", "test_good", "--json=run.json"
    )
    assert ran.ret == 0
    assert not (pytester.path / "kept").exists()


@pytest.mark.parametrize("argument", ["start", "start/::test_good"])
def test_a_path_is_refused_that_cannot_be_sent(
    pytester: pytest.Pytester, elsewhere: Path, argument: str
) -> None:
    pytester.mkdir("start")
    ran = pytester.runpytest_inprocess(*HOSTS, f"--tx=popen//chdir={elsewhere}", argument)
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines([f"*'{argument}' is a path here*-o testpaths=harness and -k*"])


def test_workers_of_this_host_take_paths(pytester: pytest.Pytester, elsewhere: Path) -> None:
    ran = pytester.runpytest_inprocess(*HOSTS, "--tx=popen", str(elsewhere), "-k", "test_good")
    assert ran.ret == 0


def test_a_host_without_the_project_is_refused(
    pytester: pytest.Pytester, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    spec = f"popen//python=/usr/bin/python3//chdir={elsewhere}"
    ran = pytester.runpytest_inprocess(*HOSTS, f"--tx={spec}", "-k", "test_good")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["*No module named 'imakexec'*run ./run_qemu.sh in a checkout*"])


def test_a_host_at_another_commit_is_refused(
    pytester: pytest.Pytester, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "project_state", lambda _: 40 * "a")
    monkeypatch.setattr(hosts, "_ASK", f"channel.send([{{}}, {40 * 'b'!r}, ''])")
    spec = f"popen//chdir={elsewhere}"
    ran = pytester.runpytest_inprocess(*HOSTS, f"--tx={spec}", "-k", "test_good")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines([f"*the checkout there is at {40 * 'b'}, this one at {40 * 'a'}*"])


@pytest.mark.parametrize(
    ("spec", "is_so"),
    [
        ("popen", False),
        ("popen//python=python3", False),
        ("popen//chdir=/x", True),
        ("popen//via=proxy", True),
        ("ssh=host", True),
        ("socket=host:8888", True),
    ],
)
def test_who_is_elsewhere(spec: str, is_so: bool) -> None:
    assert hosts.is_elsewhere(execnet.XSpec(spec)) is is_so


def test_nothing_is_laid_outside_of_the_folder(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as parcel:
        for name in ("../up", f"{tmp_path}/absolute", "x/../../../up"):
            parcel.writestr(name, "x")
    root = tmp_path / "a" / "kept"
    artefacts.unpack(content.getvalue(), root)
    assert [path for path in tmp_path.rglob("*") if not path.is_relative_to(root)] == [root.parent]


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_parcel_that_is_none_is_told(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InfraError, match="another host are lost"):
        artefacts.unpack(content, tmp_path)


def test_what_is_too_large_stays_where_it_is(pytester: pytest.Pytester, elsewhere: Path) -> None:
    small = CONFTEST + "\nfrom imakexec.suite import hosts\nhosts._PARCEL_BYTES = 10\n"
    (elsewhere / "conftest.py").write_text(small)
    start = pytester.mkdir("start")
    os.chdir(start)
    ran = pytester.runpytest_inprocess(
        *HOSTS, f"--tx=popen//chdir={elsewhere}", "-k", "test_bad", "--artefacts=kept"
    )
    ran.stdout.fnmatch_lines(["too large to be sent, left in *"])
    assert [path.name for path in (start / "kept").iterdir()] == ["results.json"]
