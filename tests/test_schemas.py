# SPDX-License-Identifier: GPL-2.0-only
"""docs/schema says what every document is that a command writes, no more and no less.

The documents are made by the commands and by what the other tests make. Each must hold to its
schema; each property of a schema must stand in some document; and a document that lacks a member,
has one too many, or has one of another type must be refused.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import test_baseline
import test_bench
import test_checkpoint
import test_detached
import test_handover_bench
import test_memory
import test_mutations_report
import test_review_report
import test_series_report
import test_timeline
import test_verdict
import test_verify_bench
import test_workload
from evidence_maker import Machine, Rec, fields, ng, patched_run
from evidence_maker import pack as pack_records
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, validators
from list_writer import BANKS, ENTRIES, ORDERS, Entry, Order, ascii_list, entry, handover, pack
from small_list import small_list
from suite_maker import RUN

from imakexec import cli
from imakexec.attest import Judgement
from imakexec.attest.boot_aggregate import BootAggregateState
from imakexec.attest.checkpoint import ContinuityState
from imakexec.attest.crosscheck import ListForm
from imakexec.attest.listing import list_story, replayed_pcrs
from imakexec.attest.log import ByteOrder, MeasurementLog
from imakexec.attest.markers import MarkerKind
from imakexec.attest.power import TransitionKind
from imakexec.attest.reasons import EXIT_CODES, Flag, Reason, Verdict
from imakexec.attest.replay import HASHES
from imakexec.attest.source import MalformedLog, Source, SourceKind, WholeList
from imakexec.attest.timeline import MarkerState, RowKind
from imakexec.errors import GuestFailure, InfraError
from imakexec.evidence import (
    MANIFEST,
    BootKind,
    EvidenceWriter,
    InvalidEvidence,
    MalformedEvidence,
    Snapshot,
)
from imakexec.machine.accelerator import Accelerator
from imakexec.machine.watch import Cause
from imakexec.memory import memory_document
from imakexec.options import Policy
from imakexec.report import mutations, series
from imakexec.report.machine import error_document, judgement_document
from imakexec.series.cells import Status
from imakexec.series.mutate import Fate
from imakexec.sizing import Caveat, Question, size_growth
from imakexec.suite.outcome import Outcome

PROJECT = Path(__file__).parent.parent
SCHEMAS: Mapping[str, dict[str, Any]] = {
    schema["properties"]["schema"]["const"]: schema
    for path in sorted((PROJECT / "docs/schema").glob("*.json"))
    for schema in [json.loads(path.read_text(encoding="utf-8"))]
}

OPTIONAL = {"kernel_complaints"}
"""Only a run listens to the kernels; what judges its evidence later has nothing to say of them."""
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}

Document = dict[str, Any]


# The schemas themselves.


def parts_of(schema: object) -> Iterator[dict[str, Any]]:
    """A schema and all schemas in it."""
    if isinstance(schema, dict):
        yield schema
        for name, value in schema.items():
            if name in ("properties", "$defs"):
                for part in value.values():
                    yield from parts_of(part)
            elif name in ("items", "additionalProperties", "propertyNames"):
                yield from parts_of(value)
            elif name in ("anyOf", "oneOf"):
                for part in value:
                    yield from parts_of(part)


def objects_of(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts that say which members an object has."""
    return (part for part in parts_of(schema) if "properties" in part and "type" in part)


