from pathlib import Path

import pytest

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders.config import BAEConfig, ReLUConfig, TopKConfig, TranscoderConfig
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import CellConfig
from bae_ray.training.grid import SweepConfig, expand


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
    assert {(run.autoencoder.architecture, getattr(run.autoencoder, "k", None)) for run in only_topk} == {
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
        ({"axes": ("training.sed=1",)}, r"axis 'training\.sed=1' is not FIELD=VALUE.*training\.seed"),
        ({"axes": ("training.seed=0,1", "training.seed=2")}, r"axis training\.seed is given more than once"),
        ({"autoencoder": BAEConfig(d_in=5)}, r"autoencoder\.d_in is 5 but the store's activations are 16 wide"),
        ({"axes": ("seed=1",)}, r"axis 'seed=1' is not FIELD=VALUE"),
        ({"axes": ("training.lr=",)}, r"axis 'training\.lr=' is not FIELD=VALUE"),
        ({"axes": ("training.lr=1e-3,-1",)}, r"not allowed: lr is -1: .*greater than 0"),
        ({"axes": ("training.epochs=many",)}, r"not allowed: epochs is 'many'"),
        (
            {"axes": ("autoencoder.architecture=bae,vae",)},
            r"autoencoder.architecture='vae' is not allowed: expected one of",
        ),
        (
            {"axes": ("autoencoder.k=3",)},
            r"not allowed: k is 3: Extra inputs",
        ),
        ({"axes": ("autoencoder.bits_per_feature=1,3",)}, r"d_latent is 64, which 3 bits per feature do not divide"),
        ({"autoencoder": TopKConfig(k=65)}, r"k is 65 but there are only 64 latents"),
        ({"axes": ("training.entropy_warmup=9",)}, r"entropy_warmup is 9.0: a fraction is at most 1"),
    ],
)
def test_bad_grids_are_refused_whole(store: ActivationStore, change: dict, message: str):
    with pytest.raises(InvalidInputError, match=message):
        expand(SweepConfig(**change), store)
