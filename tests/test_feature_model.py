"""A run and its language model on texts, as in a notebook: against plain transformers, and the docs as they are."""

import ast
import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from bae_ray import FeatureModel
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.layout import Cell
from bae_ray.autoencoders import ArchitectureConfig, BAEConfig, ReLUConfig, build_autoencoder, load_autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import plan_run
from bae_ray.training.run_execution import execute_run

DOCS = Path(__file__).parents[1] / "docs" / "notebooks.md"
TEXT = "w3 w14 w15 w9 w26 w5"


@pytest.fixture(scope="module", params=[BAEConfig(expansion=2), ReLUConfig(expansion=2)], ids=["bae", "relu"])
def run(
    request: pytest.FixtureRequest, ray_cluster: None, tiny_causal_model: Path, tiny_corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """A run on all tokens of layer 1."""
    folder, autoencoder = tmp_path_factory.mktemp("feature_model"), request.param
    assert isinstance(autoencoder, ArchitectureConfig)
    config = ExtractConfig(
        model=str(tiny_causal_model), corpus=str(tiny_corpus), layers=(1,), positions=("all",), gpus_per_worker=0
    )
    store = extract(config, folder / "store", "inline")
    planned = plan_run(store, Cell(1, "residual", "all"), autoencoder, TrainingConfig(epochs=2, batch_size=64, lr=1e-3))
    execute_run(planned, store, folder / "runs")
    return folder / "runs" / planned.id


@pytest.fixture(scope="module")
def features(run: Path, tiny_causal_model: Path) -> FeatureModel:
    return FeatureModel.of_run(run, model=str(tiny_causal_model))


def ids_of(features: FeatureModel) -> torch.Tensor:
    return torch.tensor([features.model.tokenizer(TEXT).input_ids])


@pytest.fixture(scope="module")
def hidden(features: FeatureModel, tiny_causal_model: Path) -> torch.Tensor:
    """Layer 1 of transformers' own hidden states, [T, D]."""
    model = LlamaForCausalLM.from_pretrained(tiny_causal_model).eval()
    with torch.no_grad():
        return model(ids_of(features), output_hidden_states=True).hidden_states[1][0]


def test_the_top_features_are_those_of_largest_magnitude_that_fire(
    features: FeatureModel, run: Path, hidden: torch.Tensor
):
    autoencoder = load_autoencoder(run).eval()
    table = features.top_features(TEXT, k=4)
    assert set(table["token"]) <= set(TEXT.split())
    with torch.no_grad():
        fires, magnitudes = autoencoder.features_fire(hidden), autoencoder.magnitudes(hidden)
    for position in range(len(hidden)):
        ranked = sorted(
            (i for i in range(len(fires[position])) if fires[position, i]), key=lambda i: -magnitudes[position, i]
        )
        mine = table[table["position"] == position]
        assert len(mine) == min(4, len(ranked))
        torch.testing.assert_close(
            torch.tensor(mine["magnitude"].tolist()), magnitudes[position][ranked[:4]], rtol=1e-4, atol=1e-4
        )


def test_reconstructions_are_the_autoencoders(features: FeatureModel, run: Path, hidden: torch.Tensor):
    found = features.reconstruct(TEXT)
    torch.testing.assert_close(found.x, hidden, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(found.x_hat, load_autoencoder(run)(hidden).x_hat, rtol=1e-3, atol=1e-3)
    assert found.tokens == TEXT.split()
    assert found.relative_error.shape == (6,)


def test_splices_are_those_of_a_plain_hook(features: FeatureModel, run: Path, tiny_causal_model: Path):
    model, autoencoder = LlamaForCausalLM.from_pretrained(tiny_causal_model).eval(), load_autoencoder(run).eval()
    ids, table = ids_of(features), features.splice(TEXT)
    with torch.no_grad():
        clean = model(ids).logits[0].log_softmax(1)

        def replaced(_m: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (autoencoder(args[0][0]).x_hat[None], *args[1:])

        model.model.layers[1].register_forward_pre_hook(replaced)
        spliced = model(ids).logits[0].log_softmax(1)
    at = torch.arange(5), ids[0, 1:]
    found = {name: torch.tensor(table[name].to_numpy()) for name in ("ce_clean", "ce")}
    torch.testing.assert_close(found["ce_clean"][:-1], -clean[at].double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["ce"][:-1], -spliced[at].double(), rtol=1e-3, atol=1e-3)
    assert found["ce"].isnan().tolist() == [False] * 5 + [True], "what follows the last token is not known"
    kl = (clean.exp() * (clean - spliced)).sum(1)
    torch.testing.assert_close(torch.tensor(table["kl"].to_numpy()), kl.double(), rtol=1e-2, atol=1e-4)


def test_generation_is_seeded_and_a_feature_turned_up_changes_it(features: FeatureModel):
    plain = features.generate(TEXT, max_new_tokens=8, seed=3)
    assert plain == features.generate(TEXT, max_new_tokens=8, seed=3)
    assert plain == features.generate(TEXT, add={1: 0.0}, max_new_tokens=8, seed=3)
    assert plain != features.generate(TEXT, add={1: 1e4, 2: -1e4}, max_new_tokens=8, seed=3)


def test_what_cannot_be_is_told(features: FeatureModel, tmp_path: Path):
    with pytest.raises(InvalidInputError, match="feature 999 is out of range: expected 0 to 31"):
        features.generate(TEXT, clamp={999: 1.0})
    with pytest.raises(InvalidInputError, match="a text of 72 tokens is too long"):
        features.top_features("w1 " * 72)
    with pytest.raises(InvalidInputError, match="the text is empty"):
        features.splice("")
    narrow = build_autoencoder(BAEConfig(d_in=8, expansion=2))
    with pytest.raises(InvalidInputError, match="have 8 numbers, those of the language model have 16"):
        FeatureModel(features.model, narrow, features.cell)
    with pytest.raises(InvalidInputError, match="layer 3 has no mlp_out"):
        FeatureModel(features.model, features.autoencoder, features.cell, Cell(3, "mlp_out", "all"))
    with pytest.raises(InvalidInputError, match=r"is no finished run: result\.json is missing"):
        FeatureModel.of_run(tmp_path)


def test_the_docs_run_as_they_are(run: Path, tiny_causal_model: Path, monkeypatch: pytest.MonkeyPatch):
    """Each block of docs/notebooks.md, of at most five lines; the run's name for its model is that of a folder here."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(tiny_causal_model.parent)
    names: dict[str, object] = {"RUN": run}
    for block in blocks:
        assert len(block.splitlines()) <= 5
        ast.parse(block)
        exec(block, names)