def test_every_document_has_a_schema() -> None:
    texts = [path.read_text(encoding="utf-8") for path in PROJECT.glob("harness/**/*.py")]
    names = {name for text in texts for name in re.findall(r'"(imakexec-[a-z-]+/\d+)"', text)}
    assert names == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    schema = SCHEMAS[name]
    kind, _, version = name.partition("/")
    assert (PROJECT / f"docs/schema/{kind}-{version}.json").is_file()
    assert schema["$id"] == f"urn:imakexec:schema:{kind}:{version}"
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_strict_and_explains_everything(name: str) -> None:
    schema = SCHEMAS[name]
    for part in objects_of(schema):
        assert part["additionalProperties"] is False, part
        assert set(part["required"]) == set(part["properties"]) - OPTIONAL
        for member, value in part["properties"].items():
            assert re.search(r"\.$", value["description"]), member
    used = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert used == set(schema.get("$defs", {}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("judgement", "list"),
        ("judgement", "checkpoint"),
        ("list", "pcr"),
        ("bench-roundtrip", "bench-handover"),
        ("bench-roundtrip", "bench-verify"),
    ],
)
def test_what_two_schemas_share_is_the_same(one: str, other: str) -> None:
    first, second = (SCHEMAS[f"imakexec-{name}/1"]["$defs"] for name in (one, other))
    shared = (first.keys() & second.keys()) - {"sample", "host"}
    assert shared
    assert {name: first[name] for name in shared} == {name: second[name] for name in shared}


def named(schema: str, *path: str) -> list[object]:
    """The values of an enumeration."""
    part = SCHEMAS[f"imakexec-{schema}/1"]
    for name in path:
        part = part[name]
    values: list[object] = part["enum"]
    return values


@pytest.mark.parametrize(
    ("found", "known"),
    [
        (named("judgement", "properties", "verdict"), Verdict),
        (named("judgement", "properties", "exit_code"), EXIT_CODES.values()),
        (named("judgement", "properties", "reason"), Reason),
        (named("judgement", "properties", "flags", "items"), Flag),
        (named("judgement", "$defs", "continuity", "properties", "state"), ContinuityState),
        (named("judgement", "$defs", "boot", "properties", "kind"), BootKind),
        (named("judgement", "$defs", "layout", "properties", "bank"), HASHES),
        (named("checkpoint", "properties", "bank"), HASHES),
        (named("checkpoint", "properties", "byteorder"), ByteOrder),
        (named("judgement", "$defs", "transition", "properties", "kind"), TransitionKind),
        (named("judgement", "$defs", "row", "properties", "kind"), RowKind),
        (named("judgement", "$defs", "marker", "properties", "kind"), MarkerKind),
        (named("judgement", "$defs", "handover", "properties", "markers"), MarkerState),
        (named("judgement", "$defs", "boot_aggregate", "properties", "state"), BootAggregateState),
        (named("list", "properties", "byteorder"), ByteOrder),
        (named("list", "properties", "bank"), HASHES),
        (named("list", "$defs", "part", "properties", "kind"), SourceKind),
        (named("list", "$defs", "check", "properties", "form"), ListForm),
        (named("list", "$defs", "check", "properties", "bank"), HASHES),
        (named("pcr", "$defs", "values", "propertyNames"), HASHES),
        (named("size", "properties", "caveats", "items"), Caveat),
        (named("size", "$defs", "watch", "properties", "accelerator"), Accelerator),
        (named("size", "$defs", "watch", "properties", "policy"), Policy),
        (named("evidence", "$defs", "boot", "properties", "transition"), BootKind),
        (named("bench-roundtrip", "$defs", "host", "properties", "accelerator"), Accelerator),
        (named("series-check", "$defs", "cell", "properties", "status"), Status),
        (named("series-mutate", "$defs", "mutation", "properties", "fate"), Fate),
        (named("suite", "$defs", "test", "properties", "outcome"), Outcome),
        (named("suite", "$defs", "test", "properties", "ending"), ["", *Cause]),
        (named("suite", "$defs", "test", "properties", "accelerator"), ["", *Accelerator]),
        (named("suite", "$defs", "test", "properties", "verdict"), ["", *Verdict]),
    ],
)
def test_enumerations_are_those_of_the_code(found: list[object], known: Sequence[object]) -> None:
    assert sorted(map(str, found)) == sorted(map(str, known))


def test_verdict_exit_code_and_reason_belong_together() -> None:
    said = {
        (each["verdict"]["const"], each["exit_code"]["const"], reason)
        for case in SCHEMAS["imakexec-judgement/1"]["oneOf"]
        for each in [case["properties"]]
        for reason in each["reason"]["enum"]
    }
    assert said == {(each.verdict, EXIT_CODES[each.verdict], each) for each in Reason}


