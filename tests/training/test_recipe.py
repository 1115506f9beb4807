"""The recipe `scaled`: initial weights from the data, copies merged, settings that go with the width."""

from pathlib import Path

import pytest
import torch

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import ArchitectureConfig, Autoencoder, BAEConfig, ReLUConfig, build_autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import CellConfig, RunConfig, TrainingConfig
from bae_ray.training.initial_weights import start_from_components
from bae_ray.training.merging import merge_copies
from bae_ray.training.recipe import resolved
from bae_ray.training.samples import Batch, Batches
from bae_ray.training.stack import Stack
from bae_ray.training.trainer import train, train_many

CPU = torch.device("cpu")


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(n: int, r: int, d: int, rate: float = 0.5) -> torch.Tensor:
    """Sums of independent bits along r orthonormal directions, [n, d]."""
    basis = torch.linalg.qr(torch.randn(d, r, generator=drawn(r))).Q.T
    return (torch.rand(n, r, generator=drawn(0)) < rate).float() @ basis


def scaled(d: int, expansion: int, **settings: object) -> tuple[BAEConfig, TrainingConfig]:
    architecture = BAEConfig(d_in=d, expansion=expansion)
    return architecture, resolved(TrainingConfig.model_validate({"recipe": "scaled", **settings}), architecture, d)


@pytest.mark.parametrize(("d", "r", "rate"), [(32, 1, 0.5), (32, 2, 0.5), (32, 8, 0.5), (64, 16, 0.5), (32, 6, 0.2)])
def test_the_bits_that_are_there_are_found(d: int, r: int, rate: float):
    trained = train(bits(4096, r, d, rate), *scaled(d, 4, epochs=30, batch_size=256))
    expected = r * float(-(rate * torch.tensor(rate).log2() + (1 - rate) * torch.tensor(1 - rate).log2()))
    assert trained.all.entropy_bits == pytest.approx(expected, abs=max(0.25, 0.02 * expected))
    assert trained.joint is not None
    assert trained.joint.tree.bits == pytest.approx(expected, abs=max(0.25, 0.02 * expected))
    assert max(trained.train.fvu, trained.val.fvu) <= 0.01


def started(x: torch.Tensor, price: float, expansion: int = 2) -> tuple[Autoencoder, int]:
    autoencoder = build_autoencoder(BAEConfig(d_in=x.shape[1], expansion=expansion))
    autoencoder.reset_parameters(drawn(0))
    return autoencoder, start_from_components(autoencoder, x, price, seed=0)


def test_bits_start_as_latents_and_their_directions_as_the_dictionary():
    x = bits(2000, 5, 20) * 3 + 1
    autoencoder, used = started(x, price=1e-3)
    assert used == 5
    code = autoencoder.pre_activations(x) >= 0
    assert torch.allclose(autoencoder.decode_normalized(code.float()), x, atol=0.3)  # components are mixed a little
    assert not code[:, 5:].any()
    assert code[:, :5].double().mean(0).sub(0.5).abs().max() < 0.05


def test_thresholds_are_as_many_as_they_are_worth():
    """Uniform components of variance 16, 1 and .01 explain a third of that of the error per dimension.

    T + 1 levels leave 1 / (T + 1)^2 of it; their bits are 1, 2.62 and 5.62 for 1, 3 and 7 thresholds. So three
    thresholds pay for seven where the price is below .0156 of what the component explains, one for three below .116,
    none for one below .75.
    """
    x = (torch.rand(20_000, 3, generator=drawn(0)) - 0.5) * 12**0.5 * torch.tensor([4.0, 1.0, 0.1])
    of_price = {1e-4: 7 + 7 + 3, 1e-3: 7 + 7 + 1, 0.02: 7 + 3, 0.1: 3 + 1, 0.5: 3, 2.0: 1, 5.0: 0}
    for price, expected in of_price.items():
        autoencoder, used = started(x, price, expansion=8)
        assert used == expected, price
        latents = (autoencoder.pre_activations(x) >= 0).float()
        left = (autoencoder.decode_normalized(latents) - x).square().mean()
        assert left <= x.var(0).sum() / 3
    assert started(x, 1e-4, expansion=1)[1] == 3, "no more than latents: those that are worth most"


def test_copies_become_one_and_reconstruct_the_same():
    """Latents 1 and 4 are copies of 0, 5 is its opposite; 2 and 3 are others."""
    x = torch.randn(300, 6, generator=drawn(0))
    stack = Stack(BAEConfig(d_in=6, expansion=1), [TrainingConfig()], CPU, 10)
    stack.step(Batch(x, x), stack.weights(1), frozenset(stack.names), 0)
    member = stack.members[0]
    own = member.autoencoder
    assert own.b_enc is not None
    with torch.no_grad():
        own.b_enc.fill_(0.1)
        own.W_enc[:, 1], own.b_enc[1] = 2 * own.W_enc[:, 0], 0.2
        own.W_enc[:, 4] = own.W_enc[:, 0]
        own.W_enc[:, 5], own.b_enc[5] = -own.W_enc[:, 0], -0.1
    before, latents = own(x).x_hat, own.encode(x)
    data = Batches(Rows([x]), None, own.normalize, own.normalize, CPU)
    assert merge_copies(member, data, 64) == 3
    after = own.encode(x)
    assert not after[:, [1, 4, 5]].any()
    assert torch.equal(after[:, [0, 2, 3]], latents[:, [0, 2, 3]])
    assert torch.allclose(own(x).x_hat, before, atol=1e-5)
    for name, where in (("W_enc", (slice(None), [1, 4, 5])), ("W_dec", ([1, 4, 5],)), ("b_enc", ([1, 4, 5],))):
        assert not member.optimizer.state[own.get_parameter(name)]["exp_avg"][where].any()
    assert torch.equal(stack.module.get_parameter("W_dec")[0], own.W_dec)
    assert merge_copies(member, data, 64) == 0


