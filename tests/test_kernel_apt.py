# SPDX-License-Identifier: GPL-2.0-only
"""The host's apt settings are read in both of their forms, and never written."""

from __future__ import annotations

from pathlib import Path

import pytest

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.kernel.apt import (
    Apt,
    Archive,
    OtherArchitecture,
    OtherSuites,
    apt_for,
    parse_deb822,
    parse_one_line,
    parse_packages,
    read_sources,
)
from imakexec.progress import SilentProgress

_DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian http://second.example/debian
Suites: bookworm
  bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

types: deb
uris: http://key.example/debian
suites: stable
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_deb822_stanzas() -> None:
    suites = ("bookworm", "bookworm-updates")
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    first, second, key = parse_deb822(_DEB822)
    assert first == Archive("http://mirror.example/debian", suites, ("main", "contrib"), keyring)
    assert second == Archive("http://second.example/debian", suites, ("main", "contrib"), keyring)
    assert key.suites == ("stable",)
    assert key.signed_by.splitlines()[0] == "-----BEGIN PGP PUBLIC KEY BLOCK-----"
    assert key.signed_by.splitlines()[1:3] == [".", "abc"]


@pytest.mark.parametrize(
    ("line", "archive"),
    [
        (
            "deb http://m.example/debian bookworm main contrib # why",
            Archive("http://m.example/debian", ("bookworm",), ("main", "contrib"), ""),
        ),
        (
            "deb [arch=amd64 signed-by=/a.gpg,/b.gpg] https://m.example/d sid main",
            Archive("https://m.example/d", ("sid",), ("main",), "/a.gpg /b.gpg"),
        ),
        ("deb http://flat.example/ ./", Archive("http://flat.example/", ("./",), (), "")),
    ],
)
def test_one_line_entries(line: str, archive: Archive) -> None:
    assert list(parse_one_line(line)) == [archive]


@pytest.mark.parametrize("line", ["", "# deb http://m/ s main", "deb-src http://m/ s main", "debx"])
def test_lines_that_name_no_archive_of_binaries(line: str) -> None:
    assert list(parse_one_line(line)) == []


def _settings(folder: Path, sources: str) -> Path:
    (folder / "sources.list.d").mkdir(parents=True)
    (folder / "sources.list.d/debian.sources").write_text(sources)
    return folder


def test_all_files_are_read_but_no_cd(tmp_path: Path) -> None:
    _settings(tmp_path, "Types: deb\nURIs: http://a/\nSuites: stable\nComponents: main\n")
    (tmp_path / "sources.list").write_text("deb cdrom:[Debian]/ bookworm main\ndeb http://b/ s m\n")
    assert [archive.uri for archive in read_sources(tmp_path)] == ["http://b/", "http://a/"]


class _FakeApt:
    """Answers in the place of the package tool; knows which suites exist and what they offer."""

    def __init__(self, suites: dict[str, str], settings: Path) -> None:
        self.suites = suites
        self.settings = settings
        self.asked: list[str] = []
        self.stanzas: list[str] = []

    def run(self, argv: list[str], **_: object) -> process.Completed:
        [parts] = [a.partition("=")[2] for a in argv if a.startswith("-oDir::Etc::SourceParts")]
        assert not Path(parts).is_relative_to(self.settings)
        stanza = (Path(parts) / "imakexec.sources").read_text()
        suite = stanza.partition("Suites: ")[2].partition("\n")[0]
        if argv[-1] == "update":
            self.asked.append(suite)
            self.stanzas.append(stanza)
            if suite not in self.suites:
                raise InfraError("no Release file")
            return process.Completed(0, "")
        offered = argv[-1] == self.suites[suite]
        fields = "Version: 7.3-1\nSize: 5\n"
        return process.Completed(0 if offered else 100, fields if offered else "E: none")