# Documents.


def written_by(folder: Path, *arguments: str | Path) -> Document:
    """What a command writes with --json, whatever it ends with."""
    result = folder / "result.json"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", ["imakexec", *map(str, arguments), f"--json={result}"])
        with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit):
            cli.main()
    document: Document = json.loads(result.read_text())
    return document


def saved(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def judged_by_tests(module: Any) -> list[Judgement]:
    """Every judgement that the tests of a module come to, of those that need nothing."""
    found: list[Judgement] = []
    judge = module.judge

    def keep(*arguments: Any, **named: Any) -> Judgement:
        found.append(judge(*arguments, **named))
        return found[-1]

    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "judge", keep)
        for test in tests:
            if not inspect.signature(test).parameters:
                test()
    return found


def shape(value: object) -> str:
    """The same for documents that a schema cannot tell apart, but for numbers and texts."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {shape(item)}' for name, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(sorted(set(map(shape, value))))}]"
    return type(value).__name__


def judgements(folder: Path) -> Iterator[Document]:
    kept = test_verdict.save(patched_run(3), folder / "evidence")
    yield written_by(folder, "verify", kept)
    (kept / "ak.pem").write_text("")
    yield written_by(folder, "verify", kept)
    (folder / "none").mkdir()
    (folder / "none" / MANIFEST).write_text("{}")
    yield written_by(folder, "verify", folder / "none")
    seen: dict[tuple[object, str], Document] = {}
    for judgement in [*judged_by_tests(test_verdict), *judged_by_tests(test_timeline)]:
        document = judgement_document(judgement, folder=folder)
        seen.setdefault((judgement.reason, shape(judgement.to_json())), document)
    yield from seen.values()
    for judgement in judged_by_tests(test_checkpoint):
        yield judgement_document(judgement, folder=folder)
    yield from detached(folder)
    for _, mutate, *_ in test_verdict.MUTATIONS:
        records = list(patched_run(25).records)
        mutate(records)
        judgement = test_verdict.with_last_log(patched_run(25), records)
        yield judgement_document(judgement, folder=folder, complaints=["ima: it is full"])


def detached(folder: Path) -> Iterator[Document]:
    log, text = test_detached.LOG, saved(folder, "text", ascii_list(small_list()))
    quote = test_detached.options("p256", "pem")
    yield written_by(folder, "verify", log, *quote, "--against", text)
    text.write_bytes(ascii_list(small_list()).replace(b"true", b"evil"))
    yield written_by(folder, "verify", log, *quote, "--against", text)
    yield written_by(folder, "verify", log, f"--pcr=sha256:10={'00' * 32}")
    yield written_by(folder, "verify", text, *quote)


def checkpoints(_: Path) -> Iterator[Document]:
    yield test_checkpoint.anchored()[1].to_json()
    machine = patched_run(3)
    yield test_checkpoint.kept(test_checkpoint.now(machine)).to_json()


def lists(folder: Path) -> Iterator[Document]:
    records = patched_run(3).records
    story = saved(folder, "story", pack_records(records))
    yield written_by(folder, "show", story)
    rest = saved(folder, "rest", pack_records(records[3:]))
    yield written_by(folder, "show", rest)
    yield written_by(folder, "show", rest, "--prepend", story)
    yield written_by(folder, "show", story, "--prepend", story)
    for template in ("ima", "ima-modsig", "evm-sig", "d-ng|n-ng", "d-ng|future"):
        yield written_by(folder, "show", saved(folder, "l", pack([entry(template=template)])))
    entries = [entry(), replace(entry("/v"), violation=True), entry("/b", pcr=11)]
    plain = saved(folder, "plain", pack(entries, bank="sha256"))
    others = [
        saved(folder, "same", ascii_list(entries)),
        saved(folder, "short", pack(entries[:1], bank="sha512")),
        saved(folder, "long", ascii_list([*entries, entry("/more")], bank="sha384")),
        saved(folder, "other", pack([entry("/B")])),
    ]
    yield written_by(folder, "show", plain, *[f"--against={other}" for other in others])
    wrong = [*entries, replace(entry("/x"), digest=bytes(range(20)))]
    yield written_by(folder, "show", saved(folder, "wrong", pack(wrong)))
    cut = handover(entries, size=len(handover(entries)) - 7)
    yield written_by(folder, "show", saved(folder, "buffer", cut))
    dump = bytes(4096) + handover(entries[:1], "big") + cut + bytes(99) + handover(entries, "big")
    yield written_by(folder, "show", saved(folder, "dump", dump))


def pcrs(folder: Path) -> Iterator[Document]:
    entries = [entry(), replace(entry("/v"), violation=True), entry("/b", pcr=17)]
    plain = saved(folder, "plain", pack(entries))
    yield written_by(folder, "pcr", plain)
    yield written_by(folder, "pcr", plain, *[f"--bank={bank}" for bank in BANKS])
    wrong = [*entries, replace(entry("/x"), digest=bytes(range(20)))]
    yield written_by(folder, "pcr", saved(folder, "wrong", pack(wrong)))
    cut = handover(entries, size=len(handover(entries)) - 7)
    dump = bytes(9) + handover(entries[:1], "big") + cut
    yield written_by(folder, "pcr", saved(folder, "dump", dump))


def sizings(folder: Path) -> Iterator[Document]:
    custom = Rec(b"d-ng|n-ng", fields(b"sha1:\0" + bytes(20), b"/a\0"))
    records = [custom, *(ng(f"/{n:04}") for n in range(500))]
    paths = [saved(folder, f"{n}", pack_records(records[: 100 * n])) for n in range(1, 4)]
    yield written_by(folder, "size", paths[0])
    at = ["--at=2026-03-01T12:00", "--at=2026-03-01T13:00", "--at=2026-03-01T15:00"]
    for window in ("1m", "2h", "10h"):
        yield written_by(folder, "size", *paths, *at, f"--window={window}")
    yield written_by(folder, "size", paths[0], paths[0], *at[:2])
    for guest in (test_workload.FakeGuest(), test_workload.FakeGuest(ends=7, own=(2,))):
        readings = test_workload.read(guest)
        yield test_workload.sizing(readings, Question(), ended=bool(readings.end)).to_json()


def errors(folder: Path) -> Iterator[Document]:
    yield written_by(folder, "size", folder / "there-is-none")
    yield written_by(folder, "verify", folder / "there-is-none")
    yield written_by(folder, "show", saved(folder, "zeros", bytes(99)))
    yield error_document(InfraError("the host failed"))
    yield error_document(GuestFailure("the kernel panicked", tail="not this"))
    yield error_document(InvalidEvidence("damaged", file="f"))
    yield error_document(MalformedEvidence("no JSON", file="f", field="a"))
    yield error_document(MalformedLog(Reason.NOT_A_LIST, "no list", where="f", remedy="none"))


def manifests(folder: Path) -> Iterator[Document]:
    def manifest(place: Path) -> Document:
        document: Document = json.loads((place / MANIFEST).read_text())
        return document

    yield manifest(test_verdict.save(patched_run(3), folder / "whole"))
    with EvidenceWriter.create(folder / "partial") as writer:
        yield manifest(writer.folder)
        machine = Machine()
        machine.boot()
        writer.set_run({"harness": "1", "host": {"system": None, "cpus": [1, 2]}})
        writer.add_snapshot(Snapshot("quote-only", 0, machine.quote(), None, None))
        yield manifest(writer.folder)
    yield manifest(writer.folder)


def benchmarks(_: Path) -> Iterator[Document]:
    yield test_bench.figures().to_json()


def handovers(_: Path) -> Iterator[Document]:
    yield test_handover_bench.figures(counted=True).to_json()
    yield test_handover_bench.figures(counted=False).to_json()


def verifications(_: Path) -> Iterator[Document]:
    yield test_verify_bench.FIGURES.to_json()


def checks(_: Path) -> Iterator[Document]:
    yield series.document(test_series_report._REPORT)


def broken(_: Path) -> Iterator[Document]:
    yield mutations.document([], 9)
    for fate in Fate:
        yield mutations.document([test_mutations_report.outcome(fate)], 9)


def suites(_: Path) -> Iterator[Document]:
    yield RUN.to_json()


def baselines(_: Path) -> Iterator[Document]:
    yield test_baseline.KEPT.to_json()
    failed = replace(test_review_report.FAIL, defects=("A1",))
    yield replace(test_baseline.KEPT, endings={"a[*]": failed}, counted=False).to_json()


def memories(folder: Path) -> Iterator[Document]:
    for found in test_memory.verdicts(folder):
        yield memory_document(found)


MAKERS: Mapping[str, Callable[[Path], Iterator[Document]]] = {
    "imakexec-judgement/1": judgements,
    "imakexec-checkpoint/1": checkpoints,
    "imakexec-list/1": lists,
    "imakexec-pcr/1": pcrs,
    "imakexec-size/1": sizings,
    "imakexec-error/1": errors,
    "imakexec-evidence/1": manifests,
    "imakexec-bench-roundtrip/1": benchmarks,
    "imakexec-bench-handover/1": handovers,
    "imakexec-bench-verify/1": verifications,
    "imakexec-series-check/1": checks,
    "imakexec-series-mutate/1": broken,
    "imakexec-suite/1": suites,
    "imakexec-baseline/1": baselines,
    "imakexec-memory/1": memories,
}

# A list on its own has no earlier snapshots and no quotes.
NEVER_KNOWN = {
    "imakexec-list/1": {"next_size", "lost", "whole_prefix", "recomputed", "clock"},
}

# The members of what is never known.
NEVER_THERE = {"imakexec-list/1": list(SCHEMAS["imakexec-list/1"]["$defs"]["clock"]["properties"])}


class Documents:
    """The documents of each schema, as a reader of JSON sees them, made when first wanted."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder
        self._made: dict[str, list[Document]] = {}

    def __call__(self, name: str) -> list[Document]:
        if name not in self._made:
            made = MAKERS[name](self._folder("documents"))
            self._made[name] = [json.loads(json.dumps(document)) for document in made]
        return self._made[name]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return Documents(tmp_path_factory.mktemp)


