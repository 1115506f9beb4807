"""What edits do to activations, and that nothing of them stays."""

import pytest
import torch
from torch import Tensor

from bae_ray.activations.taps import Tap
from bae_ray.autoencoders import Autoencoder, BAEConfig, ReLUConfig, TranscoderConfig, build_autoencoder
from bae_ray.errors import InvalidInputError, NotFiniteError
from bae_ray.steering.edits import AddedVector, ClampedFeatures
from bae_ray.steering.generation import GenerationConfig, generate
from bae_ray.steering.steered_model import SteeredModel
from tests.steering.naive import Naive

HERE = Tap(1, "residual")


def autoencoder_of(config: BAEConfig | ReLUConfig | TranscoderConfig) -> Autoencoder:
    autoencoder = build_autoencoder(config.model_copy(update={"d_in": 16, "d_latent": 24}))
    autoencoder.reset_parameters(torch.Generator().manual_seed(5))
    autoencoder.mean.fill_(0.3)
    autoencoder.scale.fill_(2.0)
    return autoencoder.eval()


def clamped(autoencoder: Autoencoder, x: Tensor, features: list[int], value: float) -> Tensor:
    """The definition, with both reconstructions."""
    with torch.no_grad():
        latents = autoencoder.encode(x)
        changed = latents.clone()
        changed[:, features] = value
        return x + autoencoder.decode(changed) - autoencoder.decode(latents)


@pytest.mark.parametrize("config", [BAEConfig(), ReLUConfig(), BAEConfig(bits_per_feature=2)])
@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
def test_features_are_clamped_and_the_rest_stays(config: BAEConfig | ReLUConfig, value: float):
    autoencoder, x = autoencoder_of(config), torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(6)) * 3
    found = ClampedFeatures(HERE, autoencoder, [3, 0, 20], value)(x)
    expected = clamped(autoencoder, x.flatten(0, 1), [3, 0, 20], value).reshape(x.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, x)


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_a_model_with_a_clamped_feature(pair: tuple[SteeredModel, Naive], prompts: list[list[int]], tokens: str):
    model, naive = pair
    autoencoder = autoencoder_of(ReLUConfig())
    edit = ClampedFeatures(HERE, autoencoder, [1, 2], 9.0, "all" if tokens == "all" else "last")
    written = generate(model, prompts, GenerationConfig(max_new_tokens=4, temperature=0), [edit], batch_size=5)
    for prompt, found in zip(prompts, written, strict=True):
        start = 0 if tokens == "all" else len(prompt) - 1
        expected = naive.greedy(prompt, 4, 1, lambda x: clamped(autoencoder, x, [1, 2], 9.0), start)
        assert found.token_ids == expected


def hooks_of(model: SteeredModel) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.editable.model.modules())


def test_hooks_are_gone_after_an_error(pair: tuple[SteeredModel, Naive], prompts: list[list[int]]):
    model, _ = pair
    before, greedy = hooks_of(model), GenerationConfig(max_new_tokens=3, temperature=0)
    plain = generate(model, prompts, greedy)

    class Failing(AddedVector):
        def __call__(self, hidden: Tensor, /) -> Tensor:  # noqa: ARG002
            assert hooks_of(model) > before
            raise RuntimeError("in the middle of a pass")

    for tokens in ("last", "all"):
        edits = [AddedVector(Tap(0, "residual"), torch.ones(16)), Failing(HERE, torch.ones(16), 1.0, tokens)]
        with pytest.raises(RuntimeError, match="in the middle of a pass"):
            generate(model, prompts, greedy, edits)
        assert hooks_of(model) == before
    with pytest.raises(InvalidInputError, match="the vector has 17 numbers and the model's activations 16"):
        generate(model, prompts, greedy, [AddedVector(HERE, torch.ones(17))])
    assert hooks_of(model) == before
    assert generate(model, prompts, greedy) == plain


def test_bad_edits_are_named():
    autoencoder = autoencoder_of(BAEConfig())
    for strength in (float("nan"), float("inf")):
        with pytest.raises(InvalidInputError, match=f"strength is {strength}: expected a finite number"):
            AddedVector(HERE, torch.ones(16), strength)
    with pytest.raises(NotFiniteError, match=r"the vector\[1\] is nan"):
        AddedVector(HERE, torch.tensor([1.0, torch.nan]))
    with pytest.raises(InvalidInputError, match="feature 24 is out of range: expected 0 to 23"):
        ClampedFeatures(HERE, autoencoder, [24])
    with pytest.raises(InvalidInputError, match="no feature is named"):
        ClampedFeatures(HERE, autoencoder, [])
    with pytest.raises(InvalidInputError, match="the features' value is inf"):
        ClampedFeatures(HERE, autoencoder, [2], float("inf"))
    with pytest.raises(InvalidInputError, match="reads one cell and reconstructs another"):
        ClampedFeatures(HERE, autoencoder_of(TranscoderConfig(target_site="residual")), [2])


def test_places_that_a_model_does_not_have_are_named(pair: tuple[SteeredModel, Naive]):
    model, _ = pair
    config = GenerationConfig(max_new_tokens=2)
    for tap, message in (
        (Tap(4, "residual"), "layer 4 is out of range: expected 0 to 3"),
        (Tap(-1, "residual"), "layer -1 is out of range"),
        (Tap(3, "mlp_out"), "layer 3 has no mlp_out: the last block is layer 2"),
        (Tap(1, "attention"), "site 'attention' is not known: expected residual, mlp_in or mlp_out"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            generate(model, [[1, 2]], config, [AddedVector(tap, torch.ones(16))])
    with pytest.raises(InvalidInputError, match="there are 3 vectors and 2 texts"):
        generate(model, [[1], [2]], config, [AddedVector(HERE, torch.ones(3, 16))])
