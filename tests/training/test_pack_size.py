"""How many runs are trained as one, from measurements that are given; and once from real ones, on a CPU."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import OutOfMemoryError, UnfinishedError
from bae_ray.training import pack_plan
from bae_ray.training.config import RunConfig, TrainingConfig
from bae_ray.training.grid import expand
from bae_ray.training.pack_plan import measure_sizes, pack_size, plan_packs
from bae_ray.training.pack_size import GAIN, LARGEST, UNMEASURED, PackSize, Tried, chosen, most_packed, next_size
from bae_ray.training.packing import Pack
from bae_ray.training.resource_estimate import MARGIN, Measured
from bae_ray.training.run_folder import RESULT_FILE
from bae_ray.training.sweep import train_runs
from bae_ray.training.sweep_config import SweepConfig
from bae_ray.work.executor import Inline

GB = 10**9
Step = Callable[[int], float]


def explore(seconds: Step, peak: Step, most: int, share: float = 1.0, room: float = 80 * GB) -> list[Tried]:
    """What is measured on a device of so much memory, where a pack takes so long and so much; beyond, memory is out."""
    tried: list[Tried] = []
    while (size := next_size(tried, most, share)) is not None:
        fits = peak(size) <= room
        tried.append(Tried(size, Measured(seconds(size), int(peak(size)), int(room), 1) if fits else None))
    return tried


def best(*given: Any, **options: Any) -> PackSize:
    tried = explore(*given, **options)
    return chosen(tried, given[2], options.get("share", 1.0))


def small(_: int) -> float:
    return GB / 100


def test_a_device_that_is_idle_takes_as_many_as_there_are():
    found = best(lambda _: 0.004, small, 12)
    assert found.size == 12
    assert "0.333 ms a step for each run; more may not go together" in found.why


def test_a_device_that_is_full_takes_one():
    found = best(lambda size: 0.004 * size, small, 16)
    assert (found.size, found.why) == (1, "4 ms a step for each run, which 2 together do not better (4 ms)")


def test_it_ends_where_time_for_each_stops_falling():
    """The measured step on an H100: .27 ms alone, 32 in 1.86 ms; here flat from 8 on."""
    found = best(lambda size: max(1.0, size / 8) * 1e-3, small, 64)
    assert found.size == 8
    assert "16 together do not better" in found.why


def test_it_ends_where_memory_does():
    found = best(lambda _: 0.004, lambda size: 2 * GB + 6 * GB * size, 64)
    assert found.size == 8, "16 take 98 GB"
    assert "16 together would need about 127 GB of 80 GB" in found.why
    assert best(lambda _: 0.004, lambda size: 2 * GB + 6 * GB * size, 64, share=0.25).size == 2, "a quarter of a GPU"


def test_memory_that_runs_out_before_it_was_foreseen():
    found = best(lambda _: 0.004, lambda size: GB * size**3, 64)
    assert found.size == 2
    assert "do not fit into memory" in found.why
    assert best(lambda _: 0.004, lambda _: 100 * GB, 64) == PackSize(UNMEASURED, "nothing could be measured")


@given(
    most=st.integers(1, LARGEST),
    alone=st.floats(1e-5, 1),
    ratios=st.lists(st.floats(0.5, 2.5), min_size=7, max_size=7),
    first=st.floats(1e6, 100e9),
    growths=st.lists(st.floats(1.0, 4.0), min_size=7, max_size=7),
    share=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
)
def test_what_is_chosen_was_measured_fits_and_gains(
    most: int, alone: float, ratios: list[float], first: float, growths: list[float], share: float
):
    def at(values: Sequence[float], start: float) -> Step:
        return lambda size: start * math.prod(values[: math.ceil(math.log2(size))])

    tried = explore(at(ratios, alone), at(growths, first), most, share)
    found = chosen(tried, most, share)
    sizes = [one.size for one in tried]
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 1
    assert len(sizes) <= 8
    if tried[0].measured is None:
        assert found.size == UNMEASURED
        return
    assert found.size in sizes
    assert found.size <= most
    ahead = [one for one in tried if one.size <= found.size]
    assert found.measured == ahead[-1].measured is not None
    for before, after in pairwise(ahead):
        assert after.seconds_per_run <= GAIN * before.seconds_per_run
        assert after.measured is not None
        assert MARGIN * after.measured.peak_bytes <= share * 80 * GB
    beyond = [one for one in tried if one.size > found.size]
    assert len(beyond) <= 1, "it ends at the first size that does not gain, or does not fit"


@given(st.lists(st.integers(1, 100), min_size=1, max_size=12), st.integers(1, 16))
def test_every_device_has_a_pack(groups: list[int], devices: int):
    def packs(size: int) -> int:
        return sum(math.ceil(group / size) for group in groups)

    most = most_packed(groups, devices)
    assert 1 <= most <= min(LARGEST, max(groups))
    assert packs(most) >= min(devices, sum(groups))
    if most < min(LARGEST, max(groups)):
        assert packs(most + 1) < min(devices, sum(groups))


GRID = SweepConfig(
    layers=(1, 2),
    positions=(2,),
    axes=("training.entropy_weight=0,1e-4,1e-3,1e-2,2e-2,3e-2",),
    training=TrainingConfig(epochs=2, batch_size=16),
    tensorboard=False,
    packed="auto",
)


@pytest.fixture
def store(tiny_store: Path) -> ActivationStore:
    return ActivationStore.open(tiny_store)


@pytest.fixture
def runs(store: ActivationStore) -> list[RunConfig]:
    """2 cells x 6 weights."""
    return expand(GRID, store)


def test_sizes_are_measured_on_a_cpu_where_it_is_asked_for(store: ActivationStore, runs: list[RunConfig]):
    tried = measure_sizes(runs, store, "cpu", most=6, part=1.0)
    assert [one.size for one in tried] == [1, 2, 4, 6][: len(tried)]
    assert len(tried) >= 2
    for one in tried:
        assert one.measured is not None
        assert one.measured.products == one.size * tried[0].measured.products  # pyright: ignore[reportOptionalMemberAccess]


def test_a_number_is_taken_as_it_is(store: ActivationStore, runs: list[RunConfig], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pack_plan, "measure_sizes", None)
    for packed in (1, 3, 8):
        assert pack_size(runs, store, GRID.model_copy(update={"packed": packed}), Inline()).size == packed
    assert pack_size(runs, store, SweepConfig(), Inline()).size == 8, "left out, on a CPU"


class Died(Inline):
    def once(self, *given: Any, **options: Any) -> Any:  # noqa: ARG002
        raise UnfinishedError("its process died")


def test_a_measurement_that_dies_ends_no_sweep(store: ActivationStore, runs: list[RunConfig]):
    assert pack_size(runs, store, GRID, Died()) == PackSize(UNMEASURED, "measuring failed: its process died")


def test_what_runs_out_of_memory_is_no_size(
    store: ActivationStore, runs: list[RunConfig], monkeypatch: pytest.MonkeyPatch
):
    def measure(packs: list[Pack], _store: ActivationStore, _device: str) -> Measured:
        size = len(packs[0].runs)
        if size > 2:
            raise OutOfMemoryError("memory ran out")
        return Measured(0.001, GB, 80 * GB, size)

    monkeypatch.setattr(pack_plan, "measure_one", measure)
    tried = measure_sizes(runs, store, "cpu", most=6, part=1.0)
    assert [(one.size, one.measured is None) for one in tried] == [(1, False), (2, False), (4, True)]
    assert chosen(tried, 6).size == 2


def test_an_interrupted_sweep_goes_on_with_its_packs_and_measures_nothing_again(
    store: ActivationStore, runs: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sizes = iter([4, 3])
    monkeypatch.setattr(pack_plan, "pack_size", lambda *_: PackSize(next(sizes), "measured"))
    plan = partial(plan_packs, store=store, out=tmp_path, execution=GRID, executor=Inline())
    begun, size = plan(runs[:6])
    assert [len(one.runs) for one in begun] == [4, 2]
    assert size == PackSize(4, "measured")
    for run in begun[1].runs:
        (tmp_path / run.id).mkdir()
        (tmp_path / run.id / RESULT_FILE).write_text("{}")
    again = plan(runs[:6])
    assert (again.packs, str(again)) == (begun[:1], "as they were begun")
    extended = plan(runs)
    assert [len(one.runs) for one in extended.packs] == [4, 3, 3]
    assert str(extended) == "at most 3 runs in each: measured"


def test_a_sweep_says_what_it_chose_and_why(
    store: ActivationStore, runs: list[RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    outcome = train_runs(runs, store, tmp_path, GRID, executor="inline")
    assert outcome.trained == 12
    printed = " ".join(capsys.readouterr().err.split())
    assert "ms a step for each run" in printed
    assert "packs (runs that are trained as one), at most" in printed
