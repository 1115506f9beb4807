"""A model in which one direction decides: the right vectors steer it, controls of the same norm do not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bae_ray.activations.model import find_model
from bae_ray.activations.taps import Tap
from bae_ray.autoencoders import Autoencoder, BAEConfig, ReLUConfig, build_autoencoder
from bae_ray.interventions.editable_model import EditableModel
from bae_ray.steering import vectors
from bae_ray.steering.edits import AddedVector, ClampedFeatures, SteeringEdit
from bae_ray.steering.generation import GenerationConfig, generate
from bae_ray.steering.label_scoring import AskedPrompts, measure_answers
from bae_ray.steering.random_vectors import random_direction, random_features
from bae_ray.steering.steered_model import SteeredModel
from tests.steering.planted import LABELS, LAYER, SWITCH, D, prompts_of, save_planted

TAP = Tap(LAYER, "residual")
F = 100
ON = 0.7
"""What demonstrations bring of the switch, about."""


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> SteeredModel:
    folder = save_planted(tiny_model, tmp_path_factory.mktemp("planted") / "model")
    return SteeredModel(EditableModel(find_model(str(folder))))


def activations(model: SteeredModel, prompts: list[list[int]]) -> Tensor:
    kept: list[Tensor] = []
    for prompt in prompts:
        clean = model.editable.clean(torch.tensor([prompt]), torch.tensor([len(prompt) - 1]), [TAP])
        kept.append(clean.activations[TAP][0, -1])
    return torch.stack(kept)


@pytest.fixture(scope="module")
def sets(model: SteeredModel) -> tuple[Tensor, Tensor]:
    """Calibration: with demonstrations, and without."""
    return activations(model, prompts_of(64, 1, seed=0)[0]), activations(model, prompts_of(64, 0, seed=0)[0])


@pytest.fixture(scope="module", params=[BAEConfig(), ReLUConfig()], ids=["bae", "relu"])
def autoencoder(request: pytest.FixtureRequest) -> Autoencoder:
    """Latent 0 reconstructs the switch; the others fire at random, with random directions that do not contain it."""
    built = build_autoencoder(request.param.model_copy(update={"d_in": D, "d_latent": F}))
    on = 1.0 if built.architecture.is_binary else 10 * ON
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        built.W_enc.copy_(torch.randn(D, F, generator=generator))
        built.W_dec.copy_(torch.nn.functional.normalize(torch.randn(F, D, generator=generator), dim=1) * 2)
        built.W_enc[SWITCH], built.W_dec[:, SWITCH] = 0.0, 0.0
        built.W_enc[:, 0], built.W_dec[0] = 0.0, 0.0
        built.W_enc[SWITCH, 0], built.W_dec[0, SWITCH] = 20.0, ON / on
        built.mean[SWITCH] = ON / 2
        if built.b_enc is not None:
            built.b_enc.zero_()
        built.b_dec.zero_()
    return built.eval()


def accuracies(model: SteeredModel, edits: list[SteeringEdit]) -> tuple[float, float]:
    """Among the labels and over the whole vocabulary, on other texts than those of the calibration."""
    prompts, answers = prompts_of(40, 0, seed=99)
    found = measure_answers(AskedPrompts(model, prompts).scores(LABELS, edits), LABELS, answers)
    return float(found.among_labels.double().mean()), float(found.whole_vocabulary.double().mean())


def test_without_steering_it_is_at_chance(model: SteeredModel):
    assert accuracies(model, []) == (0.5, 0.0)


def test_the_centroids_difference_steers(model: SteeredModel, sets: tuple[Tensor, Tensor]):
    right = vectors.centroid_difference(*sets)
    assert min(accuracies(model, [AddedVector(TAP, right)])) > 0.95
    component = vectors.rescaled(vectors.principal_component(torch.cat(sets), right), float(right.norm()))
    assert min(accuracies(model, [AddedVector(TAP, component)])) > 0.95


def test_the_right_feature_steers(model: SteeredModel, sets: tuple[Tensor, Tensor], autoencoder: Autoencoder):
    change = vectors.largest(vectors.latent_difference(autoencoder, *sets), 1)
    assert change.nonzero().tolist() == [[0]]
    norm = float(vectors.centroid_difference(*sets).norm())
    for right in (change, vectors.signs(change)):
        vector = vectors.rescaled(vectors.decoded(autoencoder, right), norm)
        assert min(accuracies(model, [AddedVector(TAP, vector)])) > 0.95
    clamp = ClampedFeatures(TAP, autoencoder, [0], 1.0 if autoencoder.architecture.is_binary else 10 * ON)
    assert min(accuracies(model, [clamp])) > 0.95


def test_controls_do_not_steer(model: SteeredModel, sets: tuple[Tensor, Tensor], autoencoder: Autoencoder):
    change = vectors.largest(vectors.latent_difference(autoencoder, *sets), 1)
    norm = float(vectors.centroid_difference(*sets).norm())
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        features = vectors.decoded(autoencoder, random_features(change, generator))
        for control in (random_direction(D, norm, generator), vectors.rescaled(features, norm)):
            among, whole = accuracies(model, [AddedVector(TAP, control)])
            assert max(among, whole) < 0.75
    opposite = AddedVector(TAP, vectors.centroid_difference(*sets), -1.0)
    assert max(accuracies(model, [opposite])) < 0.75


def test_ablating_the_switch_takes_the_demonstrations_away(
    model: SteeredModel, sets: tuple[Tensor, Tensor], autoencoder: Autoencoder
):
    """Prompts with demonstrations are answered; with the feature held below 0, no longer."""
    prompts, answers = prompts_of(40, 1, seed=99)
    asked = AskedPrompts(model, prompts)
    assert measure_answers(asked.scores(LABELS), LABELS, answers).whole_vocabulary.double().mean() > 0.95
    ablated = asked.scores(LABELS, [ClampedFeatures(TAP, autoencoder, [0], 0.0)])
    assert measure_answers(ablated, LABELS, answers).whole_vocabulary.double().mean() < 0.5


def test_steered_texts_begin_with_the_label(model: SteeredModel, sets: tuple[Tensor, Tensor]):
    prompts, answers = prompts_of(40, 0, seed=99)
    edit = AddedVector(TAP, vectors.centroid_difference(*sets))
    written = generate(model, prompts, GenerationConfig(max_new_tokens=1, temperature=0), [edit])
    right = [one.token_ids == LABELS[answer] for one, answer in zip(written, answers.tolist(), strict=True)]
    assert sum(right) / len(right) > 0.95
