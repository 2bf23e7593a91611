# SPDX-License-Identifier: GPL-2.0-only
"""Does the series arrive? `git am` on every version that is served, checkpatch, and its form.

A patch applies only as `git am` applies it by default: no fuzz, no three-way merge, no warning.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError
from imakexec.kernel import git
from imakexec.kernel.cache import Cache, writing
from imakexec.kernel.series import Patch, PatchSeries
from imakexec.kernel.source import SourceTree
from imakexec.kernel.versions import SourceFiles, served_versions
from imakexec.progress import Progress
from imakexec.series.cells import Cell
from imakexec.series.hygiene import folder_faults, patch_faults

_GIT_SECONDS = 60.0
_FETCH_SECONDS = 3600.0
_CHECKPATCH_SECONDS = 60.0

# Debian's package codespell; checkpatch itself looks for an older place and goes on without.
DICTIONARY = Path("/usr/lib/python3/dist-packages/codespell_lib/data/dictionary.txt")

_SUMMARY = re.compile(
    r"^total: (?P<errors>\d+) errors, (?P<warnings>\d+) warnings, (?P<checks>\d+) checks, ",
    re.MULTILINE,
)
_FINDING = re.compile(r"^(?:ERROR|WARNING|CHECK):.*$", re.MULTILINE)
# What git says against a patch, without its advice.
_COMPLAINT = re.compile(r"^(?:error|fatal|warning): .*$|^.*whitespace.*$", re.MULTILINE)
_NO_DICTIONARY = "No codespell typos will be found"

# Whoever applies patches has a name; the dates keep the commits alike.
_COMMITTER = {
    f"GIT_{who}_{field}": value
    for who in ("AUTHOR", "COMMITTER")
    for field, value in (
        ("NAME", "imakexec"),
        ("EMAIL", "imakexec@localhost"),
        ("DATE", "1970-01-01T00:00:00Z"),
    )
}


@dataclass(frozen=True)
class Applied:
    """What `git am` made of a series on one version of the source.

    Attributes:
        version: of the source.
        base: for people, e.g. "linux-source-6.1 6.1.170-3".
        patches: how many applied before one did not.
        complaints: what git said against that one; none if all applied.
    """

    version: str
    base: str
    patches: int
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class MailChecks:
    """Checks of the mails that the series is made of.

    Attributes:
        series: the whole series.
        folder: where it lies.
        source: the base.
        cache: for sources and scratch.
        progress: where steps are announced.
        logs: where the tools' output is kept.
    """

    series: PatchSeries
    folder: Path
    source: SourceTree
    cache: Cache
    progress: Progress
    logs: Path

    def applies(self, patches: int) -> Cell:
        """Whether the first patches apply to every version.

        Raises:
            InfraError: the host failed.
        """
        faults = [
            line
            for result in self._results
            if result.patches < patches
            for line in (
                f"{self.series.names[result.patches]} does not apply to {result.base}",
                *result.complaints,
            )
        ]
        good = [result.version for result in self._results if result.patches >= patches]
        own = self.source.version.split(".")[:2]
        return Cell.judged(faults, " ".join(short_version(v, own) for v in good), self._am_log)

    @cached_property
    def _results(self) -> tuple[Applied, ...]:
        """Every version, oldest first, with what became of the series on it."""
        deadline = Deadline.after(_FETCH_SECONDS)
        others = served_versions(
            self.source,
            self.series.touched,
            cache=self.cache,
            progress=self.progress,
            deadline=deadline,
        )
        with self.progress.step("git am"), self.cache.scratch() as scratch:
            own = base_files(self.source, self.series, scratch)
            return tuple(
                apply_mails(self.series, files, self.cache, self._am_log)
                for files in sorted((own, *others), key=SourceFiles.by_age)
            )

    @property
    def _am_log(self) -> Path:
        return self.logs / "git-am.log"

    def reads_well(self, patches: int) -> Cell:
        """Whether the last of the first patches has the form that is asked for.

        Of the base it is the form of the series as a whole.

        Raises:
            InfraError: the host lacks a tool or the dictionary.
        """
        if not patches:
            return self._folder_reads_well()
        patch = self.series.patches[patches - 1]
        log = self.logs / f"{patches}-checkpatch.log"
        with self.progress.step(f"checkpatch {patch.name}"):
            report = run_checkpatch(patch, self.source.path, self.cache, log)
        faults = patch_faults(patch, number=patches, total=len(self.series.patches))
        return Cell.judged([*report.faults, *faults], report.counts, log)

    def _folder_reads_well(self) -> Cell:
        faults = list(folder_faults(self.folder, self.series))
        log = self.logs / "0-checkpatch.log"
        log.write_text("\n".join(faults or ["no faults"]) + "\n", encoding="utf-8")
        return Cell.judged(faults, "ok", log)


def short_version(version: str, own: Iterable[str]) -> str:
    """A version as a table has room for it: "170" of "6.1.170" beside a base of 6.1."""
    prefix = ".".join(own) + "."
    return version.removeprefix(prefix) if version.count(".") == prefix.count(".") else version


def base_files(source: SourceTree, series: PatchSeries, folder: Path) -> SourceFiles:
    """The files that the series touches, as the base has them, copied to `folder`."""
    for name in series.touched:
        pristine = source.file(name)
        if pristine is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(pristine, folder / name)
    return SourceFiles(source.version, source.base, folder)


def apply_mails(series: PatchSeries, files: SourceFiles, cache: Cache, log: Path) -> Applied:
    """Apply mails one after the other to a repository of those files, until one does not.

    Args:
        log: what git says is added to it.

    Raises:
        InfraError: the host failed.
    """
    deadline = Deadline.after(_GIT_SECONDS)
    with cache.scratch() as scratch:
        repository = scratch / "repository"
        shutil.copytree(files.folder, repository)
        environment = {**git.environment(repository), **_COMMITTER}

        def run(*arguments: str, check: bool = True) -> process.Completed:
            command = ["git", "-c", "gc.auto=0", *arguments]
            with writing(scratch):
                return process.run(
                    command,
                    cwd=repository,
                    env=environment,
                    log=log,
                    deadline=deadline,
                    check=check,
                )

        with log.open("a", encoding="utf-8") as output:
            output.write(f"== {files.base}\n")
        run("init", "--quiet", "--template=")
        run("add", "--all", "--force")
        run("commit", "--quiet", "--allow-empty", f"--message={files.base}")
        for number, patch in enumerate(series.patches):
            done = run("am", str(patch.path), check=False)
            if done.returncode != 0 or "warning:" in done.output:
                said = tuple(_COMPLAINT.findall(done.output))
                return Applied(files.version, files.base, number, said)
    return Applied(files.version, files.base, len(series.patches))


@dataclass(frozen=True)
class CheckpatchReport:
    """What checkpatch found in a patch.

    Attributes:
        totals: how much of each kind.
        findings: its ERROR, WARNING and CHECK lines.
    """

    totals: Mapping[str, int]
    findings: tuple[str, ...]

    @classmethod
    def parse(cls, output: str) -> CheckpatchReport | None:
        """Read checkpatch's output; None if it did not come to a sum."""
        summary = _SUMMARY.search(output)
        if summary is None:
            return None
        totals = {kind: int(count) for kind, count in summary.groupdict().items()}
        return cls(totals, tuple(_FINDING.findall(output)))

    @property
    def counts(self) -> str:
        """Errors, warnings and checks as "0/0/0"."""
        return "/".join(str(count) for count in self.totals.values())

    @property
    def faults(self) -> Iterator[str]:
        """Nothing if it found nothing; else the sum, and each finding."""
        if any(self.totals.values()):
            yield "checkpatch: " + ", ".join(
                f"{count} {kind}" for kind, count in self.totals.items()
            )
            yield from self.findings


