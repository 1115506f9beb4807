"""Similar features and words promoted, against the same computed in numpy; the spread of magnitudes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from bae_ray.activations.model import find_model
from bae_ray.comsem.config import ExamplesConfig
from bae_ray.comsem.examples import NO_TOKEN, SAMPLED, Collected, Kept, at_quantiles
from bae_ray.comsem.feature_details import similar, words


def test_similar_features_have_the_largest_cosine_and_are_others():
    dictionary = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    found = similar(dictionary, [0, 7, 299])
    rows = dictionary.double().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for feature in (0, 7, 299):
        cosines = unit @ unit[feature]
        cosines[feature] = -np.inf
        assert [other.feature for other in found[feature]] == np.argsort(-cosines)[:5].tolist()
        np.testing.assert_allclose([other.cosine for other in found[feature]], np.sort(cosines)[::-1][:5], rtol=1e-5)


@pytest.fixture
def normed_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A language model of width 16, with one block, whose final norm weighs its channels unequally."""
    config = LlamaConfig(vocab_size=61, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    torch.nn.init.uniform_(model.model.norm.weight, 0.1, 3.0)
    model.save_pretrained(tmp_path / "normed")
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "normed")
    return tmp_path / "normed"


@pytest.mark.parametrize("layer", [0, 1])
def test_words_are_those_that_the_models_own_norm_and_head_promote(normed_model: Path, layer: int):
    """The last layer's residual stream is after the norm: what its rows promote is what the head makes of them."""
    dictionary = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    found = words(dictionary, [1, 3], find_model(str(normed_model)), layer)
    assert sorted(found) == [1, 3]
    weights = load_file(normed_model / "model.safetensors")
    head, norm = weights["lm_head.weight"].double().numpy(), weights["model.norm.weight"].double().numpy()
    for feature in (1, 3):
        row = dictionary[feature].double().numpy()
        logits = head @ (row / np.sqrt((row**2).mean()) * (norm if layer == 0 else 1))
        order = np.argsort(-logits)
        names = ["<unk>", *(f"w{i}" for i in range(60))]
        assert [one.word for one in found[feature].promoted] == [names[i] for i in order[:10]]
        assert [one.word for one in found[feature].suppressed] == [names[i] for i in order[::-1][:10]]
        np.testing.assert_allclose([one.logit for one in found[feature].promoted], logits[order[:10]], rtol=1e-4)


def test_a_model_without_a_head_speaks_for_nothing(tiny_model: Path, tmp_path: Path):
    shutil.copytree(tiny_model, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "lm_head" not in name}, file, {"format": "pt"})
    assert words(torch.ones(2, 16), [0], find_model(str(tmp_path / "model")), 0) == {}


def test_a_model_without_weights_or_of_another_width_speaks_for_nothing(normed_model: Path):
    assert words(torch.ones(2, 24), [0], find_model(str(normed_model)), 0) == {}
    assert words(torch.ones(2, 16), [0], find_model(str(normed_model)), 0)
    (normed_model / "model.safetensors").unlink()
    assert words(torch.ones(2, 16), [0], find_model(str(normed_model)), 0) == {}


def test_a_sample_is_of_all_activations_and_the_same_however_they_come():
    config = ExamplesConfig(k=1, n_interpret=1, n_test=1, top=1)
    magnitudes = torch.zeros(3000, 2)
    magnitudes[:, 0] = torch.arange(1, 3001)
    whole, one, two = (Collected.empty(2, config) for _ in range(3))
    whole.add(magnitudes, 0, config)
    two.add(magnitudes[1000:], 1000, config)
    one.add(magnitudes[:1000], 0, config)
    two.merge(one)
    sampled = whole.sampled.kept()
    for mine, theirs in zip(sampled, two.sampled.kept(), strict=True):
        assert np.array_equal(mine, theirs)
    assert (sampled.tokens[0] + 1 == sampled.magnitudes[0]).all()
    assert len(set(sampled.tokens[0])) == SAMPLED
    assert abs(sampled.magnitudes[0].mean() - 1500) < 500, "drawn from everywhere"
    assert (sampled.tokens[1] == NO_TOKEN).all()


def test_quantiles_are_of_what_is_there():
    tokens = np.array([[5, 6, 7, 8, 9], [3, NO_TOKEN, NO_TOKEN, NO_TOKEN, NO_TOKEN], [NO_TOKEN] * 5])
    magnitudes = np.array([[0.3, 0.1, 0.5, 0.2, 0.4], [-2.0, 0, 0, 0, 0], [0] * 5], np.float32)
    found = at_quantiles(Kept(tokens, magnitudes, np.array([5, 1, 0])))
    assert found.tokens[0].tolist() == [9, 5, 8, 6]
    np.testing.assert_allclose(found.magnitudes[0], [0.4, 0.3, 0.2, 0.1])
    assert found.tokens[1:].tolist() == [[3, -1, -1, -1], [-1] * 4]
