"""Autoencoders of several cells that are trained as one: each as if it were trained alone."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import waiting
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.autoencoders.config import BAEConfig, TopKConfig
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import CellConfig, RunConfig, TrainingConfig
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.measuring import Trained
from bae_ray.training.packing import PACKS_FILE, pack
from bae_ray.training.resident import ResidentSteps
from bae_ray.training.results import results
from bae_ray.training.side_by_side import Normalized, SideBySide
from bae_ray.training.stack import Stack
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SweepConfig
from bae_ray.training.together import TrainingData, train_together
from bae_ray.training.trainer import train
from bae_ray.training.validation import SHARED
from tests.training.test_resident import NoWaiting

CPU = torch.device("cpu")
N, D = 90, 6
SHORT = TrainingConfig(
    epochs=6, batch_size=16, lr=3e-3, entropy_weight=1e-3, covariance_weight=1e-4, entropy_warmup=0.5, seed=3
)
OF = [2, 0, 1, 0]
"""Cells of four members: in no order, one of them twice."""


def cell(number: int) -> Tensor:
    """Each of a size and a mean of its own, so that it matters whose normalisation is taken."""
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(number))
    return x * 10.0**number + 7 * number


def data(target: bool) -> list[TrainingData]:
    return [TrainingData(cell(number), cell(number).flip(0) if target else None) for number in range(3)]


def changed(**changes: Any) -> TrainingConfig:
    return SHORT.model_copy(update=changes)


def members_of(config: Any) -> list[tuple[Any, TrainingConfig]]:
    binary = config.architecture == "bae"
    ways = [
        changed(log="step"),
        changed(lr=1e-2, grad_clip=0.5, revive_every=2),
        changed(decoder_norm="unit", patience=3),
        changed(merge_every=2) if binary else SHORT,
    ]
    return [(config, training) for training in ways]


class Followed:
    """Outcomes, and the lines of metrics of each member."""

    def __init__(self, cells: list[TrainingData], members: list[Any], **options: Any) -> None:
        self.lines: dict[int, list[TrainingMetrics]] = {}
        self.outcomes = train_together(cells, OF, members, "cpu", self._note, **options)

    def _note(self, member: int, lines: list[TrainingMetrics]) -> None:
        self.lines.setdefault(member, []).extend(lines)

    @property
    def numbers(self) -> dict[int, list[Any]]:
        return {i: [(line.epoch, line.step, line.loss, line.terms) for line in some] for i, some in self.lines.items()}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_each_has_the_numbers_that_it_has_alone(name: str):
    config = ARCHITECTURES[name].config()
    members, cells = members_of(config), data(target=name == "transcoder")
    together = Followed(cells, members)
    for number, (outcome, of, (_, training)) in enumerate(zip(together.outcomes, OF, members, strict=True)):
        lines: list[TrainingMetrics] = []
        alone = train(cells[of].x, config, training, on_epoch=lines.extend, target=cells[of].target)
        assert isinstance(outcome, Trained)
        assert [(line.epoch, line.step) for line in together.lines[number]] == [(ln.epoch, ln.step) for ln in lines]
        for line, other in zip(together.lines[number], lines, strict=True):
            assert line.loss == pytest.approx(other.loss, rel=1e-3), (number, line.epoch)
        assert outcome.all.fvu == pytest.approx(alone.all.fvu, rel=1e-3)
        assert outcome.val.fvu == pytest.approx(alone.val.fvu, rel=1e-3)
        torch.testing.assert_close(outcome.autoencoder.mean, alone.autoencoder.mean)
        torch.testing.assert_close(outcome.autoencoder.scale, alone.autoencoder.scale)
        assert (outcome.rivals is None) == (alone.rivals is None)
        if outcome.rivals is not None and alone.rivals is not None:
            assert outcome.rivals.gaussian_bits == pytest.approx(alone.rivals.gaussian_bits, rel=1e-3)


def test_batches_from_disk_are_those_from_memory():
    members = members_of(BAEConfig())
    assert Followed(data(False), members, placement="disk").numbers == Followed(data(False), members).numbers


def test_killed_it_goes_on_to_the_same_numbers(tmp_path: Path):
    members, state = members_of(BAEConfig()), tmp_path / "state.safetensors"
    whole = Followed(data(False), members)

    class KilledError(Exception):
        pass

    def kill(member: int, lines: list[TrainingMetrics]) -> None:
        if member == 3 and lines[-1].epoch == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train_together(data(False), OF, members, "cpu", kill, state, 0)
    resumed = Followed(data(False), members, checkpoint=state)
    first = resumed.lines[1][0].epoch
    assert 1 < first <= 4
    assert resumed.numbers[1] == whole.numbers[1][first - 1 :]
    for ours, theirs in zip(resumed.outcomes, whole.outcomes, strict=True):
        assert isinstance(ours, Trained)
        assert isinstance(theirs, Trained)
        assert ours.all == theirs.all
    assert not state.exists()


def test_the_state_of_other_cells_is_not_taken(tmp_path: Path):
    members, state = [(BAEConfig(), SHORT), (BAEConfig(), changed(lr=1e-2))], tmp_path / "state.safetensors"
    seen: list[int] = []

    def stop(_: int, lines: list[TrainingMetrics]) -> None:
        seen.append(lines[0].epoch)
        if lines[0].epoch == 3:
            raise InterruptedError

    firsts: list[int] = []
    for of in ([0, 1], [1, 0], [0, 1], [0, 1]):
        before = len(seen)
        with pytest.raises(InterruptedError):
            train_together(data(False)[:2], of, members, "cpu", stop, state, 0)
        firsts.append(seen[before])
    assert firsts[:3] == [1, 1, 1], "a state of other cells was taken"
    assert firsts[3] > 1


def test_cells_of_another_shape_cannot_share_batches():
    members = [(BAEConfig(), SHORT), (BAEConfig(), SHORT)]
    with pytest.raises(InvalidInputError, match=r"cell 1 have shape .*80, 6.*cell 0 .*90, 6"):
        train_together([TrainingData(cell(0)), TrainingData(cell(1)[:80])], [0, 1], members, "cpu", lambda *_: None)


def test_no_step_waits_and_the_steps_are_those_of_the_loop(monkeypatch: pytest.MonkeyPatch):
    """On a GPU the batches of all cells are gathered in the graph itself."""
    monkeypatch.setattr(waiting, "RUNS_AHEAD", {"cuda", "cpu"})
    cells = [Normalized(Rows([cell(number)]), None, torch.tanh, torch.tanh) for number in range(3)]
    order, trainings = torch.randperm(N), [SHORT] * 4

    def stack() -> Stack:
        return Stack(TopKConfig(d_in=D, k=3), trainings, CPU, 5, cells=OF)

    eager, ours = stack(), stack()
    expected = [
        eager.step(batch, eager.weights(1), eager.active(1), step)
        for step, batch in enumerate(SideBySide(cells, CPU).batches(order, 16))
    ]
    records = torch.zeros(5, 1 + len(ours.names), 4)
    steps = ResidentSteps([ours], SideBySide(cells, CPU), 16, [records], capture=False)
    run = steps.run(order, 0, 0, [ours.weights(1)], [ours.active(1)])
    next(run)
    with NoWaiting():
        for _ in run:
            pass
    assert torch.equal(records, torch.stack(expected))
    assert len({tuple(row) for row in records[:, 0].T.tolist()}) == 3, "one cell is there twice"


CELLS = [CellConfig(layer=layer, position=position) for layer in range(3) for position in (1, 4)]


@given(
    st.lists(st.tuples(st.sampled_from(CELLS), st.integers(0, 2), st.sampled_from([4, 8])), max_size=40, unique=True),
    st.integers(1, 9),
)
def test_packs_of_several_cells_are_full_and_share_what_they_must(wanted: list[Any], most: int):
    runs = [
        RunConfig(cell=cell, data=str(cell), training=TrainingConfig(seed=seed, batch_size=batch, lr=1e-3))
        for cell, seed, batch in wanted
    ]
    packs = pack(runs, most, across=True)
    assert sorted(run.id for some in packs for run in some.runs) == sorted(run.id for run in runs)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for some in packs:
        keys = {tuple(getattr(run.training, name) for name in SHARED) for run in some.runs}
        assert len(keys) == 1
        groups.setdefault(keys.pop(), []).append(len(some.runs))
    for sizes in groups.values():
        assert all(size == most for size in sizes[:-1])
        assert 1 <= sizes[-1] <= most


GRID = SweepConfig(
    layers=(0, 1, 2), positions=(2,), training=TrainingConfig(epochs=3, batch_size=32), gpus_per_trial=0,
    axes=("training.entropy_weight=0,1e-3",), packed=8,
)  # fmt: skip


def test_a_sweep_of_packs_across_cells(tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store, tables = ActivationStore.open(tiny_store), []
    for packed_cells in ("one", "several"):
        out = tmp_path / packed_cells
        config = GRID.model_copy(update={"packed_cells": packed_cells, "packed": 4 if packed_cells == "several" else 1})
        assert sweep(config, store, out, "inline").trained == 6
        packs = json.loads((out / PACKS_FILE).read_text())
        assert sorted(map(len, packs)) == ([2, 4] if packed_cells == "several" else [1] * 6)
        tables.append(results(out).drop(columns=["seconds", "subset_n", "subset_bits"]))
        assert sweep(config, store, out, "inline").trained == 0
    assert tables[0]["layer"].nunique() == 3
    pd.testing.assert_frame_equal(*tables, rtol=1e-3)
