from pathlib import Path
from typing import Any

import pytest

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders.config import BAEConfig, ReLUConfig, TopKConfig, TranscoderConfig
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import CellConfig, RunConfig
from bae_ray.training.grid import expand, plan_grid
from bae_ray.training.sweep_config import SweepConfig


@pytest.fixture
def store(tiny_store: Path) -> ActivationStore:
    return ActivationStore.open(tiny_store)


def test_grid_is_the_product(store: ActivationStore):
    config = SweepConfig(
        layers=(0, 3), axes=("training.seed=0,1,2", "autoencoder.expansion=2,4", "training.normalize=rms,none")
    )
    runs = expand(config, store)
    assert len(runs) == 2 * 2 * 3 * 2 * 2
    assert len({run.id for run in runs}) == len(runs)
    seen = {
        (r.cell.layer, r.cell.position, r.training.seed, r.autoencoder.expansion, r.training.normalize) for r in runs
    }
    assert len(seen) == len(runs)
    assert {run.autoencoder.d_in for run in runs} == {16}


def test_a_run_is_named_by_what_determines_it(store: ActivationStore):
    first, again = (expand(SweepConfig(layers=(1,), positions=(2,)), store)[0] for _ in range(2))
    assert first.id == again.id
    assert first.data == store.fingerprint(store.cells[2])
    other = expand(SweepConfig(layers=(1,), positions=(2,), axes=("training.lr=0.01",)), store)[0]
    assert other.id != first.id


def test_how_steps_are_taken_is_in_every_run_and_no_name(store: ActivationStore):
    given = {"graph": "off", "lr": 0.5}
    config = SweepConfig.model_validate({"layers": (1,), "axes": ("autoencoder.expansion=2,4",), "training": given})
    captured = SweepConfig.model_validate({**config.model_dump(), "training": {"lr": 0.5}})
    assert {run.training.graph for run in expand(config, store)} == {"off"}
    assert [run.id for run in expand(config, store)] == [run.id for run in expand(captured, store)]
    assert "graph" not in expand(config, store)[0].model_dump_json()


def test_architectures_are_an_axis(store: ActivationStore):
    config = SweepConfig(
        layers=(1,),
        autoencoder=BAEConfig(expansion=2, gradient="release"),
        axes=("autoencoder.architecture=bae,relu,topk",),
    )
    runs = expand(config, store)
    assert len(runs) == 2 * 3
    assert [run.autoencoder for run in runs[:3]] == [
        BAEConfig(d_in=16, expansion=2, gradient="release"),
        ReLUConfig(d_in=16, expansion=2),
        TopKConfig(d_in=16, expansion=2),
    ]
    only_topk = expand(SweepConfig(autoencoder=TopKConfig(), axes=("autoencoder.k=2,4",)), store)
    assert {(run.autoencoder.name, getattr(run.autoencoder, "k", None)) for run in only_topk} == {
        ("topk", 2),
        ("topk", 4),
    }


def test_a_transcoder_is_given_its_target(store: ActivationStore):
    onwards = TranscoderConfig(target_site="residual", target_layer_offset=1)
    (run,) = expand(SweepConfig(layers=(1,), positions=(2,), autoencoder=onwards), store)
    assert run.target == CellConfig(layer=2, position=2)
    with pytest.raises(
        InvalidInputError, match=r"the cell \(layer 4, residual, position 2\), which .* does not hold. Set"
    ):
        expand(SweepConfig(layers=(3,), autoencoder=onwards), store)
    with pytest.raises(
        InvalidInputError, match=r"the cell \(layer 1, mlp_out, position 2\), which .* does not hold. Set"
    ):
        expand(SweepConfig(layers=(1,), autoencoder=TranscoderConfig()), store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (0, 9)}, r"layer 9 is not in the store .* it has \[0, 1, 2, 3\]"),
        ({"positions": (5,)}, r"position 5 is not in the store .* it has \[2, 7\]"),
        ({"axes": ("training.sed=1",)}, r"axis 'training\.sed': unknown field\. Did you mean training\.seed"),
        ({"axes": ("training.seed=0,1", "training.seed=2")}, r"axis training\.seed is given more than once"),
        ({"axes": ("training.lr=1e-3 training.lr=1e-2",)}, r"axis training\.lr is given more than once"),
        ({"axes": ("training.seed=0,1",), "seeds": (2,)}, r"axis training\.seed is given more than once"),
        (
            {"axes": ("training.lr=1e-3,1e-2 training.batch_size=64",)},
            r"go together, but training\.lr has 2 and training\.batch_size has 1 values",
        ),
        ({"exclude": ("layers=0",)}, r"condition 'layers': unknown field\. Did you mean layer\b"),
        ({"exclude": ("training.seed=0",)}, r"the grid is empty"),
        ({"sites": ("mlp_in",)}, r"site mlp_in is not in the store .* it has \['residual'\]"),
        ({"autoencoder": BAEConfig(d_in=5)}, r"autoencoder\.d_in is 5 but the store's activations are 16 wide"),
        ({"axes": ("seed=1",)}, r"axis 'seed': unknown field\. Did you mean training\.seed"),
        ({"axes": ("training.lr=",)}, r"axis 'training\.lr=' is not FIELD=VALUE"),
        (
            {"axes": ("training.lr=1e-3,-1",)},
            r"8 runs .*settings:\n  training\.lr=-1 at \(layer 0, residual, position 2\): lr is -1: .*greater than 0",
        ),
        ({"axes": ("training.epochs=many",)}, r"training\.epochs=many at .*: epochs is 'many'"),
        (
            {"axes": ("autoencoder.architecture=bae,vae",)},
            r"autoencoder\.architecture=vae at .*: architecture 'vae' is not known; expected one of bae, relu",
        ),
        ({"axes": ("autoencoder.k=3",)}, r"autoencoder\.k=3 at .*: k is 3: Extra inputs"),
        ({"axes": ("autoencoder.bits_per_feature=1,3",)}, r"d_latent is 64, which 3 bits per feature do not divide"),
        ({"autoencoder": TopKConfig(k=65)}, r"k is 65 but there are only 64 latents"),
        ({"axes": ("training.entropy_warmup=9",)}, r"entropy_warmup is 9.0: a fraction is at most 1"),
    ],
)
def test_bad_grids_are_refused_whole(store: ActivationStore, change: dict, message: str):
    with pytest.raises(InvalidInputError, match=message):
        expand(SweepConfig(**change), store)


