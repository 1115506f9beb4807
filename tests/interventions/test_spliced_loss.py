from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from bae_ray.activations.model import find_model
from bae_ray.errors import InvalidInputError
from bae_ray.interventions.spliced_loss import Splicer
from tests.activations.odd_models import GROUPED, save_random

TEXTS = [[1, 2, 3, 4, 5], [7, 8, 9], [10], [11, 12, 13, 14, 15, 16, 17]]


@pytest.fixture(scope="module")
def splicer(tiny_causal_model: Path) -> Splicer:
    return Splicer(find_model(str(tiny_causal_model)))


@pytest.fixture(scope="module")
def model(tiny_causal_model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_causal_model).eval()


def replace(hidden: Tensor) -> Tensor:
    return torch.tanh(hidden) * 2 + 0.1


def changed(hidden: Tensor, first: bool) -> Tensor:
    """The same on a text's vectors [1, T, D]."""
    spliced = replace(hidden)
    return spliced if first else torch.cat([hidden[:, :1], spliced[:, 1:]], 1)


def mean_loss(logits_of: list[Tensor]) -> float:
    texts = [text for text in TEXTS if len(text) > 1]
    total = sum(
        float(torch.nn.functional.cross_entropy(logits[0, :-1], torch.tensor(text[1:]), reduction="sum"))
        for logits, text in zip(logits_of, texts, strict=True)
    )
    return total / sum(len(text) - 1 for text in texts)


@pytest.mark.parametrize("first", [True, False])
@torch.no_grad()
def test_loss_with_replaced_embeddings(splicer: Splicer, model: LlamaForCausalLM, first: bool) -> None:
    """transformers' own way, text by text: inputs_embeds."""
    logits, clean = [], []
    for text in TEXTS:
        if len(text) > 1:
            embedded = model.get_input_embeddings()(torch.tensor([text]))
            logits.append(model(inputs_embeds=changed(embedded, first)).logits)
            clean.append(model(torch.tensor([text])).logits)
    found = splicer.loss(TEXTS, 0, replace, first, batch_size=2)
    assert found.tokens == 4 + 2 + 6
    assert found.clean == pytest.approx(mean_loss(clean), abs=1e-5)
    assert found.spliced == pytest.approx(mean_loss(logits), abs=1e-5)
    assert found.change == found.spliced - found.clean != 0


@torch.no_grad()
def test_loss_with_a_replaced_last_layer(splicer: Splicer, model: LlamaForCausalLM) -> None:
    logits = [
        model.lm_head(changed(model.model(torch.tensor([text])).last_hidden_state, first=True))
        for text in TEXTS
        if len(text) > 1
    ]
    assert splicer.loss(TEXTS, 3, replace).spliced == pytest.approx(mean_loss(logits), abs=1e-5)


@torch.no_grad()
def test_what_is_replaced_is_what_is_stored(splicer: Splicer, model: LlamaForCausalLM) -> None:
    """Layer 2's vectors are hidden_states[2], each real token once."""
    seen: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        seen.append(hidden.clone())
        return hidden

    found = splicer.loss(TEXTS, 2, keep, batch_size=1)
    assert found.change == pytest.approx(0, abs=1e-6)
    texts = sorted((text for text in TEXTS if len(text) > 1), key=len)
    expected = [model(torch.tensor([text]), output_hidden_states=True).hidden_states[2][0] for text in texts]
    torch.testing.assert_close(torch.cat(seen), torch.cat(expected))


def test_what_cannot_be_measured_is_named(splicer: Splicer) -> None:
    with pytest.raises(InvalidInputError, match="layer 4 is out of range: expected 0 to 3"):
        splicer.loss(TEXTS, 4, replace)
    with pytest.raises(InvalidInputError, match="no text has two tokens"):
        splicer.loss([[1], [2]], 0, replace)
    splicer.loss([[1] * 64], 0, replace)
    with pytest.raises(InvalidInputError, match=r"a text of 65 tokens is too long: .* takes 64, its context"):
        splicer.loss([[1, 2], [1] * 65], 0, replace)


ROPE = {"type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [4.0, 9.0]}


@pytest.mark.parametrize(
    ("unchecked", "kind", "fields", "message"),
    [
        ("_refuse_looking_ahead", "llama", {"is_causal": False}, "tokens see those after them"),
        (
            "_longest_of_one_kind",
            "phi3",
            {"original_max_position_embeddings": 16, "rope_scaling": ROPE},
            "depend on the texts beside it in a batch",
        ),
    ],
)
def test_a_model_whose_vectors_depend_on_more_than_the_text_before_them_is_refused(
    unchecked: str,
    kind: str,
    fields: dict[str, Any],
    message: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by an extraction, which tries the model itself: its config may say nothing of it."""
    monkeypatch.setattr(f"bae_ray.activations.model.{unchecked}", lambda *_: None)
    folder = save_random(tiny_model, tmp_path / "model", kind, **{**GROUPED, **fields})
    with pytest.raises(InvalidInputError, match=message):
        Splicer(find_model(str(folder)))
