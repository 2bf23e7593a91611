# SPDX-License-Identifier: GPL-2.0-only
"""The examples of docs/ci name only what there is, and their parts agree with each other."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from suite_maker import HOSTILE, RUN, SKIPPED, defaced, run_of

from imakexec.cli import app
from imakexec.errors import InfraError
from imakexec.project import find_project
from imakexec.report.ktap import ktap_lines
from imakexec.suite.outcome import Outcome

FOLDER = find_project() / "docs" / "ci"
GITLAB, GITHUB, LAVA = "gitlab-ci.yml", "github-actions.yml", "lava-job.yaml"
REPORTS = ("--html", "--junit-xml", "--ktap", "--kcidb")

files = pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))


@cache
def example(name: str) -> dict[str, Any]:
    """A file of YAML. GitHub's key `on` is a truth in YAML 1.1, and nobody here asks for it."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


# What the examples run.


def gitlab_jobs() -> Mapping[str, dict[str, Any]]:
    found = example(GITLAB)
    shared = found[".imakexec"]
    return {
        name: {**shared, **job, "artifacts": {**shared["artifacts"], **job.get("artifacts", {})}}
        for name, job in found.items()
        if isinstance(job, dict) and "script" in job
    }


def github_scripts() -> Iterator[str]:
    for job in example(GITHUB)["jobs"].values():
        yield from (step["run"] for step in job["steps"] if "run" in step)


def lava_definition() -> dict[str, Any]:
    [test] = [action["test"] for action in example(LAVA)["actions"] if "test" in action]
    [definition] = test["definitions"]
    found: dict[str, Any] = definition["repository"]
    return found


def blocks(text: str) -> Iterator[str]:
    """The blocks of Markdown that are indented as code, without their indent."""
    for found in re.finditer(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", text):
        yield re.sub(r"^ {4}", "", found[0], flags=re.MULTILINE)


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def shell(name: str) -> Iterator[str]:
    """Every piece of shell in a file, whole."""
    text = (FOLDER / name).read_text()
    if name == GITLAB:
        for job in gitlab_jobs().values():
            yield "\n".join([*job["before_script"], *job["script"]])
    elif name == GITHUB:
        yield from github_scripts()
    elif name == LAVA:
        yield "\n".join(lava_definition()["run"]["steps"])
    else:
        yield from blocks(text) if name.endswith(".md") else [text]


def commands(name: str, program: str) -> Iterator[list[str]]:
    """The arguments of each call of a program in a file."""
    pieces = list(shell(name))
    if name.endswith(".md"):
        pieces += spans((FOLDER / name).read_text())
    for piece in pieces:
        line = piece.replace("\\\n", " ")
        for found in re.finditer(rf"(?:^ *|/){program} ([^\n;&|#]*)", line, re.MULTILINE):
            yield re.sub(r"['\")]", "", found[1]).split()


def named(words: list[str]) -> set[str]:
    """The options among words, without their values."""
    return {word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)}


@cache
def told_by_pytest(option: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "harness", option, "-n0", "-p", "no:cacheprovider"],
        cwd=find_project(),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return ran.stdout


