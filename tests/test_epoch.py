# SPDX-License-Identifier: GPL-2.0-only
import pytest

from imakexec.machine.epoch import Epochs, IllegalTransition, Phase, Transition, UnexpectedReset

BANNER = "Linux version 6.1.192 (builder@host) #1 SMP"


def running(token: str | None = "t0") -> Epochs:
    epochs = Epochs(token)
    epochs.banner_seen(BANNER)
    return epochs


def after_kexec() -> Epochs:
    epochs = running()
    epochs.identify(boot_id="id0", token="t0")
    epochs.loaded()
    epochs.executing("t1")
    epochs.banner_seen(BANNER)
    return epochs


def test_a_cold_boot_runs_after_its_banner() -> None:
    epochs = Epochs("t0")
    epochs.banner_seen(BANNER)
    assert epochs.phase is Phase.RUNNING
    assert epochs.current.banner == BANNER
    assert epochs.current.transition is Transition.COLD


def test_a_machine_starts_cold() -> None:
    assert Epochs().phase is Phase.COLD


def test_a_kexec_opens_the_next_epoch_at_its_banner() -> None:
    epochs = running()
    epochs.loaded()
    epochs.executing("t1")
    assert epochs.current.number == 0
    epochs.banner_seen(BANNER)
    assert (epochs.current.number, epochs.current.token) == (1, "t1")
    assert epochs.current.transition is Transition.KEXEC


@pytest.mark.parametrize("loaded", [False, True])
def test_a_banner_that_is_not_due_is_a_reset(loaded: bool) -> None:
    epochs = running()
    if loaded:
        epochs.loaded()
    with pytest.raises(UnexpectedReset, match="without a kexec"):
        epochs.banner_seen(BANNER)
    assert epochs.current.number == 0


def test_a_third_banner_after_one_kexec_is_a_reset() -> None:
    with pytest.raises(UnexpectedReset):
        after_kexec().banner_seen(BANNER)


def test_a_kernel_can_be_loaded_again_and_unloaded() -> None:
    epochs = running()
    epochs.loaded()
    epochs.loaded()
    epochs.unloaded()
    assert epochs.phase is Phase.RUNNING


@pytest.mark.parametrize("step", ["executing", "unloaded"])
def test_nothing_loaded_cannot_be_executed_or_unloaded(step: str) -> None:
    with pytest.raises(IllegalTransition):
        getattr(running(), step)()


def test_nothing_happens_before_the_first_banner() -> None:
    with pytest.raises(IllegalTransition):
        Epochs().loaded()


def test_a_reset_by_the_harness_is_a_new_cold_epoch_with_the_first_command_line() -> None:
    epochs = after_kexec()
    epochs.resetting()
    epochs.banner_seen(BANNER)
    assert epochs.current.transition is Transition.COLD
    assert (epochs.current.number, epochs.current.token) == (2, "t0")


def test_identify_records_the_boot_id_and_accepts_it_again() -> None:
    epochs = after_kexec()
    assert epochs.identify(boot_id="id1", token="t1").boot_id == "id1"
    assert epochs.identify(boot_id="id1", token="t1").banner == BANNER


@pytest.mark.parametrize(
    ("boot_id", "token", "why"),
    [
        ("id0", "t1", "the kernel of boot 0 still runs"),
        ("id1", "t0", "token"),
        ("id1", None, "token"),
    ],
)
def test_an_answer_from_another_kernel_is_refused(boot_id: str, token: str, why: str) -> None:
    with pytest.raises(UnexpectedReset, match=why):
        after_kexec().identify(boot_id=boot_id, token=token)


def test_a_boot_id_that_changes_within_an_epoch_is_a_reset() -> None:
    epochs = running()
    epochs.identify(boot_id="id0", token="t0")
    with pytest.raises(UnexpectedReset, match="boot_id changed"):
        epochs.identify(boot_id="id9", token="t0")


def test_counters_are_recorded_in_the_current_epoch() -> None:
    epochs = after_kexec()
    epochs.record_counters(reset_count=1, restart_count=0)
    assert (epochs.current.reset_count, epochs.current.restart_count) == (1, 0)