def run_checkpatch(
    patch: Patch, tree: Path, cache: Cache, log: Path, *, dictionary: Path = DICTIONARY
) -> CheckpatchReport:
    """Run a tree's own checkpatch on a patch, with nothing left out.

    Raises:
        InfraError: perl or the dictionary is missing, or checkpatch did not come to an end.
    """
    if not dictionary.is_file():
        raise InfraError(
            "checkpatch has no dictionary of common misspellings",
            where=str(dictionary),
            remedy="install the package codespell (./run_qemu.sh does it by itself)",
        )
    with cache.scratch() as empty:
        done = process.run(
            [
                "perl",
                str(tree / "scripts/checkpatch.pl"),
                "--strict",
                "--codespell",
                f"--codespellfile={dictionary}",
                f"--root={tree}",
                "--show-types",
                "--color=never",
                str(patch.path),
            ],
            cwd=empty,
            # A .checkpatch.conf of the user's could make it ignore something.
            env={**git.environment(empty), "HOME": str(empty)},
            log=log,
            deadline=Deadline.after(_CHECKPATCH_SECONDS),
            check=False,
        )
    report = CheckpatchReport.parse(done.output)
    if report is None or _NO_DICTIONARY in done.output:
        raise InfraError(
            "checkpatch did not check all that it should",
            where=str(log),
            remedy="see its output; it needs the packages perl and codespell",
            tail=done.output[-2000:],
        )
    return report