@cache
def pytest_options() -> set[str]:
    lines = re.findall(r"^  (-.*?)(?:  |$)", told_by_pytest("--help"), re.MULTILINE)
    return {option for line in lines for option in re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", line)}


@cache
def markers() -> set[str]:
    return set(re.findall(r"^@pytest\.mark\.(\w+)", told_by_pytest("--markers"), re.MULTILINE))


@cache
def imakexec_options() -> Mapping[str, set[str]]:
    """The options of each command; those of none are the whole program's."""
    whole = typer.main.get_group(app)
    found = {
        name: {option for item in command.params for option in item.opts}
        for name, command in whole.commands.items()
    }
    return {**found, "": {option for item in whole.params for option in item.opts} | {"--help"}}


@files
def test_options_of_pytest_are_there(name: str) -> None:
    calls = [*commands(name, "pytest"), *commands(name, "xdist-hosts")]
    # What GitHub's script puts together before it calls pytest.
    calls += [found.split() for found in re.findall(r"wanted\+?=\((.*)\)", "".join(shell(name)))]
    found = [word for words in calls for word in named(words)]
    assert set(found) <= pytest_options()
    assert found or name in (LAVA, "lava-results") or "pytest" not in (FOLDER / name).read_text()


@files
def test_commands_and_options_of_imakexec_are_there(name: str) -> None:
    for program in ("imakexec", r"run_qemu\.sh"):
        for words in commands(name, program):
            command = words[0] if words and not words[0].startswith("-") else ""
            assert command in imakexec_options()
            assert named(words) <= imakexec_options()[command]


@files
def test_options_that_a_text_speaks_of_are_there(name: str) -> None:
    if not name.endswith(".md"):
        return
    spoken = [span for span in spans((FOLDER / name).read_text()) if span.startswith("-")]
    everything = set.union(pytest_options(), *imakexec_options().values())
    assert {span.split()[0].partition("=")[0] for span in spoken} <= everything


@files
def test_markers_are_there(name: str) -> None:
    text = (FOLDER / name).read_text()
    asked = re.findall(r"(?<!python3 )(?<!python )(?<![\w-])-m[ =](\w+)", text)
    assert set(asked) <= markers()


def test_options_and_markers_are_really_found() -> None:
    assert {"--html", "--tx", "--kernel-tree", "-m", "-n", "-k"} <= pytest_options()
    assert {"smoke", "nightly", "series"} <= markers()
    assert "--kcidb-origin" in imakexec_options()["report"]
    asked = [named(words) for words in commands(GITLAB, "pytest")]
    assert len(asked) == 4
    assert all({"--html", "--junit-xml"} <= options for options in asked)


# Shell.


@files
def test_shell_is_shell(name: str) -> None:
    # LAVA runs its steps by the shell of the device, which is dash on Debian.
    interpreter = "sh" if name in (LAVA, "lava-results") else "bash"
    for piece in shell(name):
        ran = subprocess.run(
            [interpreter, "-n"], input=piece, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{piece}\n{ran.stderr}"


@pytest.mark.parametrize("name", ["lava-results", "xdist-hosts"])
def test_scripts_can_be_run(name: str) -> None:
    assert os.access(FOLDER / name, os.X_OK)
    ran = subprocess.run([FOLDER / name], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: ")


# Paths.


def written(words: list[str]) -> dict[str, str]:
    """What a call of pytest writes, by option, as on the first of several runners."""
    pairs = (word.partition("=") for word in words)
    found = {name: value for name, is_there, value in pairs if is_there and name in REPORTS}
    return {name: re.sub(r"\$\{?\w+\}?", "1", value) for name, value in found.items()}


def calls(job: Mapping[str, Any], program: str) -> list[list[str]]:
    lines = [shlex.split(line) for line in job["script"] if f".venv/bin/{program} " in line]
    return [line[1:] for line in lines]


@pytest.mark.parametrize("name", gitlab_jobs())
def test_gitlab_keeps_what_its_jobs_write(name: str) -> None:
    job = gitlab_jobs()[name]
    kept = job["artifacts"]["paths"]
    for words in calls(job, "pytest"):
        paths = written(words)
        assert "--html" in paths
        assert all(any(path.startswith(folder) for folder in kept) for path in paths.values())
        assert fnmatch.fnmatch(paths["--junit-xml"], job["artifacts"]["reports"]["junit"])
        # The folders of files must be there; pytest makes those of pages and of JUnit.
        made = {line.split()[-1] for line in job["script"] if line.startswith("mkdir -p ")}
        assert str(Path(paths["--html"]).parent) in made
    for words in calls(job, "imakexec"):
        values = [words[words.index(option) + 1] for option in ("--ktap", "--kcidb")]
        assert all(any(path.startswith(folder) for folder in kept) for path in values)


def test_gitlab_joins_the_folder_that_its_runners_have_filled() -> None:
    jobs = gitlab_jobs()
    [part] = calls(jobs["nightly"], "pytest")
    [joined] = calls(jobs["nightly-report"], "imakexec")
    assert joined[:2] == ["report", str(Path(written(part)["--html"]).parent)]
    assert [need["job"] for need in jobs["nightly-report"]["needs"]] == ["nightly"]


def test_gitlab_chooses_each_file_on_one_runner() -> None:
    [line] = [line for line in gitlab_jobs()["nightly"]["script"] if line.startswith("mapfile")]
    count = gitlab_jobs()["nightly"]["parallel"]
    chosen = []
    for index in range(1, count + 1):
        ran = subprocess.run(
            ["bash", "-c", f'{line}\nprintf "%s\\n" "${{files[@]}}"'],
            env={**os.environ, "CI_NODE_TOTAL": str(count), "CI_NODE_INDEX": str(index)},
            cwd=find_project(),
            capture_output=True,
            text=True,
            check=True,
        )
        chosen += ran.stdout.splitlines()
    assert sorted(chosen) == sorted(
        f"harness/{path.name}" for path in (find_project() / "harness").glob("test_*.py")
    )


def test_github_keeps_what_its_script_writes() -> None:
    [job] = example(GITHUB)["jobs"].values()
    [upload] = [step for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    [words] = [words for words in commands(GITHUB, "pytest") if named(words) & set(REPORTS)]
    paths = written(words)
    assert set(paths) == set(REPORTS)
    assert all(path.startswith(upload["with"]["path"]) for path in paths.values())
    assert upload["if"] == "always()"


def test_lava_is_told_of_the_file_that_is_written() -> None:
    steps = "\n".join(lava_definition()["run"]["steps"])
    [path] = re.findall(r"--ktap=(\S+)", steps)
    assert f"docs/ci/lava-results {path}" in steps
    assert f"-e {path} " in steps


def cached(name: str) -> list[str]:
    if name == GITLAB:
        paths: list[str] = example(GITLAB)[".imakexec"]["cache"]["paths"]
        return paths
    steps = next(iter(example(GITHUB)["jobs"].values()))["steps"]
    restored, saved = (
        step["with"]["path"].split() for step in steps if "actions/cache" in step.get("uses", "")
    )
    assert restored == saved
    return list(restored)


@pytest.mark.parametrize("name", [GITLAB, GITHUB])
def test_what_is_cached_is_what_the_cache_has(name: str) -> None:
    sources = "".join(path.read_text() for path in (FOLDER.parents[1] / "harness").rglob("*.py"))
    for path in cached(name):
        assert path.startswith(".cache/imakexec/")
        assert f'"{Path(path).name}"' in sources


# What is said of exit statuses.


def test_gitlab_takes_no_verdict_for_neither_good_nor_bad() -> None:
    shared = example(GITLAB)[".imakexec"]
    assert shared["allow_failure"] == {"exit_codes": [InfraError.exit_code]}
    assert shared["retry"]["exit_codes"] == [InfraError.exit_code]


@pytest.mark.parametrize(
    ("statuses", "due", "says"),
    [
        ([0], 0, ""),
        ([1], 1, "::error title=imakexec::"),
        ([InfraError.exit_code, 0], 0, ""),
        ([InfraError.exit_code, 1], 1, "::error title=imakexec::"),
        ([InfraError.exit_code, InfraError.exit_code], 3, "no verdict"),
        ([4], 4, "not run"),
    ],
)
def test_github_repeats_what_is_no_verdict(
    tmp_path: Path, statuses: list[int], due: int, says: str
) -> None:
    [script] = [script for script in github_scripts() if "for try in" in script]
    program = tmp_path / ".venv" / "bin" / "pytest"
    program.parent.mkdir(parents=True)
    (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    program.write_text("#!/bin/sh\nread s <statuses; sed -i 1d statuses; exit $s\n")
    program.chmod(0o755)
    ran = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        env={**os.environ, "EVENT": "pull_request", "KERNEL_URL": "", "KERNEL_REF": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == due
    assert says in ran.stdout
    assert bool(ran.stdout) is bool(says)
    assert (tmp_path / "statuses").read_text() == ""


# LAVA's results.


@pytest.fixture
def lava(tmp_path: Path) -> Path:
    """A folder of programs with a `lava-test-case` that writes down what it is told."""
    program = tmp_path / "lava-test-case"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\t" "$@" >>{tmp_path}/told\necho >>{tmp_path}/told\n'
    )
    program.chmod(0o755)
    return tmp_path


def told(lava: Path, lines: Iterator[str]) -> list[list[str]]:
    (lava / "run.ktap").write_text("".join(f"{line}\n" for line in lines))
    subprocess.run(
        [FOLDER / "lava-results", lava / "run.ktap"],
        env={**os.environ, "PATH": f"{lava}:{os.environ['PATH']}"},
        check=True,
    )
    return [line.split("\t")[:-1] for line in (lava / "told").read_text().splitlines()]


LAVA_RESULT = {
    Outcome.PASS: "pass",
    Outcome.KNOWN: "pass",
    Outcome.SKIP: "skip",
    Outcome.FAIL: "fail",
    Outcome.INFRA: "unknown",
}


def test_lava_hears_of_each_test(lava: Path) -> None:
    for test in RUN.tests:
        [words] = told(lava, ktap_lines(run_of(test)))
        (lava / "told").unlink()
        assert words[1:] == [
            *("--result", LAVA_RESULT[test.outcome]),
            *("--measurement", f"{test.seconds:.1f}", "--units", "seconds"),
        ]
    assert len(told(lava, ktap_lines(RUN))) == len(RUN.tests)


def test_lava_hears_names_that_it_takes(lava: Path) -> None:
    [words] = told(lava, ktap_lines(run_of(SKIPPED)))
    assert words[0] == "log_staging.test_staging-given"


@pytest.mark.parametrize("text", HOSTILE)
def test_lava_hears_nothing_that_a_guest_says(lava: Path, text: str) -> None:
    for outcome in (Outcome.PASS, Outcome.FAIL):
        test = defaced(next(item for item in RUN.tests if item.outcome is outcome), text)
        lines = (line.encode(errors="replace").decode() for line in ktap_lines(run_of(test)))
        [words] = told(lava, lines)
        (lava / "told").unlink()
        assert re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", words[0])
        assert words[2] == LAVA_RESULT[outcome]


# The texts.


def test_every_file_is_in_the_table() -> None:
    text = (FOLDER / "README.md").read_text()
    links = set(re.findall(r"\]\(([^)#]+)", text))
    assert {path.name for path in FOLDER.iterdir()} - {"README.md"} <= links


@files
def test_links_lead_somewhere(name: str) -> None:
    if name.endswith(".md"):
        for link in re.findall(r"\]\(([^)#]+)", (FOLDER / name).read_text()):
            assert (FOLDER / link).exists()


@files
def test_files_that_are_named_are_there(name: str) -> None:
    text = (FOLDER / name).read_text()
    for path in re.findall(r"(?<![\w/.-])(?:docs|harness|tests)/[\w./-]+\w(?![\w*])", text):
        assert (find_project() / path).exists(), path