class Recorder:
    """A validator that remembers what it has looked at.

    Attributes:
        present: ids of the parts of the schema that stand for members which were there.
        known: of those, the ones whose member was not null.
        closed: id of each object that must have certain members, to these.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self.present: set[int] = set()
        self.known: set[int] = set()
        self.closed: dict[int, list[str]] = {}
        standard = Draft202012Validator.VALIDATORS

        def properties(validator: Any, parts: Any, instance: Any, whole: Any) -> Any:
            for name, part in parts.items() if isinstance(instance, dict) else ():
                if name in instance:
                    self.present.add(id(part))
                    if instance[name] is not None:
                        self.known.add(id(part))
            return standard["properties"](validator, parts, instance, whole)

        def required(validator: Any, names: Any, instance: Any, whole: Any) -> Any:
            if isinstance(instance, dict):
                self.closed[id(instance)] = names
            return standard["required"](validator, names, instance, whole)

        extend: Callable[..., Any] = validators.extend
        extended = extend(Draft202012Validator, {"properties": properties, "required": required})
        self._validator = extended(schema)

    def faults(self, document: Document) -> list[str]:
        """What is wrong with a document."""
        return [
            f"{fault.json_path}: {fault.message}" for fault in self._validator.iter_errors(document)
        ]


def test_every_schema_has_documents() -> None:
    assert set(MAKERS) == set(SCHEMAS)


@pytest.mark.parametrize("name", MAKERS)
def test_documents_hold_to_their_schema_and_show_all_of_it(documents: Documents, name: str) -> None:
    schema = SCHEMAS[name]
    recorder = Recorder(schema)
    for document in documents(name):
        assert recorder.faults(document) == []
    members = [each for whole in objects_of(schema) for each in whole["properties"].items()]
    unseen = [member for member, part in members if id(part) not in recorder.present]
    assert unseen == NEVER_THERE.get(name, [])
    unknown = {member for member, part in members if id(part) not in recorder.known}
    assert unknown == NEVER_KNOWN.get(name, set()) | set(unseen)


def test_every_verdict_and_most_reasons_are_among_the_judgements(documents: Documents) -> None:
    found = documents("imakexec-judgement/1")
    assert {document["verdict"] for document in found} == set(Verdict)
    assert len({document["reason"] for document in found}) >= 24


Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Breakage:
    """One way to make a document wrong.

    Args:
        what: is done.
        place: where: the way from the document's root to a member, or to an element.
        value: what is put there; None to take away what is there.
    """

    what: str
    place: Place
    value: object = None

    def applied(self, document: Document) -> Document:
        broken: Any = copy.deepcopy(document)
        at = broken
        for step in self.place[:-1]:
            at = at[step]
        if self.value is None:
            del at[self.place[-1]]
        else:
            at[self.place[-1]] = self.value
        broken_document: Document = broken
        return broken_document


def breakages(value: object, closed: Mapping[int, list[str]], place: Place) -> Iterator[Breakage]:
    """All of them, for a value and what is in it."""
    if place:
        # What is null may be a text, a number, an array or an object elsewhere, but not this one.
        other: object = {"?": 1} if value is None else 7 if isinstance(value, str) else "7"
        yield Breakage("another type", place, other)
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from breakages(item, closed, (*place, at))
    elif isinstance(value, dict):
        if id(value) in closed:
            yield Breakage("one too many", (*place, "surplus"), "x")
            yield from (Breakage("missing", (*place, name)) for name in closed[id(value)])
        for name, item in value.items():
            if place == ("run",):
                continue  # free, and for people
            yield from breakages(item, closed, (*place, name))


def kind_of(place: Place, value: object) -> tuple[str, ...]:
    """The same for places that a schema cannot tell apart."""
    steps = ["*" if isinstance(step, int) or "/" in step else step for step in place]
    return (*steps, type(value).__name__)


@pytest.mark.parametrize("name", MAKERS)
def test_documents_that_are_wrong_are_refused(documents: Documents, name: str) -> None:
    recorder, done = Recorder(SCHEMAS[name]), set[tuple[str, ...]]()
    for document in documents(name):
        recorder.closed.clear()
        assert recorder.faults(document) == []
        for breakage in breakages(document, dict(recorder.closed), ()):
            kind = kind_of((breakage.what, *breakage.place), breakage.value)
            if kind not in done:
                done.add(kind)
                broken = breakage.applied(document)
                assert recorder.faults(broken), f"{breakage} is not noticed"
    assert len(done) > 3


@pytest.mark.parametrize("patch", [[], ["x"], ["x", "y"], ["x", "0" * 64, "z"], [1, "0" * 64]])
def test_a_patch_of_a_kernel_is_a_name_and_a_digest(patch: list[object]) -> None:
    document: Any = json.loads(json.dumps(RUN.to_json()))
    patches = document["tests"][0]["kernel"]["patches"]
    patches.append(["x", "0" * 64])
    assert VALIDATORS["imakexec-suite/1"].is_valid(document)
    patches[-1] = patch
    assert not VALIDATORS["imakexec-suite/1"].is_valid(document)


@given(ENTRIES, st.sampled_from(ORDERS))
def test_any_list_has_documents_of_their_schemas(entries: list[Entry], order: Order) -> None:
    log = MeasurementLog.parse(pack(entries, order))
    whole = WholeList(log, (Source(Path("list"), SourceKind.LIST, log),))
    found = [
        list_story(whole, {}).to_json(),
        replayed_pcrs(whole, BANKS).to_json(),
        size_growth(log, [len(log)], [], Question(), paths=[Path("list")]).to_json(),
    ]
    for document in found:
        assert VALIDATORS[str(document["schema"])].is_valid(document)
