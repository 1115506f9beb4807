"""One worker in this process, whose model, store and shards go wrong."""

import errno
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import transformers

from bae_ray.activations.compute import Work
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extractor import MEASURE, ShardExtractor, ShardOutcome, ShardTask
from bae_ray.activations.layout import ROWS_INDEX, Failure, Probe, RowsIndex
from bae_ray.activations.model import find_model
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import ExtractionError
from bae_ray.storage import folder_at
from bae_ray.work.attempts import Attempts
from bae_ray.work.devices import is_lost

ATTEMPTS, WORKERS = 3, 2


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A worker takes one thread; the other tests have theirs back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unfinished(tiny_store: Path, tmp_path: Path) -> StoreWriter:
    """The rows of the tiny store, and nothing else."""
    source, writer = StoreWriter(folder_at(tiny_store)), StoreWriter(folder_at(tmp_path / "store"))
    index = source.index()
    assert index is not None
    for shard in range(len(index.shards)):
        writer.folder.write(f"rows/{shard:05d}.parquet", source.folder.read(f"rows/{shard:05d}.parquet"))
    writer.write_index(index)
    return writer


def work_of(config: ExtractConfig) -> Work:
    model = find_model(config.model)
    return Work(
        model, tuple(range(model.n_layers + 1)), config.sites, config.all_positions, config.dtype, config.batch_size,
        config.batch_tokens, config.compile, None,
    )  # fmt: skip


def worker(writer: StoreWriter, config: ExtractConfig) -> ShardExtractor:
    return ShardExtractor("cpu", work_of(config), ATTEMPTS, WORKERS, writer)


def told(worker: ShardExtractor, shard: int, measure: bool = False) -> ShardOutcome:
    index = RowsIndex.model_validate_json(worker._writer.folder.read(ROWS_INDEX))
    outcome = worker(ShardTask(shard, index.shards[shard], measure))
    assert isinstance(outcome, ShardOutcome)
    return outcome


def call(worker: ShardExtractor, shard: int, measure: bool = False) -> tuple[str, str, float]:
    """The outcome, what was wrong, and the speed."""
    result = told(worker, shard, measure)
    return result.outcome, result.problem, result.tokens_per_s


def test_a_worker_writes_the_shards_of_a_quiet_run(unfinished: StoreWriter, tiny_config: ExtractConfig, tiny_store):
    extractor = worker(unfinished, tiny_config)
    shards = ActivationStore.open(tiny_store).manifest.shards
    assert isinstance(extractor(None), Probe)
    assert call(extractor, 0, measure=True)[2] > 0
    assert [call(extractor, shard)[:2] for shard in range(len(shards))] == [("finished", "")] * len(shards)
    assert [unfinished.receipt(shard) for shard in range(len(shards))] == list(shards)
    made_with = {"device": "cpu", "threads": "1", "torch": torch.__version__, "transformers": transformers.__version__}
    assert shards[0].made_with == made_with


def test_speed_that_cannot_be_measured_fails_nothing_else(unfinished: StoreWriter, tiny_config: ExtractConfig):
    extractor = worker(unfinished, tiny_config)
    unfinished.folder.write("rows/00000.parquet", b"PAR1")
    outcome, problem, rate = call(extractor, 0, measure=True)
    assert (outcome, rate) == ("failed", 0)
    assert "rows/00000.parquet is damaged" in problem
    assert call(extractor, 1)[0] == "finished"


