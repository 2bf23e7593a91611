# SPDX-License-Identifier: GPL-2.0-only
"""Source packages by the distribution's own package tool, which checks their signatures.

A package that the host's suites offer is taken with the host's settings. One that only another
suite offers (a newer kernel in backports, say) is taken with a private apt configuration: its own
lists, its own cache, and a source list with an archive of the host's, so the same mirror and the
same keys, but another suite. The host's own configuration, lists and pins stay as they are.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.kernel.cache import explained, writing
from imakexec.progress import Step

_APT_SETTINGS = Path("/etc/apt")
_NETWORK_REMEDY = "check the network and the host's apt settings (does apt-get update work?)"

# Where a kernel may be that the host's own suites lack, nearest to the host first. Aliases, not
# names of releases: they do not age, and the archive signs them like the names.
_NEWER_SUITES = (
    "stable",
    "stable-backports",
    "oldstable-backports",
    "testing",
    "unstable",
    "experimental",
)

# sources.list(5): deb [ option1=value1 ... ] uri suite component...
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<rest>.+)")


@dataclass(frozen=True)
class Package:
    """One version of a binary package.

    Attributes:
        size: of the .deb, in bytes.
    """

    name: str
    version: str
    size: int


@dataclass(frozen=True)
class Archive:
    """An archive of packages as an apt source names it.

    Attributes:
        uri: its address, in any form that apt knows.
        suites: as listed, release names and aliases alike.
        components: e.g. "main".
        signed_by: the value of Signed-By: paths, fingerprints, or a key block whose lines are
            joined by newlines; empty if the host's trusted keys apply.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


@dataclass(frozen=True)
class Apt:
    """The package tool, with the host's settings unless `options` say otherwise.

    Attributes:
        options: arguments that come before every command.
    """

    options: tuple[str, ...] = ()

    def update(self, deadline: Deadline) -> None:
        """Fetch the package lists.

        Raises:
            InfraError: not all of them came, or a signature is wrong.
        """
        strict = ("-o", "APT::Update::Error-Mode=any")
        self._run("apt-get", (*strict, "update"), deadline)

    def show(self, name: str, deadline: Deadline) -> Package | None:
        """The version of `name` that would be installed, or None if there is none."""
        arguments = ("show", "--no-all-versions", name)
        output = self._run("apt-cache", arguments, deadline, check=False).output
        fields = dict(re.findall(r"^(Version|Size): (\S+)$", output, re.MULTILINE))
        if len(fields) < 2:
            return None
        return Package(name, fields["Version"], int(fields["Size"]))

    def download(self, package: Package, folder: Path, deadline: Deadline) -> Path:
        """Fetch the package into `folder` and return its path; apt checks it against the lists.

        Raises:
            InfraError: it cannot be fetched, or the disk is full.
        """
        wanted = f"{package.name}={package.version}"
        with writing(folder):
            self._run("apt-get", ("download", wanted), deadline, cwd=folder)
        [deb] = folder.glob("*.deb")
        return deb

    def _run(
        self,
        tool: str,
        arguments: tuple[str, ...],
        deadline: Deadline,
        *,
        cwd: Path | None = None,
        check: bool = True,
    ) -> process.Completed:
        return process.run(
            [tool, *self.options, *arguments],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            deadline=deadline,
            check=check,
            remedy=_NETWORK_REMEDY,
        )