def _fake(monkeypatch: pytest.MonkeyPatch, settings: Path, suites: dict[str, str]) -> _FakeApt:
    fake = _FakeApt(suites, settings)
    monkeypatch.setattr(process, "run", fake.run)
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    return fake


_HOST = "Types: deb\nURIs: http://m.example/debian\nSuites: bookworm\nComponents: main\n"


def test_the_nearest_suite_that_offers_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path / "etc", _HOST + "Signed-By: /k.gpg\n")
    suites = {"bookworm": "linux-source-6.1", "stable-backports": "linux-source-7.3"}
    fake = _fake(monkeypatch, settings, suites)
    others = OtherSuites(tmp_path / "state", settings)
    with SilentProgress().step("look") as step:
        package, apt = others.find("linux-source-7.3", step, Deadline.after(5))
    assert package.version == "7.3-1"
    assert fake.asked == ["bookworm", "bookworm-backports", "stable", "stable-backports"]
    assert any("stable-backports" in option for option in apt.options)
    assert "URIs: http://m.example/debian\n" in fake.stanzas[-1]
    assert "Signed-By: /k.gpg\n" in fake.stanzas[-1]


def test_a_package_that_nobody_offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(tmp_path / "etc", _HOST)
    _fake(monkeypatch, settings, {"bookworm": "linux-source-6.1"})
    others = OtherSuites(tmp_path / "state", settings)
    with SilentProgress().step("look") as step, pytest.raises(UserError) as caught:
        others.find("linux-source-9.9", step, Deadline.after(5))
    assert "linux-source-9.9" in caught.value.what
    assert caught.value.where == "suites asked: bookworm"


def test_no_network_is_not_a_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path / "etc", _HOST)
    _fake(monkeypatch, settings, {})
    others = OtherSuites(tmp_path / "state", settings)
    with SilentProgress().step("look") as step, pytest.raises(InfraError, match="no Release file"):
        others.find("linux-source-7.3", step, Deadline.after(5))


def test_a_host_without_an_archive_of_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    third_party = "Types: deb\nURIs: http://x/\nSuites: nodistro\nComponents: main\n"
    settings = _settings(tmp_path / "etc", third_party)
    _fake(monkeypatch, settings, {})
    others = OtherSuites(tmp_path / "state", settings)
    with SilentProgress().step("look") as step, pytest.raises(UserError, match="name no archive"):
        others.find("linux-source-7.3", step, Deadline.after(5))


_SHOWN = """\
Package: linux-source-6.1
Version: 6.1.192-2
Size: 139000001
Description: source
 Version: not a field

Package: linux-source-6.1
Version: 6.1.192-1
Size: 139000000

Package: linux-source-6.1
Status: install ok installed
Version: 6.1.100-1
"""


def test_versions_are_read_in_their_order_without_what_is_only_installed() -> None:
    versions = [package.version for package in parse_packages(_SHOWN, "linux-source-6.1")]
    assert versions == ["6.1.192-2", "6.1.192-1"]
    assert parse_packages("E: No packages found\n", "linux-source-9.9") == []


def _find_all(tmp_path: Path, settings: Path, monkeypatch: pytest.MonkeyPatch) -> _FakeApt:
    offered = "linux-source-7.3"
    fake = _fake(monkeypatch, settings, {"bookworm-updates": offered, "bookworm-security": offered})
    found, silent = OtherSuites(tmp_path / "state", settings).find_all(offered, Deadline.after(5))
    assert silent == ["bookworm", "bookworm-proposed-updates"]
    assert [package.version for package, _ in found] == ["7.3-1", "7.3-1"]
    return fake


def test_sister_suites_are_asked_and_may_be_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path / "etc", _HOST + "Signed-By: /k.gpg\n")
    fake = _find_all(tmp_path, settings, monkeypatch)
    assert fake.asked == [
        "bookworm",
        "bookworm-updates",
        "bookworm-proposed-updates",
        "bookworm-security",
    ]
    # By custom, security has an archive beside the main one, with its keys.
    assert "URIs: http://m.example/debian-security\n" in fake.stanzas[-1]
    assert "Signed-By: /k.gpg\n" in fake.stanzas[-1]


