import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BertConfig, GPT2Config, GPT2Model, GPTNeoXConfig, GPTNeoXModel

from bae_ray.activations.model import (
    ResidualCapture,
    _blocks,
    check_layers_and_positions,
    find_model,
    load_model,
    load_tokenizer,
    model_identity,
)
from bae_ray.errors import InvalidInputError, UnknownModelError


def capture_and_oracle(path: str, layers: list[int], positions: list[int], ids: torch.Tensor):
    """Our vectors and transformers' own hidden states, by layer, at the positions."""
    source = find_model(path)
    ours = ResidualCapture(load_model(source, "float32", "cpu"), layers)(ids, torch.tensor(positions))
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(source.path, dtype=torch.float32)(ids, output_hidden_states=True)
    return ours, {layer: theirs.hidden_states[layer][:, positions] for layer in layers}


@pytest.mark.parametrize("layers", [[0, 1, 2, 3], [0], [2, 1], [3]])
def test_vectors_are_the_hidden_states_of_transformers(tiny_model: Path, layers: list[int]):
    ids = torch.randint(0, 60, (5, 12), generator=torch.Generator().manual_seed(0))
    ours, theirs = capture_and_oracle(str(tiny_model), layers, [0, 3, 11], ids)
    assert set(ours) == set(layers)
    for layer in layers:
        torch.testing.assert_close(ours[layer], theirs[layer], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        lambda: GPT2Model(GPT2Config(vocab_size=60, n_embd=16, n_layer=3, n_head=2, n_positions=32)),
        lambda: GPTNeoXModel(
            GPTNeoXConfig(
                vocab_size=60, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
                max_position_embeddings=32,
            )
        ),
    ],
    ids=["gpt2", "gpt_neox"],
)  # fmt: skip
def test_other_architectures(model, tmp_path: Path):
    torch.manual_seed(0)
    model().save_pretrained(tmp_path)
    ours, theirs = capture_and_oracle(str(tmp_path), [0, 2, 3], [1, 4], torch.randint(0, 60, (3, 6)))
    for layer in (0, 2, 3):
        torch.testing.assert_close(ours[layer], theirs[layer], rtol=0, atol=1e-5)


def test_bundled_model_at_every_layer():
    source = find_model("smollm2-135m")
    assert (source.n_layers, source.hidden_size) == (30, 576)
    texts = [
        "The capital of France is Paris, and the capital of Italy is",
        "Stocks fell sharply on Monday after the bank",
    ]
    encoded = load_tokenizer(source)(texts, truncation=True, max_length=8)
    ids = torch.tensor(encoded["input_ids"])
    layers, positions = list(range(31)), [0, 1, 4, 7]
    ours, theirs = capture_and_oracle("smollm2-135m", layers, positions, ids)
    for layer in layers:
        torch.testing.assert_close(ours[layer], theirs[layer], rtol=0, atol=1e-5)


def test_later_tokens_do_not_change_a_vector(tiny_model: Path):
    ids = torch.randint(0, 60, (4, 20))
    capture = ResidualCapture(load_model(find_model(str(tiny_model)), "float32", "cpu"), [1, 3])
    long, short = capture(ids, torch.tensor([5])), capture(ids[:, :6], torch.tensor([5]))
    for layer in (1, 3):
        torch.testing.assert_close(long[layer], short[layer], rtol=0, atol=1e-5)


def test_blocks_past_the_last_layer_are_not_run(tiny_model: Path):
    model = load_model(find_model(str(tiny_model)), "float32", "cpu")
    ran: list[int] = []
    for i, block in enumerate(_blocks(model, 3)):
        block.register_forward_hook(lambda *_args, i=i: ran.append(i))
    ResidualCapture(model, [0, 2])(torch.zeros(1, 3, dtype=torch.long), torch.tensor([2]))
    assert ran == [0, 1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tiny_model: Path, dtype):
    ids = torch.randint(0, 60, (2, 5))
    source = find_model(str(tiny_model))
    half = ResidualCapture(load_model(source, dtype, "cpu"), [2])(ids, torch.tensor([4]))[2]
    full = ResidualCapture(load_model(source, "float32", "cpu"), [2])(ids, torch.tensor([4]))[2]
    assert half.dtype == getattr(torch, dtype)
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)


def test_unknown_model_is_named():
    with pytest.raises(
        UnknownModelError, match=r"model 'no-such-model-anywhere' is not 'smollm2-135m', no local folder"
    ):
        find_model("no-such-model-anywhere")


def test_hub_model_is_known_by_its_commit(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A model in the hub's cache, as left by an earlier download, with the hub out of reach."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    script = (
        "from bae_ray.activations.model import *\n"
        "source = find_model('someone/tiny')\n"
        "print(source.n_layers, model_identity(source), load_model(source, 'float32', 'cpu').config.hidden_size)\n"
        "print(load_tokenizer(source)('w1 w2')['input_ids'])"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"3 {{'name': 'someone/tiny', 'commit': '{commit}'}} 16", "[2, 3]"], done.stderr


def test_model_that_sees_later_tokens_is_refused(tmp_path: Path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="is a bert, whose tokens see those after them"):
        find_model(str(tmp_path))


def test_layer_out_of_range_says_the_range(tiny_model: Path):
    with pytest.raises(InvalidInputError, match=r"layer 4 is out of range: .* 0 \(embeddings\) to 3"):
        check_layers_and_positions(find_model(str(tiny_model)), [0, 4], [0])


@pytest.mark.parametrize("position", [-1, 64])
def test_position_out_of_range_says_the_range(tiny_model: Path, position: int):
    with pytest.raises(InvalidInputError, match=rf"position {position} is out of range: expected 0 to 63"):
        check_layers_and_positions(find_model(str(tiny_model)), [0], [position])


@pytest.mark.parametrize(("layers", "positions"), [([1, 1], [0]), ([0], []), ([0], [3, 3])])
def test_each_is_named_once(tiny_model: Path, layers: list[int], positions: list[int]):
    with pytest.raises(InvalidInputError, match="each named once"):
        check_layers_and_positions(find_model(str(tiny_model)), layers, positions)


def test_identity_follows_the_weights(tiny_model: Path, tmp_path: Path):
    model = load_model(find_model(str(tiny_model)), "float32", "cpu")
    model.save_pretrained(tmp_path)
    before = model_identity(find_model(str(tmp_path)))
    assert before == model_identity(find_model(str(tmp_path)))
    with torch.no_grad():
        next(_blocks(model, 3)[1].parameters())[0, 0] += 1
    model.save_pretrained(tmp_path)
    assert before != model_identity(find_model(str(tmp_path)))
