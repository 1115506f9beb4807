"""The model's own answers, and layers that transformers counts or shapes in other ways."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bae_ray.activations.capture import Capture
from bae_ray.activations.compute import Work
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.loading import load_model, load_model_with_head
from bae_ray.activations.model import find_model
from bae_ray.activations.probe import probe
from bae_ray.interventions.spliced_loss import Splicer
from tests.activations.odd_models import GEMMA, GROUPED, SIZES, STATES, save_random

HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "a transform": ("modernbert-decoder", {**SIZES, "cls_token_id": 1, "sep_token_id": 2}),
    "a transform and a bias": ("roberta", {**SIZES, "is_decoder": True}),
    "a scale": ("cohere", {**GROUPED, "logit_scale": 0.0625}),
    "a divisor": ("granite", {**GROUPED, "logits_scaling": 8.0}),
    "a soft cap": ("gemma2", {**GEMMA, "final_logit_softcapping": 3.0}),
    "nothing": ("llama", GROUPED),
    "a decoder called directly": ("opt", {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    "no attention": ("mamba", {**STATES, "state_size": 8}),
}


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, 61, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", HEADS)
def test_logits_are_the_causal_models_own(head: str, tiny_model: Path, tmp_path: Path):
    kind, fields = HEADS[head]
    folder, ids = save_random(tiny_model, tmp_path, kind, **fields), random_ids(3, 9)
    with torch.no_grad():
        own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits
    model = load_model_with_head(find_model(str(folder)), "float32", "cpu")
    _, logits = Capture(model, [1, 3], ["residual"], answers=True)(ids, torch.tensor([0]), torch.tensor([4, 17, 26]))
    torch.testing.assert_close(logits, torch.stack([own[0, 4], own[1, 8], own[2, 8]]), rtol=0, atol=1e-4)
    loss = Splicer(find_model(str(folder))).loss(ids.tolist(), 1, lambda x: x)
    expected = torch.nn.functional.cross_entropy(own[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert loss.clean == pytest.approx(float(expected), rel=1e-4)
    assert loss.change == pytest.approx(0, abs=1e-5)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_stored_answers_are_the_causal_models_own(tiny_config: ExtractConfig, tiny_model: Path, tmp_path: Path):
    kind, fields = HEADS["a transform"]
    folder = save_random(tiny_model, tmp_path / "model", kind, **fields)
    generator, corpus = random.Random(0), tmp_path / "labelled.jsonl"
    texts = [" ".join(f"w{generator.randrange(10, 60)}" for _ in range(5)) for _ in range(12)]
    corpus.write_text("".join(json.dumps({"text": t, "label": f"w{i % 3}"}) + "\n" for i, t in enumerate(texts)))
    prompts = {"kind": "icl", "k": 2, "text_prefix": "w3 ", "label_prefix": "w4 "}
    changes = {"model": str(folder), "corpus": str(corpus), "positions": ("last",), "layers": (1,), "input": prompts}
    store = extract(ExtractConfig.model_validate({**tiny_config.model_dump(), **changes}), tmp_path / "store", "inline")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    told = store.predictions
    labels = sorted({int(token) for token in told["label_token"]})
    for ids, token, label in zip(store.texts["token_ids"], told["predicted_token"], told["predicted"], strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([ids.tolist()])).logits[0, -1]
        assert int(logits.argmax()) == token
        assert int(logits[labels].argmax()) == label


@pytest.mark.parametrize(
    ("kind", "fields", "numbering"),
    [
        ("mamba", {**STATES, "state_size": 8}, r"what block l receives: hidden_states[l - 1] of transformers"),
        ("falcon_mamba", {**STATES, "state_size": 8}, r"what block l receives: hidden_states[l - 1] of transformers"),
        ("rwkv", {**STATES, "context_length": 64}, r"what block l receives: hidden_states[l - 1] of transformers"),
        (
            "gemma3n_text",
            {**GEMMA, "intermediate_size": [24] * 3, "vocab_size_per_layer_input": 61, "laurel_rank": 4,
             "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 3,
             "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
            "hidden_states[l], of its streams the one that blocks compute with, 0",
        ),
        ("llama", GROUPED, "hidden_states[l]"),
    ],
    ids=["mamba", "falcon_mamba", "rwkv", "gemma3n", "llama"],
)  # fmt: skip
def test_how_layers_are_counted_is_found_and_said(
    kind: str, fields: dict, numbering: str, tiny_model: Path, tmp_path: Path
):
    source = find_model(str(save_random(tiny_model, tmp_path, kind, **fields)))
    work = Work(source, (0, 1, 2, 3), ("residual",), ("all",), "float32", 32, 16_384, False, None)
    assert probe(work, "cpu").numbering.startswith(numbering)
    received: list[torch.Tensor] = []
    model = load_model(source, "float32", "cpu")
    capture, ids = Capture(model, (0, 1, 2, 3), ["residual"]), random_ids(1, 9)
    for block in capture.blocks:
        block.register_forward_pre_hook(
            lambda _module, args, kwargs: received.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    vectors, _ = capture(ids, torch.arange(9))
    for layer, given in enumerate(received):
        torch.testing.assert_close(vectors[layer], given.reshape(-1, 9, 16)[0], rtol=0, atol=0)
