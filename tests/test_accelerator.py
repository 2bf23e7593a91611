# SPDX-License-Identifier: GPL-2.0-only
import json
from pathlib import Path

import pytest

from imakexec.arch import ARCHES, X86_64
from imakexec.errors import InfraError, UserError
from imakexec.machine import accelerator as module
from imakexec.machine.accelerator import (
    Accelerator,
    KvmAnswer,
    judge_kvm,
    probe,
    probe_accelerator,
    probe_argv,
    recall,
    remember,
)

KEY = {"boot_id": "1", "qemu": "QEMU 7.2", "modules": "kvm kvm_intel"}
SILENT = "printed nothing within 3 s"


def guests(*, kvm: str, tcg: str) -> tuple[list[Accelerator], KvmAnswer]:
    tried: list[Accelerator] = []

    def boots(accelerator: Accelerator, _seconds: float) -> str:
        tried.append(accelerator)
        return kvm if accelerator is Accelerator.KVM else tcg

    return tried, judge_kvm(boots)


def test_a_guest_that_runs_proves_kvm() -> None:
    tried, answer = guests(kvm="", tcg="unused")
    assert (answer.works, answer.lasting) == (True, True)
    assert tried == [Accelerator.KVM]


def test_a_guest_that_hangs_only_under_kvm_condemns_it() -> None:
    _, answer = guests(kvm=SILENT, tcg="")
    assert not answer.works
    assert answer.lasting
    assert answer.reason == "KVM opened but the probe guest printed nothing within 3 s"


def test_a_guest_that_runs_nowhere_is_not_remembered_against_kvm() -> None:
    _, answer = guests(kvm=SILENT, tcg=SILENT)
    assert not answer.works
    assert not answer.lasting
    assert "the kernel may be at fault" in answer.reason


def test_an_answer_is_remembered_under_its_key(tmp_path: Path) -> None:
    note = tmp_path / "cache" / "kvm.json"
    answer = KvmAnswer(False, "KVM opened but", lasting=True)
    remember(note, KEY, answer)
    assert recall(note, KEY) == answer
    assert [path.name for path in note.parent.iterdir()] == ["kvm.json"]


@pytest.mark.parametrize("changed", KEY)
def test_another_boot_qemu_or_module_asks_again(tmp_path: Path, changed: str) -> None:
    remember(tmp_path / "kvm.json", KEY, KvmAnswer(True, "", lasting=True))
    assert recall(tmp_path / "kvm.json", KEY | {changed: "other"}) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", json.dumps({"key": KEY}), "\x00"])
def test_a_damaged_note_is_no_answer(tmp_path: Path, content: str) -> None:
    (tmp_path / "kvm.json").write_text(content)
    assert recall(tmp_path / "kvm.json", KEY) is None


def test_a_missing_device_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEVICE", tmp_path / "kvm")
    choice = probe_accelerator(X86_64, forced=None, memory=tmp_path, kernel=None)
    assert choice.accelerator is Accelerator.TCG
    assert choice.reason == f"KVM: {tmp_path}/kvm is missing"


def test_forced_kvm_that_does_not_work_is_the_host_s_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEVICE", tmp_path / "kvm")
    with pytest.raises(InfraError, match="is missing"):
        probe_accelerator(X86_64, forced=Accelerator.KVM, memory=tmp_path, kernel=None)


@pytest.mark.parametrize("host", ["x86_64", "aarch64"])
def test_kvm_is_out_of_the_question_for_another_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: host)
    monkeypatch.setattr(module, "_DEVICE", tmp_path / "kvm")
    for arch in ARCHES.values():
        choice = probe_accelerator(arch, forced=None, memory=tmp_path, kernel=None)
        assert choice.accelerator is Accelerator.TCG
        same = "kvm is missing" in choice.reason
        assert same == (arch.uname == host)
        assert same or choice.reason == f"KVM: the host is {host}, the guest {arch.uname}"
    with pytest.raises(UserError, match=f"the host is {host}"):
        probe_accelerator(
            next(arch for arch in ARCHES.values() if arch.uname != host),
            forced=Accelerator.KVM,
            memory=tmp_path,
            kernel=None,
        )


def test_forced_tcg_asks_nobody(tmp_path: Path) -> None:
    choice = probe_accelerator(X86_64, forced=Accelerator.TCG, memory=tmp_path, kernel=None)
    assert (choice.accelerator, choice.forced) == (Accelerator.TCG, True)


def test_the_probe_guest_runs_under_what_is_probed() -> None:
    argv = probe_argv(X86_64, Path("bzImage"), Accelerator.KVM)
    assert argv[argv.index("-accel") + 1] == "kvm"
    assert argv[argv.index("-kernel") + 1] == "bzImage"


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ("echo '[    0.000000] Linux version 6.1.0 (a@b)'; exec sleep 60", ""),
        ("exec sleep 60", "printed nothing within 0 s"),
        ("echo SeaBIOS; exec sleep 60", "printed no banner within 0 s"),
        ("echo 'failed to initialize kvm'; exit 1", "status 1: failed to initialize kvm"),
    ],
)
def test_what_a_probe_guest_can_do(
    script: str, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "probe_argv", lambda *_: ("sh", "-c", script))
    seen = probe(X86_64, Path("bzImage"), Accelerator.KVM, 0.3)
    assert seen.endswith(trouble)
    assert bool(seen) == bool(trouble)