def test_an_unexpected_error_keeps_its_traceback(
    unfinished: StoreWriter, tiny_config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
):
    extractor = worker(unfinished, tiny_config)
    monkeypatch.setattr(extractor._computer, "compute", lambda _: 1 // 0)
    failed = told(extractor, 1)
    assert (failed.outcome, failed.problem) == ("failed", "ZeroDivisionError: integer division or modulo by zero")
    assert "self._computer.compute(rows)" in failed.traceback


def test_failures_of_earlier_stores_are_read():
    written = {"shard": 1, "texts": 40, "first_text_id": 0, "last_text_id": 9, "reason": "its worker died 3 times"}
    assert Failure.model_validate(written).traceback == ""


def test_speed_is_not_measured_again_where_a_worker_died_of_it(unfinished: StoreWriter, tiny_config: ExtractConfig):
    Attempts(unfinished.folder, 1).begin(MEASURE)
    outcome, problem, _ = call(worker(unfinished, tiny_config), 0, measure=True)
    assert outcome == "failed"
    assert "a worker died while it measured" in problem


def test_workers_that_die_while_they_load_the_model_end_the_run(unfinished: StoreWriter, tiny_config: ExtractConfig):
    for _ in range(ATTEMPTS * WORKERS):
        Attempts(unfinished.folder, ATTEMPTS).begin_start()
    with pytest.raises(ExtractionError, match=r"6 workers died while they loaded the model; too little memory"):
        worker(unfinished, tiny_config)


def test_a_worker_that_starts_well_forgets_those_that_did_not(unfinished: StoreWriter, tiny_config: ExtractConfig):
    for _ in range(ATTEMPTS * WORKERS - 1):
        Attempts(unfinished.folder, ATTEMPTS).begin_start()
    worker(unfinished, tiny_config)
    assert len(Attempts(unfinished.folder, ATTEMPTS).begin_start()) == 1


class Flaky(StoreWriter):
    """A store that fails so often at something before it works."""

    def __init__(self, writer: StoreWriter, method: str, error: OSError, times: int) -> None:
        super().__init__(writer.folder)
        self.left, works = times, getattr(self, method)

        def fails(*arguments: Any) -> Any:
            if self.left == 0:
                return works(*arguments)
            self.left -= 1
            raise error

        setattr(self, method, fails)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr("bae_ray.work.attempts.time.sleep", waited.append)
    return waited


@pytest.mark.parametrize("method", ["receipt", "read_rows", "write_shard"])
def test_store_that_fails_for_the_moment_is_tried_again(
    unfinished: StoreWriter, tiny_config: ExtractConfig, no_waiting: list[float], method: str
):
    writer = Flaky(unfinished, method, OSError(errno.EIO, "the network hiccups"), ATTEMPTS - 1)
    assert call(worker(writer, tiny_config), 0)[:2] == ("finished", "")
    assert no_waiting == [2, 4]
    assert unfinished.receipt(0) is not None


def test_attempts_that_cannot_be_counted_for_the_moment_are_counted_later(
    unfinished: StoreWriter, tiny_config: ExtractConfig, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch
):
    extractor = worker(unfinished, tiny_config)
    hiccups = [OSError(errno.EIO, "the network hiccups")] * (ATTEMPTS - 1)
    monkeypatch.setattr(extractor._attempts, "begin", Mock(side_effect=[*hiccups, ""]))
    assert call(extractor, 0)[:2] == ("finished", "")
    assert no_waiting == [2, 4]


@pytest.mark.parametrize(("method", "outcome"), [("read_rows", "failed"), ("write_shard", "unwritable")])
def test_store_that_keeps_failing_is_given_up(
    unfinished: StoreWriter, tiny_config: ExtractConfig, no_waiting: list[float], method: str, outcome: str
):
    writer = Flaky(unfinished, method, OSError(errno.EIO, "the network is down"), ATTEMPTS)
    found, problem, _ = call(worker(writer, tiny_config), 0)
    assert (found, writer.left) == (outcome, 0)
    assert "the network is down" in problem


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_store_that_will_not_mend_is_given_up_at_once(
    unfinished: StoreWriter, tiny_config: ExtractConfig, no_waiting: list[float], number: int
):
    writer = Flaky(unfinished, "write_shard", OSError(number, os.strerror(number)), 1)
    assert call(worker(writer, tiny_config), 0)[0] == "unwritable"
    assert no_waiting == []


def test_a_worker_whose_gpu_is_lost_ends_and_says_why(unfinished: StoreWriter, tiny_config: ExtractConfig):
    """In a process of its own, which ends; the last attempt's reason is then the shard's."""
    child = multiprocessing.get_context("spawn").Process(target=lose_the_gpu, args=(unfinished, tiny_config))
    for _ in range(ATTEMPTS - 1):
        Attempts(unfinished.folder, ATTEMPTS).begin("00000")
    child.start()
    child.join()
    assert child.exitcode == 1
    outcome, problem, _ = call(worker(unfinished, tiny_config), 0)
    assert outcome == "failed"
    assert problem == "its worker died 3 times; AcceleratorError: CUDA error: an illegal memory access was encountered"


def lose_the_gpu(writer: StoreWriter, config: ExtractConfig) -> None:
    extractor = worker(writer, config)

    def compute(_rows: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    extractor._computer.compute = compute  # pyright: ignore[reportAttributeAccessIssue]
    call(extractor, 0)


def test_a_gpu_that_is_only_full_is_not_lost():
    full = torch.AcceleratorError("CUDA error: out of memory")
    full.error_code = 2  # pyright: ignore[reportAttributeAccessIssue]
    assert not is_lost(full)
    assert not is_lost(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_lost(RuntimeError("a shape does not fit"))