def test_a_code_that_does_not_vary_has_no_copies():
    x = torch.randn(50, 4, generator=drawn(0))
    stack = Stack(BAEConfig(d_in=4, expansion=1), [TrainingConfig()], CPU, 10)
    own = stack.members[0].autoencoder
    with torch.no_grad():
        own.get_parameter("b_enc").fill_(-1e6)
    assert merge_copies(stack.members[0], Batches(Rows([x]), None, own.normalize, own.normalize, CPU), 16) == 0


def test_fields_left_at_their_defaults_are_filled_in_and_others_kept():
    _, training = scaled(200, 4, epochs=100, entropy_weight=0.25)
    assert training.recipe == "scaled"
    assert training.initial == "components"
    assert training.merge_every == 5
    assert training.lr == pytest.approx(2 / 200)
    assert training.lr_decay == 0.5
    assert training.covariance_weight == pytest.approx(0.001 * 4 / 200)
    assert training.entropy_weight == 0.25
    again = resolved(training, BAEConfig(d_in=200), 200)
    assert again == training
    paper = TrainingConfig()
    assert resolved(paper, BAEConfig(d_in=200), 200) == paper


def test_runs_of_the_paper_keep_their_names():
    """The fields of the recipe are in no run.json of a run that does without."""
    run = RunConfig(cell=CellConfig(layer=1, position=2), data="x")
    assert not {"recipe", "initial", "merge_every"} & run.model_dump()["training"].keys()
    architecture, training = scaled(16, 2)
    other = RunConfig(cell=run.cell, data="x", autoencoder=architecture, training=training)
    assert {"recipe", "initial", "merge_every"} <= other.model_dump()["training"].keys()
    assert RunConfig.model_validate_json(other.model_dump_json()) == other


@pytest.mark.parametrize(
    "architecture", [ReLUConfig(d_in=8), BAEConfig(d_in=8, encoder_bias=False), BAEConfig(d_in=8, bits_per_feature=2)]
)
@pytest.mark.parametrize("settings", [{"recipe": "scaled"}, {"initial": "components"}, {"merge_every": 3}])
def test_other_architectures_are_refused(architecture: ArchitectureConfig, settings: dict[str, object]):
    with pytest.raises(InvalidInputError, match=rf"training\.{next(iter(settings))} is .*architecture is "):
        resolved(TrainingConfig.model_validate(settings), architecture, 8)


def test_activations_as_they_are_do_not_go_with_the_recipe():
    with pytest.raises(InvalidInputError, match=r"training\.normalize is none\. Set it to rms"):
        scaled(8, 2, normalize="none")


def test_restarting_latents_does_not_go_with_the_recipe():
    with pytest.raises(
        InvalidInputError, match=r"training\.revive_every is 5, which would restart them\. Leave it out"
    ):
        scaled(8, 2, revive_every=5)


@pytest.mark.parametrize("settings", [{"recipe": "scaled"}, {"initial": "components"}, {"merge_every": 3}])
def test_rows_of_length_one_do_not_go_with_it(settings: dict[str, object]):
    training = TrainingConfig.model_validate({**settings, "decoder_norm": "unit"})
    with pytest.raises(InvalidInputError, match=r"and training\.decoder_norm is unit\. Set it to free"):
        resolved(training, BAEConfig(d_in=8), 8)


def test_a_field_that_does_not_fit_what_the_recipe_sets_is_told():
    with pytest.raises(InvalidInputError, match=r"sets lr 0\.25, lr_decay 0\.5, .*: .*lr_warmup 0\.6 and lr_decay"):
        scaled(8, 2, lr_warmup=0.6)


def test_packed_alone_killed_or_not_the_numbers_are_the_same(tmp_path: Path):
    x = bits(600, 4, 12)
    one = scaled(12, 2, epochs=12, batch_size=64)
    other = scaled(12, 2, epochs=12, batch_size=64, entropy_weight=0.5)
    alone = train(x, *one)
    together = train_many(x, [one, other])[0]
    assert not isinstance(together, Exception)
    for name, tensor in alone.autoencoder.state_dict().items():
        assert torch.allclose(tensor, together.autoencoder.state_dict()[name], atol=1e-4), name

    class KilledError(Exception):
        pass

    def kill(lines: list) -> None:
        if lines[-1].epoch == 7:
            raise KilledError

    state = tmp_path / "state.safetensors"
    with pytest.raises(KilledError):
        train(x, *one, on_epoch=kill, checkpoint=state, checkpoint_every_s=0)
    again = train(x, *one, checkpoint=state)
    for name, tensor in alone.autoencoder.state_dict().items():
        assert torch.equal(tensor, again.autoencoder.state_dict()[name]), name