def values(runs: list[RunConfig], *fields: str) -> list[tuple[Any, ...]]:
    """Distinct values of fields of the trainings, in the order of the runs."""
    return list(dict.fromkeys(tuple(getattr(run.training, field) for field in fields) for run in runs))


def test_fields_of_one_axis_go_together(store: ActivationStore):
    axes = ("training.lr=0.1,0.2 training.batch_size=32,64", "training.epochs=1,2")
    runs = expand(SweepConfig(axes=axes, seeds=(3, 4), layers=(0,), positions=(2,)), store)
    expected = [
        (lr, batch, epochs, seed) for lr, batch in [(0.1, 32), (0.2, 64)] for epochs in (1, 2) for seed in (3, 4)
    ]
    assert values(runs, "lr", "batch_size", "epochs", "seed") == expected


@pytest.mark.parametrize(
    "axes",
    [
        {"training.lr": [1e-3, 2e-3], "training.entropy_form": ["bernoulli", "printed"]},
        [{"training.lr": [1e-3, 2e-3]}, {"training.entropy_form": ["bernoulli", "printed"]}],
        [{"training.lr": ["1e-3", "2e-3"]}, "training.entropy_form=bernoulli,printed"],
    ],
)
def test_axes_as_mappings(store: ActivationStore, axes: Any):
    written = SweepConfig(axes=("training.lr=1e-3,2e-3", "training.entropy_form=bernoulli,printed"))
    assert expand(SweepConfig(axes=axes), store) == expand(written, store)
    together = SweepConfig.model_validate({"axes": [{"training.lr": [1e-3, 2e-3], "training.epochs": [1, 2]}]})
    assert values(expand(together, store), "lr", "epochs") == [(1e-3, 1), (2e-3, 2)]


def test_a_single_mapping_is_one_condition():
    excluded = {"layer": 0, "training.lr": [1e-3, 3e-3]}
    assert SweepConfig.model_validate({"exclude": excluded}).exclude == ("layer=[0] training.lr=[0.001, 0.003]",)


def test_excluded_runs_are_left_out(store: ActivationStore):
    axes = ("training.lr=1e-3,2e-3", "autoencoder.bits_per_feature=1,3")
    exclude = ("autoencoder.bits_per_feature=3", "layer=0,1 training.lr=2e-3", {"position": 2, "layer": 3})
    runs = expand(SweepConfig.model_validate({"axes": axes, "exclude": exclude}), store)
    assert {(run.cell.layer, run.cell.position, run.training.lr) for run in runs} == {
        (layer, position, lr) for layer in range(4) for position in (2, 7) for lr in (1e-3, 2e-3)
        if not (layer < 2 and lr == 2e-3) and not (position == 2 and layer == 3)
    }  # fmt: skip


def test_illegal_runs_can_be_left_out_and_are_told(store: ActivationStore):
    config = SweepConfig(
        layers=(1,), positions=(2,), axes=("autoencoder.bits_per_feature=1,3", "training.lr=1e-3,-1"), skip_illegal=True
    )
    grid = plan_grid(config, store)
    assert [run.training.lr for run in grid.runs] == [1e-3]
    assert [dict(run.settings) for run in grid.illegal] == [
        {"autoencoder.bits_per_feature": 1, "training.lr": -1},
        {"autoencoder.bits_per_feature": 3, "training.lr": 1e-3},
        {"autoencoder.bits_per_feature": 3, "training.lr": -1},
    ]
    assert "3 bits per feature do not divide" in grid.illegal[1].reason
