import errno
import os
from pathlib import Path

import pytest

from bae_ray.storage import folder_at
from bae_ray.work import preemption
from bae_ray.work.attempts import Attempts, patiently


def test_a_unit_that_kills_its_workers_is_given_up(tmp_path: Path):
    attempts = Attempts(folder_at(tmp_path), 2)
    assert [attempts.begin("a"), attempts.begin("a"), attempts.begin("b")] == ["", "", ""]
    assert attempts.begin("a") == "its worker died 2 times; too little memory is the usual reason"
    attempts.explain("a", "its GPU is lost")
    assert Attempts(folder_at(tmp_path), 2).begin("a") == "its worker died 2 times; its GPU is lost"
    attempts.forget()
    assert attempts.begin("a") == ""


def test_an_attempt_cut_short_because_its_process_was_asked_to_end_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(preemption, "_asked", preemption._Asked())
    attempts = Attempts(folder_at(tmp_path), 2)
    attempts.begin("a")
    with attempts.under_way("a"), attempts.under_way("b"), attempts.under_way("not begun"):
        attempts.begin("b")
        attempts.begin("a")
        preemption.undo()
    with attempts.under_way("c"):
        attempts.begin("c")
    preemption.undo()
    starts = attempts.begin_start()
    with attempts.starting():
        preemption.undo()
    counts = {file.name: file.read_text() for file in (tmp_path / "attempts").iterdir() if file.is_file()}
    assert counts == {"a": "1", "b": "0", "c": "1"}
    assert len(starts) == len(attempts.begin_start()) == 1


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("bae_ray.work.attempts.time.sleep", waited.append)
    return waited


class Flaky:
    """Raises the errors, one at each call, and works then."""

    def __init__(self, *errors: int) -> None:
        self.left = [OSError(number, os.strerror(number)) for number in errors]

    def __call__(self) -> str:
        if self.left:
            raise self.left.pop(0)
        return "done"


def test_what_fails_for_the_moment_is_tried_again_after_longer_and_longer_waits(waited: list[float]):
    assert patiently(Flaky(*[errno.EIO] * 7), 8) == "done"
    assert waited == [2, 4, 8, 16, 32, 60, 60]
    with pytest.raises(OSError, match="Input/output error"):
        patiently(Flaky(*[errno.EIO] * 3), 3)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_what_trying_again_does_not_mend_is_raised_at_once(number: int, waited: list[float]):
    with pytest.raises(OSError, match=os.strerror(number)):
        patiently(Flaky(number), 3)
    assert waited == []
