# SPDX-License-Identifier: GPL-2.0-only
"""Source packages by the distribution's own package tool, which checks their signatures.

A package that the host's suites offer is taken with the host's settings. One that only another
suite offers (a newer kernel in backports, say) is taken with a private apt configuration: its own
lists, its own cache, and a source list with an archive of the host's, so the same mirror and the
same keys, but another suite. The same goes for packages of an architecture that is not one of the
host's. The host's own configuration, lists and pins stay as they are, and so does its dpkg.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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

# What accompanies the host's release. Security updates may have an archive of their own, which
# mirrors keep beside the main one.
_SISTER_SUITES = ("updates", "proposed-updates", "security")
_SECURITY = "security"

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
        return next(iter(self._show(name, "--no-all-versions", deadline)), None)

    def versions(self, name: str, deadline: Deadline) -> list[Package]:
        """Every version of `name` that can be fetched, the newest of a suite first."""
        return self._show(name, "--all-versions", deadline)

    def _show(self, name: str, which: str, deadline: Deadline) -> list[Package]:
        output = self._run("apt-cache", ("show", which, name), deadline, check=False).output
        return parse_packages(output, name)

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
            UserError: no suite offers the package, or the host names no archive to ask.
            InfraError: no suite's package list can be fetched.
        """
        codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        suites = (codename, f"{codename}-backports", *_NEWER_SUITES)
        archives = self._archives(codename)
        if not archives:
            raise UserError(
                f"the host's apt settings name no archive of {codename or 'its distribution'}",
                where=str(self.settings),
                remedy="add the distribution's own archive to the apt sources",
            )
        failure: InfraError | None = None
        seen = []
        for archive in archives:
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

    def find_all(
        self, name: str, deadline: Deadline
    ) -> tuple[list[tuple[Package, Apt]], list[str]]:
        """What the suites that accompany the host's release offer, and how it is fetched.

        Returns:
            The offers, and the suites that did not answer: they cannot be reached, or the host's
            mirrors have none of that name.
        """
        codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        offers: list[tuple[Package, Apt]] = []
        silent: list[str] = []
        for suite in (codename, *(f"{codename}-{sister}" for sister in _SISTER_SUITES)):
            for archive in self._archives_of(suite, codename):
                apt = self._private(archive, suite)
                try:
                    apt.update(deadline)
                except InfraError:
                    continue
                offers += [(package, apt) for package in apt.versions(name, deadline)]
                break  # the others are mirrors of it
            else:
                silent.append(suite)
        return offers, silent

    def _archives(self, codename: str) -> list[Archive]:
        """The distribution's own archives among the host's sources, by mirror."""
        own = _own_suites(codename)
        archives = {
            archive.uri: archive
            for archive in read_sources(self.settings)
            if own.intersection(archive.suites) and "main" in archive.components
        }
        return list(archives.values())

    def _archives_of(self, suite: str, codename: str) -> list[Archive]:
        """Where a suite of the host's release may be: where the host says so, else by custom."""
        named = [archive for archive in read_sources(self.settings) if suite in archive.suites]
        if named or not suite.endswith(f"-{_SECURITY}"):
            return named or self._archives(codename)
        return [
            replace(archive, uri=f"{archive.uri.rstrip('/')}-{_SECURITY}")
            for archive in self._archives(codename)
        ]

    def _private(self, archive: Archive, suite: str) -> Apt:
        """Settings of our own for one suite: our sources and lists, the host's keys and proxy."""
        return _private_apt(self.state / suite, _stanza(archive, suite))


@dataclass(frozen=True)
class OtherArchitecture:
    """The host's release for an architecture that its dpkg does not know of.

    Attributes:
        name: Debian's name of the architecture.
        state: a folder for lists and settings of our own; created, and kept between runs.
        settings: the host's apt settings.
    """

    name: str
    state: Path
    settings: Path = _APT_SETTINGS

    def fetched(self, deadline: Deadline) -> Apt:
        """Settings with fresh lists of the release and of what accompanies it.

        Raises:
            UserError: the host names no archive to ask.
            InfraError: the lists cannot be fetched; an archive may not have the architecture.
        """
        codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        own = _own_suites(codename)
        stanzas = [
            _stanza(archive, suite)
            for archive in read_sources(self.settings)
            for suite in archive.suites
            if suite.partition("-")[0] in own and "main" in archive.components
        ]
        if not stanzas:
            raise UserError(
                f"the host's apt settings name no archive of {codename or 'its distribution'}",
                where=str(self.settings),
                remedy="add the distribution's own archive to the apt sources",
            )
        apt = _private_apt(
            self.state / self.name,
            "\n".join(stanzas),
            {
                "APT::Architecture": self.name,
                "APT::Architectures": self.name,
                # What is installed here is of an architecture that this apt does not know.
                "Dir::State::Status": "/dev/null",
                # Whoever prefers a suite, does so for every architecture.
                "Dir::Etc::Preferences": str(self.settings / "preferences"),
                "Dir::Etc::PreferencesParts": str(self.settings / "preferences.d"),
            },
        )
        apt.update(deadline)
        return apt


def _own_suites(codename: str) -> set[str]:
    """What a suite of the distribution is called, without those that accompany a release."""
    return {"sid", "oldstable", codename, *_NEWER_SUITES}


def apt_for(architecture: str, state: Path, deadline: Deadline) -> Apt:
    """The package tool with what fetches packages of an architecture, the host's or another.

    Args:
        architecture: Debian's name of it.
        state: see `OtherArchitecture`.

    Raises:
        UserError, InfraError: see `OtherArchitecture`.
    """
    known = {
        name
        for which in ("--print-architecture", "--print-foreign-architectures")
        for name in process.run(["dpkg", which], deadline=deadline).output.split()
    }
    if architecture in known:
        return Apt()
    return OtherArchitecture(architecture, state).fetched(deadline)


def _private_apt(folder: Path, sources: str, further: Mapping[str, str] | None = None) -> Apt:
    """Sources, lists and downloads of our own in `folder`, the host's keys and proxy.

    Args:
        sources: stanzas of a `.sources` file.
        further: other settings.
    """
    parts = folder / "sources"
    with explained(folder.parent):
        for needed in (parts, folder / "lists/partial", folder / "archives/partial"):
            needed.mkdir(parents=True, exist_ok=True)
        (parts / "imakexec.sources").write_text(sources)
    settings = {
        "Dir::State": folder,
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder,
        "Dir::Cache::Archives": folder / "archives",
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": parts,
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Acquire::Languages": "none",
        # Root's apt would fetch as _apt, which cannot write below a private home.
        "APT::Sandbox::User": "root",
        **(further or {}),
    }
    return Apt(tuple(f"-o{key}={value}" for key, value in settings.items()))


def parse_packages(text: str, name: str) -> list[Package]:
    """The versions of a package in the output of `apt-cache show`, in its order.

    What is only installed, and in no list, has no size there and cannot be fetched.
    """
    stanzas = (
        dict(re.findall(r"^(Package|Version|Size): (\S+)$", stanza, re.MULTILINE))
        for stanza in re.split(r"\n\s*\n", text)
    )
    return [
        Package(name, fields["Version"], int(fields["Size"]))
        for fields in stanzas
        if {"Version", "Size"} <= fields.keys() and fields.get("Package", name) == name
    ]


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
