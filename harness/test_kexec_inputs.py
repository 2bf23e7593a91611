# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 25: what is loaded is measured before it can run, or refused.

The digests are those of this very load: an older record of the same name proves nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from conftest import Subject
from imakexec import scenario
from imakexec.kernel.build import KernelRequest
from imakexec.machine.guest import GuestOSError, Result
from imakexec.scenario import LoadedKernel, Session
from imakexec.scenario.signing import TRUSTED_KEYS, SigningKey, set_signature, trust
from imakexec.suite.defects import LISTED
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(25), pytest.mark.symbols("IMA_WRITE_POLICY")]

APPRAISES = pytest.mark.symbols("IMA_APPRAISE")
LOCKS_DOWN = pytest.mark.symbols("SECURITY_LOCKDOWN_LSM")

POLICY = "/sys/kernel/security/ima/policy"
MEASURE_INPUTS = """
measure func=KEXEC_KERNEL_CHECK
measure func=KEXEC_INITRAMFS_CHECK
measure func=KEXEC_CMDLINE
measure func=CRITICAL_DATA
"""
"""Nothing else: a file that was measured when it was opened is not measured again."""

WANT_SIGNATURE = "appraise func=KEXEC_KERNEL_CHECK appraise_type=imasig\n"
CHECKS_SIGNATURES = (
    "CONFIG_KEXEC_SIG=y",
    "CONFIG_ASYMMETRIC_KEY_TYPE=y",
    "CONFIG_ASYMMETRIC_PUBLIC_KEY_SUBTYPE=y",
    "CONFIG_CRYPTO_ECDSA=y",
    "CONFIG_X509_CERTIFICATE_PARSER=y",
    "CONFIG_SYSTEM_TRUSTED_KEYRING=y",
    f'CONFIG_SYSTEM_TRUSTED_KEYS="{TRUSTED_KEYS}"',
    "CONFIG_INTEGRITY_SIGNATURE=y",
    "CONFIG_INTEGRITY_ASYMMETRIC_KEYS=y",
    # Without it lockdown does not ask IMA, and the rules are of no account.
    "CONFIG_INTEGRITY_TRUSTED_KEYRING=y",
)

RAMFS_MAGIC = 0x858458F6
"""Of the guest's root: include/uapi/linux/magic.h."""

REFUSED_RULES = (
    "measure func=KEXEC_CMDLINE mask=MAY_READ\n",
    "measure func=KEXEC_CMDLINE keyrings=.ima\n",
    "appraise func=KEXEC_CMDLINE appraise_type=imasig\n",
    "audit func=KEXEC_CMDLINE\n",
)

KEEP_ATTRIBUTES = """
set -e
cp -r /boot/next /run/next
busybox mount --bind /run/next /boot/next
"""
"""A shell script: the root is a ramfs, which has no extended attributes."""


def set_policy(session: Session, rules: str) -> None:
    """Replace the policy of the command line."""
    session.guest.write_file(POLICY, rules.lstrip().encode(), session.budget())


def try_load(trial: Trial, option: str) -> Result:
    """Load with kexec -s or -c, whatever comes of it."""
    command = ["kexec", option, "-l", scenario.NEXT_KERNEL, f"--initrd={scenario.NEXT_INITRD}"]
    command.append("--command-line=x")
    result = trial.session.guest.run(command, trial.session.budget(2), check=False)
    if result.code == 0 and option == "-s":
        trial.case |= {LISTED}
    return result


def digests(session: Session, loaded: LoadedKernel) -> dict[str, bytes]:
    """SHA-256 of the inputs of a load, by the names of their records."""
    files = (scenario.NEXT_KERNEL, scenario.NEXT_INITRD)
    text = session.guest.run(["sha256sum", *files], session.budget()).stdout.decode()
    found = {name: bytes.fromhex(digest) for digest, name in map(str.split, text.splitlines())}
    return found | {"kexec-cmdline": hashlib.sha256(loaded.cmdline.encode()).digest()}


def test_inputs_are_measured_and_carried(trial: Trial) -> None:
    with trial.running() as session:
        set_policy(session, MEASURE_INPUTS)
        replaced = trial.load()
        loaded = trial.load()
        inputs = digests(session, loaded)
        first = hashlib.sha256(replaced.cmdline.encode()).digest()
        trial.execute(loaded)

    for snapshot in ("before-execute-0", "boot-1"):
        records = trial.records(snapshot)[len(trial.records("boot")) :]
        measured = [
            (item.name, item.file_digest.value)
            for item in records
            if item.name in inputs and item.file_digest
        ]
        assert measured[:4] == [
            (scenario.NEXT_KERNEL, inputs[scenario.NEXT_KERNEL]),
            (scenario.NEXT_INITRD, inputs[scenario.NEXT_INITRD]),
            ("kexec-cmdline", first),
            ("kexec-cmdline", inputs["kexec-cmdline"]),
        ]


