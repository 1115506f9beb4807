"""Which texts a run is measured on: never those it was trained on. Position `all`, prompts, and other stores."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from bae_ray.activations.config import ExtractConfig, ICLInput, TokensConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import BAEConfig, load_autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.fidelity.config import FidelityConfig
from bae_ray.fidelity.held_out_texts import held_out_of
from bae_ray.fidelity.measure_fidelity import measure_fidelity
from bae_ray.fidelity.subjects import imported, targets_of
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import plan_run
from bae_ray.training.run_execution import execute_run
from tests.conftest import WORDS


def store_of(model: Path, texts: list[str], folder: Path, **fields: Any) -> ActivationStore:
    corpus = folder.with_suffix(".txt")
    corpus.write_text("\n".join(texts) + "\n")
    config = ExtractConfig(model=str(model), corpus=str(corpus), layers=(1,), gpus_per_worker=0, **fields)
    return extract(config, folder, "inline")


def run_on(store: ActivationStore, out: Path, position: Any) -> Path:
    settings = TrainingConfig(epochs=1, batch_size=16)
    run = plan_run(store, Cell(1, "residual", position), BAEConfig(expansion=2), settings)
    execute_run(run, store, out)
    return out / run.id


def config(model: Path) -> FidelityConfig:
    return FidelityConfig(model=str(model), gpus_per_worker=0)


@pytest.fixture(scope="module")
def everywhere(ray_cluster: None, tiny_causal_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    texts = [" ".join(WORDS[(i * k) % 60] for k in range(1, 8)) for i in range(1, 41)]
    folder = tmp_path_factory.mktemp("all") / "store"
    return store_of(tiny_causal_model, texts, folder, positions=("all",), tokens=TokensConfig(first=False))


def test_position_all_takes_texts_of_another_store_and_keeps_its_own_tokens(
    everywhere: ActivationStore, tiny_causal_model: Path, tmp_path: Path
):
    """By plain transformers: the reconstruction at every token but the first, which was never trained on."""
    folder = run_on(everywhere, tmp_path / "runs", "all")
    seen = everywhere.texts["text"][0]
    others = [" ".join(WORDS[(7 * i + k) % 60] for k in range(5 + i % 3)) for i in range(12)]
    held_out = store_of(tiny_causal_model, [seen, *others], tmp_path / "other", positions=(0,))
    targets = targets_of([tmp_path / "runs"], everywhere)
    found = measure_fidelity(config(tiny_causal_model), everywhere, targets, tmp_path / "runs", held_out, "inline")
    (record,) = found.records.values()
    assert record.columns.fidelity_texts == len(others), "the text that was trained on is left out"

    model, autoencoder = LlamaForCausalLM.from_pretrained(tiny_causal_model).eval(), load_autoencoder(folder)
    vocabulary = {word: i + 1 for i, word in enumerate(WORDS)}
    ce: list[float] = []
    for text in others:
        ids = torch.tensor([[vocabulary[word] for word in text.split()]])

        def spliced(_m: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            hidden = args[0].clone()
            hidden[0, 1:] = autoencoder(hidden[0, 1:]).x_hat
            return (hidden, *args[1:])

        handle = model.model.layers[1].register_forward_pre_hook(spliced)
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        handle.remove()
        # After the first token, which stays as it is, nothing can have changed.
        ce += torch.nn.functional.cross_entropy(logits[1:], ids[0, 2:], reduction="none").tolist()
    assert record.columns.fidelity_tokens == len(ce)
    assert record.columns.ce_spliced == pytest.approx(sum(ce) / len(ce), abs=1e-5)


def test_position_all_without_held_out_texts_is_told(
    everywhere: ActivationStore, tiny_causal_model: Path, tmp_path: Path
):
    run_on(everywhere, tmp_path / "runs", "all")
    targets = targets_of([tmp_path / "runs"], everywhere)
    with pytest.raises(InvalidInputError, match="name it with --held-out"):
        measure_fidelity(config(tiny_causal_model), everywhere, targets, tmp_path / "runs", None, "inline")
    with pytest.raises(InvalidInputError, match=r"all texts of .* are in .*, too, so none is held out"):
        measure_fidelity(config(tiny_causal_model), everywhere, targets, tmp_path / "runs", everywhere, "inline")


@pytest.mark.usefixtures("ray_cluster")
def test_a_prompt_is_followed_by_its_label(tiny_causal_model: Path, tmp_path: Path):
    """Position `last` of prompts: the next token is the label's."""
    corpus = tmp_path / "labelled.jsonl"
    corpus.write_text("".join(f'{{"text": "{WORDS[i]} {WORDS[i + 1]}", "label": {i % 2}}}\n' for i in range(40)))
    prompts = ExtractConfig(
        model=str(tiny_causal_model), corpus=str(corpus), layers=(1,), positions=("last",), gpus_per_worker=0,
        max_texts=40, input=ICLInput(k=1, label_words=("w50", "w51"), text_prefix="w1 ", label_prefix="w2 "),
    )  # fmt: skip
    store = extract(prompts, tmp_path / "store", "inline")
    run_on(store, tmp_path / "runs", "last")
    targets = targets_of([tmp_path / "runs"], store)
    found = measure_fidelity(config(tiny_causal_model), store, targets, tmp_path / "runs", None, "inline")
    columns = next(iter(found.records.values())).columns
    assert columns.fidelity_texts == columns.fidelity_tokens == 8
    model, texts, ce = LlamaForCausalLM.from_pretrained(tiny_causal_model).eval(), store.texts, []
    assert targets[0].trained is not None
    for i in held_out_of(store, targets[0].trained).tolist():
        with torch.no_grad():
            logits = model(torch.tensor([list(texts["token_ids"][i])])).logits[0, -1]
        ce.append(-float(torch.log_softmax(logits, 0)[texts["label_token"][i]]))
    assert columns.ce_clean == pytest.approx(sum(ce) / len(ce), abs=1e-5)


def test_an_imported_autoencoder_needs_texts_that_it_never_saw(
    everywhere: ActivationStore, tiny_causal_model: Path, tmp_path: Path
):
    folder = run_on(everywhere, tmp_path / "runs", "all")
    autoencoder = load_autoencoder(folder)
    autoencoder.save_pretrained(tmp_path / "imported")
    target = imported(tmp_path / "imported", 1, "residual", "all", everywhere)
    with pytest.raises(InvalidInputError, match="does not say which texts it was trained on"):
        measure_fidelity(config(tiny_causal_model), everywhere, [target], tmp_path, None, "inline")
    others = store_of(tiny_causal_model, ["w3 w4 w5", "w9 w8 w7"], tmp_path / "other", positions=(0,))
    found = measure_fidelity(config(tiny_causal_model), everywhere, [target], tmp_path, others, "inline")
    assert found.records["imported"].columns.fidelity_texts == 2
    with pytest.raises(InvalidInputError, match="layer 2 is not in the store"):
        imported(tmp_path / "imported", 2, "residual", "all", everywhere)