@dataclass(frozen=True)
class OtherSuites:
    """The suites of the host's distribution that its own settings do not include.

    Attributes:
        state: a folder for lists and settings of our own; created, and kept between runs.
        settings: the host's apt settings.
    """

    state: Path
    settings: Path = _APT_SETTINGS

    def find(self, name: str, step: Step, deadline: Deadline) -> tuple[Package, Apt]:
        """The first suite's offer, and the settings that fetch it.

        Raises:
            UserError: no suite offers the package.
            InfraError: no suite's package list can be fetched.
        """
        codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        suites = (codename, f"{codename}-backports", *_NEWER_SUITES)
        failure: InfraError | None = None
        seen = []
        for archive in self._archives(codename):
            for suite in suites:
                step.update(f"asking the package list of {suite}")
                apt = self._private(archive, suite)
                try:
                    apt.update(deadline)
                except InfraError as error:
                    failure = error  # this mirror may just not have the suite
                    continue
                seen.append(suite)
                package = apt.show(name, deadline)
                if package is not None:
                    return package, apt
        if failure is not None and not seen:
            raise failure
        raise UserError(
            f"no suite of the distribution offers {name}",
            where=f"suites asked: {', '.join(seen)}",
            remedy="choose another --base, or unpack the source and use --kernel-tree DIR",
        )

    def _archives(self, codename: str) -> list[Archive]:
        """The distribution's own archives among the host's sources, by mirror.

        Raises:
            UserError: there is none.
        """
        own = {"sid", "oldstable", codename, *_NEWER_SUITES}
        archives = {
            archive.uri: archive
            for archive in read_sources(self.settings)
            if own.intersection(archive.suites) and "main" in archive.components
        }
        if not archives:
            raise UserError(
                f"the host's apt settings name no archive of {codename or 'its distribution'}",
                where=str(self.settings),
                remedy="add the distribution's own archive to the apt sources",
            )
        return list(archives.values())

    def _private(self, archive: Archive, suite: str) -> Apt:
        """Settings of our own for one suite: our sources and lists, the host's keys and proxy."""
        folder = self.state / suite
        sources = folder / "sources"
        with explained(self.state):
            for needed in (sources, folder / "lists/partial", folder / "archives/partial"):
                needed.mkdir(parents=True, exist_ok=True)
            (sources / "imakexec.sources").write_text(_stanza(archive, suite))
        settings = {
            "Dir::State": folder,
            "Dir::State::Lists": folder / "lists",
            "Dir::Cache": folder,
            "Dir::Cache::Archives": folder / "archives",
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": sources,
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Acquire::Languages": "none",
            # Root's apt would fetch as _apt, which cannot write below a private home.
            "APT::Sandbox::User": "root",
        }
        return Apt(tuple(f"-o{key}={value}" for key, value in settings.items()))


def read_sources(settings: Path) -> list[Archive]:
    """Every enabled archive of binary packages in the apt settings below `settings`.

    Both forms of sources.list(5) are read: one-line (`.list`) and deb822 (`.sources`). A CD is no
    archive that another suite could be fetched from and is left out.
    """
    parts = settings / "sources.list.d"
    lists = [settings / "sources.list", *sorted(parts.glob("*.list"))]
    archives = [
        archive
        for path in lists
        if path.exists()
        for archive in parse_one_line(path.read_text(encoding="utf-8"))
    ]
    for path in sorted(parts.glob("*.sources")):
        archives.extend(parse_deb822(path.read_text(encoding="utf-8")))
    return [archive for archive in archives if not archive.uri.startswith("cdrom:")]


def parse_one_line(text: str) -> Iterator[Archive]:
    """The archives of a `.list` file."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None:
            continue
        options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
        suite, *components = match["rest"].split()
        signed_by = options.get("signed-by", "").replace(",", " ")
        yield Archive(match["uri"], (suite,), tuple(components), signed_by)


def parse_deb822(text: str) -> Iterator[Archive]:
    """The archives of a `.sources` file; one stanza may name several."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        # A field goes on in the lines that start with white space.
        fields = {
            name.lower(): re.sub(r"\n[ \t]", "\n", value.strip())
            for name, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            yield Archive(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
            )


def _stanza(archive: Archive, suite: str) -> str:
    signed_by = archive.signed_by.replace("\n", "\n ")
    lines = [
        "Types: deb",
        f"URIs: {archive.uri}",
        f"Suites: {suite}",
        "Components: main",
        *([f"Signed-By: {signed_by}"] if signed_by else []),
    ]
    return "\n".join(lines) + "\n"