def assert_refused(trial: Trial, result: Result, error: int) -> None:
    """The load has failed with that error, and nothing is loaded."""
    refused = result.code != 0 and os.strerror(error) in result.text
    trial.claim("refused", refused, f"{result.code}: {result.text}")
    loaded = trial.session.guest.read_file("/sys/kernel/kexec_loaded", trial.session.budget())
    trial.claim("nothing loaded", loaded == b"0\n", loaded)


@APPRAISES
@pytest.mark.parametrize("option", ["-s", "-c"])
def test_image_without_a_signature_is_refused_by_appraisal(trial: Trial, option: str) -> None:
    """What comes from memory cannot have one."""
    with trial.running() as session:
        set_policy(session, MEASURE_INPUTS + WANT_SIGNATURE)
        assert_refused(trial, try_load(trial, option), errno.EACCES)


def test_conditions_on_the_command_line_are_heeded_or_refused(trial: Trial) -> None:
    """They are about the file of the kernel; a rule that could never hold must not be taken."""
    with trial.running() as session:
        for rule in REFUSED_RULES:
            with pytest.raises(GuestOSError) as refused:
                set_policy(session, rule)
            assert refused.value.errno == errno.EINVAL, rule
        for rule in ("uid=1", "fsmagic=0x01021994", f"uid=0 fsmagic={RAMFS_MAGIC:#x}"):
            set_policy(session, f"measure func=KEXEC_CMDLINE {rule}\n")
            loaded = trial.load()
        trial.execute(loaded)

    found = [record for record in trial.records("boot-1") if record.name == "kexec-cmdline"]
    assert [item.file_digest.value for item in found if item.file_digest] == [
        hashlib.sha256(loaded.cmdline.encode()).digest()
    ]


@LOCKS_DOWN
@pytest.mark.parametrize(("option", "call"), [("-c", "kexec_load"), ("-s", "kexec_file_load")])
def test_load_that_nothing_can_check_is_refused_by_lockdown(
    trial: Trial, option: str, call: str
) -> None:
    """Be it from memory, or by a kernel that was built to check no signatures."""
    trial.case |= {call}
    with trial.running(cmdline="lockdown=integrity"):
        assert_refused(trial, try_load(trial, option), errno.EPERM)


@pytest.fixture
def checking(subject: Subject, tmp_path: Path) -> KernelRequest:
    """A kernel that asks for signatures, and was built to trust `SigningKey`."""
    patch = tmp_path / "trusted-key.patch"
    patch.write_text(SigningKey().patch())
    return subject.request(symbols=CHECKS_SIGNATURES, further=(patch,))


@APPRAISES
@LOCKS_DOWN
@pytest.mark.nightly  # it takes a kernel of its own
@pytest.mark.parametrize("rule", ["", WANT_SIGNATURE], ids=["lockdown", "appraisal that only logs"])
def test_image_without_a_signature_is_refused_by_lockdown(
    trial: Trial, checking: KernelRequest, rule: str
) -> None:
    """A rule that does not enforce is none to rely on (CVE-2022-21505)."""
    with trial.running(kernel=checking, cmdline="lockdown=integrity ima_appraise=log") as session:
        set_policy(session, MEASURE_INPUTS + rule)
        assert_refused(trial, try_load(trial, "-s"), errno.EPERM)


@APPRAISES
@LOCKS_DOWN
@pytest.mark.nightly
def test_image_with_a_signature_is_loaded(trial: Trial, checking: KernelRequest) -> None:
    """Under lockdown, which relies on the rule; but not with a signature that is another's."""
    key = SigningKey()
    with trial.running(kernel=checking, cmdline="lockdown=integrity") as session:
        set_policy(session, MEASURE_INPUTS + WANT_SIGNATURE)
        session.guest.run(["sh", "-c", KEEP_ATTRIBUTES], session.budget())
        image = session.guest.read_file(scenario.NEXT_KERNEL, session.budget())
        trust(session, key)
        assert_refused(trial, try_load(trial, "-s"), errno.EACCES)
        set_signature(session, scenario.NEXT_KERNEL, key.sign(image + b"more"))
        assert_refused(trial, try_load(trial, "-s"), errno.EACCES)
        set_signature(session, scenario.NEXT_KERNEL, key.sign(image))
        trial.execute(trial.load())