def test_the_hosts_own_security_archive_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    security = _HOST.replace("m.example/debian", "s.example/").replace(
        "bookworm", "bookworm-security"
    )
    settings = _settings(tmp_path / "etc", f"{_HOST}\n{security}")
    fake = _find_all(tmp_path, settings, monkeypatch)
    assert "URIs: http://s.example/\n" in fake.stanzas[-1]


def test_a_host_without_archives_has_no_sister_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path / "etc", "")
    _fake(monkeypatch, settings, {})
    others = OtherSuites(tmp_path / "state", settings)
    offers, silent = others.find_all("linux-source-7.3", Deadline.after(5))
    assert (offers, len(silent)) == ([], 4)


# Another architecture.


_RELEASE = """\
Types: deb
URIs: http://m.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /k.gpg

Types: deb
URIs: http://m.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://x.example/cloud
Suites: cloud-sdk-bookworm
Components: main
"""


def _apt_of_arm64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Apt, str]:
    """The settings that fetch its packages, and the sources in them."""
    settings = _settings(tmp_path / "etc", _RELEASE)
    calls: list[list[str]] = []

    def run(argv: list[str], **_: object) -> process.Completed:
        calls.append(argv)
        return process.Completed(0, "")

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    apt = OtherArchitecture("arm64", tmp_path / "state", settings).fetched(Deadline.after(5))
    [update] = calls
    assert update[-1] == "update"
    assert "APT::Update::Error-Mode=any" in update
    assert set(apt.options) <= set(update)
    return apt, (tmp_path / "state/arm64/sources/imakexec.sources").read_text()


def test_another_architecture_has_an_apt_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt, _ = _apt_of_arm64(tmp_path, monkeypatch)
    settings = dict(option.removeprefix("-o").split("=", 1) for option in apt.options)
    assert settings["APT::Architecture"] == settings["APT::Architectures"] == "arm64"
    # Nothing of the host's is written, and what is installed on it does not count.
    for name in ("Dir::State", "Dir::State::Lists", "Dir::Cache", "Dir::Cache::Archives"):
        assert Path(settings[name]).is_relative_to(tmp_path / "state/arm64")
    assert settings["Dir::State::Status"] == settings["Dir::Etc::SourceList"] == "/dev/null"
    assert settings["Dir::Etc::Preferences"] == str(tmp_path / "etc/preferences")


def test_another_architecture_comes_from_the_host_s_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, sources = _apt_of_arm64(tmp_path, monkeypatch)
    found = list(parse_deb822(sources))
    assert [(archive.uri, *archive.suites) for archive in found] == [
        ("http://m.example/debian", "bookworm"),
        ("http://m.example/debian", "bookworm-updates"),
        ("http://m.example/debian-security", "bookworm-security"),
    ]
    assert [archive.signed_by for archive in found] == ["/k.gpg", "/k.gpg", ""]


def test_another_architecture_of_a_host_without_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path / "etc", "")
    _fake(monkeypatch, settings, {})
    with pytest.raises(UserError, match="name no archive of bookworm"):
        OtherArchitecture("arm64", tmp_path / "state", settings).fetched(Deadline.after(5))


@pytest.mark.parametrize(("native", "foreign"), [("arm64", ""), ("amd64", "i386\narm64\n")])
def test_an_architecture_of_the_host_is_left_to_its_own_apt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: str, foreign: str
) -> None:
    answers = {"--print-architecture": native, "--print-foreign-architectures": foreign}

    def run(argv: list[str], **_: object) -> process.Completed:
        return process.Completed(0, answers[argv[1]])

    monkeypatch.setattr(process, "run", run)
    assert apt_for("arm64", tmp_path, Deadline.after(5)) == Apt()
    assert list(tmp_path.iterdir()) == []
