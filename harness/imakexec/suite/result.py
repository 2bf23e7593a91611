# SPDX-License-Identifier: GPL-2.0-only
"""What a run of the tests came to, as data: every report is made from this, now or later.

The form is "imakexec-suite/1", docs/schema/imakexec-suite-1.json. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

from imakexec.strict_json import SHA256_HEX, Value
from imakexec.suite.outcome import Outcome

SCHEMA = "imakexec-suite/1"


@dataclass(frozen=True)
class KernelIdentity:
    """The kernel under test.

    Attributes:
        subject: patched, plain (the base), given (the user's), debug; empty for another one.
        release: `uname -r`.
        banner: the "Linux version ..." line with which it announces itself.
        base: what it was built from: "linux-source-6.1 6.1.176-1", or the user's tree or image.
        patches: the names of the patches on top, in order, each with its SHA-256 in hexadecimal.
        key: a digest of all that it was made of.
        config: SHA-256 of its configuration, in hexadecimal.
        arch: the architecture, as the project calls it.
        features: what it sets out to do, see `KernelProperties`; empty if nobody has looked.
    """

    subject: str
    release: str
    banner: str
    base: str
    patches: tuple[tuple[str, str], ...]
    key: str
    config: str
    arch: str
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """Something that a test did to a machine, and how long it took.

    Attributes:
        name: "boot", "load", "execute".
        at: since the test began.
        seconds: that it took.
    """

    name: str
    at: float
    seconds: float


@dataclass(frozen=True)
class Complaint:
    """What a kernel said that no healthy one says.

    Attributes:
        name: the kind, of `machine.complaint`.
        boot: the boot epoch in which it was said.
        line: the first line, as the console showed it.
        fingerprint: the five innermost functions of its call trace, joined by ":"; may be empty.
        because: why it was allowed here; empty if it was not.
    """

    name: str
    boot: int
    line: str
    fingerprint: str
    because: str


@dataclass(frozen=True)
class Found:
    """A demand that a kernel does not meet.

    Attributes:
        demand: an oracle of the suite, or a claim of the scenario.
        what: what was seen instead.
        defect: the id of the known defect that it is of, in suite/defects.py; empty for none.
    """

    demand: str
    what: str
    defect: str

    def __str__(self) -> str:
        return f"{self.demand}: {self.what}"


@dataclass(frozen=True)
class Attempt:
    """A try of a test that has said nothing about the kernel, and was repeated.

    Attributes:
        why: what was wrong with the host.
        seconds: that it took.
        folder: its artefacts, relative to the document; empty if there are none.
    """

    why: str
    seconds: float
    folder: str


@dataclass(frozen=True)
class TestResult:
    """One test.

    Attributes:
        nodeid: pytest's name of it.
        outcome: in a word.
        why: what was found, which defects have shown, why it was skipped, or what the host lacks.
        ending: how its machine ended if not as it was told to, `machine.watch.Cause`; else empty.
        in_test: whether an INFRA is a mistake in the test's own code, and not the host's.
        started: UTC, ISO 8601 with a final Z.
        seconds: that its last try took.
        budget: that it may take on this host; 0 for none.
        scenario: of the catalogue, if it is of one.
        kernel: that it was tried on; None if it made its own choice or came to none.
        accelerator: "kvm" or "tcg"; empty if no machine was started.
        host: the name of the host that it ran on; empty if it is that of the run.
        verdict: the verifier's on the evidence, `attest.Verdict`; empty if there is none.
        folder: its artefacts, relative to the document; empty if there are none.
        steps: in the order in which they began.
        complaints: of all kernels, in order.
        findings: what the oracles and the claims of a scenario have found, in order.
        mended: the ids of known defects that should have shown and have not.
        attempts: those before the last one.
    """

    __test__ = False  # no test class, whatever pytest makes of its name

    nodeid: str
    outcome: Outcome
    why: tuple[str, ...] = ()
    ending: str = ""
    in_test: bool = False
    started: str = ""
    seconds: float = 0.0
    budget: float = 0.0
    scenario: int | None = None
    kernel: KernelIdentity | None = None
    accelerator: str = ""
    host: str = ""
    verdict: str = ""
    folder: str = ""
    steps: tuple[Step, ...] = ()
    complaints: tuple[Complaint, ...] = ()
    findings: tuple[Found, ...] = ()
    mended: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()

    def to_json(self) -> dict[str, object]:
        """A JSON object."""
        return asdict(self)

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read such an object.

        Raises:
            JsonFault: it is none.
        """
        item = dict(zip(_TEST, value.members(*_TEST), strict=True))
        return cls(
            nodeid=item["nodeid"].string(),
            outcome=_outcome(item["outcome"]),
            why=_strings(item["why"]),
            ending=item["ending"].string(),
            in_test=item["in_test"].boolean(),
            started=item["started"].string(),
            seconds=item["seconds"].number(),
            budget=item["budget"].number(),
            scenario=item["scenario"].optional(Value.natural),
            kernel=item["kernel"].optional(_kernel),
            accelerator=item["accelerator"].string(),
            host=item["host"].string(),
            verdict=item["verdict"].string(),
            folder=item["folder"].string(),
            steps=tuple(map(_step, item["steps"].elements())),
            complaints=tuple(map(_complaint, item["complaints"].elements())),
            findings=tuple(map(_found, item["findings"].elements())),
            mended=_strings(item["mended"]),
            attempts=tuple(map(_attempt, item["attempts"].elements())),
        )


@dataclass(frozen=True)
class SuiteRun:
    """One run of the tests.

    Attributes:
        started: UTC, ISO 8601 with a final Z.
        seconds: from the first test to the last.
        command: the arguments of pytest.
        project: the commit of this project that was run, in hexadecimal, with "-dirty" after it if
            its files have been changed since; empty if nobody knows.
        host: what the tests ran on, for people, by what it is called: system, python, qemu, ...;
            with the name of a host in front for each further one.
        tests: in the order in which they have ended.
    """

    started: str
    seconds: float
    command: tuple[str, ...]
    project: str
    host: Mapping[str, str]
    tests: tuple[TestResult, ...]

    def to_json(self) -> dict[str, object]:
        """A document of the form "imakexec-suite/1"."""
        return {
            "schema": SCHEMA,
            "started": self.started,
            "seconds": self.seconds,
            "command": list(self.command),
            "project": self.project,
            "host": dict(self.host),
            "tests": [test.to_json() for test in self.tests],
        }

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read such a document.

        Raises:
            JsonFault: it is none.
        """
        schema, started, seconds, command, project, host, tests = value.members(
            "schema", "started", "seconds", "command", "project", "host", "tests"
        )
        if schema.string() != SCHEMA:
            raise schema.wrong(f"{SCHEMA!r} expected")
        return cls(
            started=started.string(),
            seconds=seconds.number(),
            command=_strings(command),
            project=project.string(),
            host={item.name: item.string() for item in host.items()},
            tests=tuple(map(TestResult.read, tests.elements())),
        )


_TEST = tuple(item.name for item in fields(TestResult))
_KERNEL = tuple(item.name for item in fields(KernelIdentity))


def _outcome(value: Value) -> Outcome:
    try:
        return Outcome(value.string())
    except ValueError:
        raise value.wrong(f"one of {', '.join(Outcome)} expected") from None


def _strings(value: Value) -> tuple[str, ...]:
    return tuple(item.string() for item in value.elements())


def _kernel(value: Value) -> KernelIdentity:
    item = dict(zip(_KERNEL, value.members(*_KERNEL), strict=True))
    return KernelIdentity(
        subject=item["subject"].string(),
        release=item["release"].string(),
        banner=item["banner"].string(),
        base=item["base"].string(),
        patches=tuple(map(_patch, item["patches"].elements())),
        key=item["key"].string(),
        config=item["config"].matching(SHA256_HEX, "a SHA-256"),
        arch=item["arch"].string(),
        features=_strings(item["features"]),
    )


def _patch(value: Value) -> tuple[str, str]:
    elements = value.elements()
    if len(elements) != 2:
        raise value.wrong("a name and a SHA-256 expected")
    return elements[0].string(), elements[1].matching(SHA256_HEX, "a SHA-256")


def _step(value: Value) -> Step:
    name, at, seconds = value.members("name", "at", "seconds")
    return Step(name.string(), at.number(), seconds.number())


def _complaint(value: Value) -> Complaint:
    name, boot, line, fingerprint, because = value.members(
        "name", "boot", "line", "fingerprint", "because"
    )
    return Complaint(
        name.string(), boot.natural(), line.string(), fingerprint.string(), because.string()
    )


def _found(value: Value) -> Found:
    demand, what, defect = value.members("demand", "what", "defect")
    return Found(demand.string(), what.string(), defect.string())


def _attempt(value: Value) -> Attempt:
    why, seconds, folder = value.members("why", "seconds", "folder")
    return Attempt(why.string(), seconds.number(), folder.string())
