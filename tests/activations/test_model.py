import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, OPTConfig

from bae_ray.activations.loading import load_model
from bae_ray.activations.model import check_request, find_model, model_identity
from bae_ray.activations.parts import find_blocks
from bae_ray.errors import InvalidInputError, UnknownModelError


@pytest.mark.slow  # the hub is asked five times where it is not
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
        "from bae_ray.activations.loading import load_model\n"
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


def check(model: Path, layers: tuple[int, ...] = (0,), sites=("residual",), positions=(0,), longest: int | None = None):
    check_request(find_model(str(model)), layers, sites, positions, longest)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"layers": (0, 4)}, r"layer 4 is out of range: .* 0 \(embeddings\) to 3"),
        ({"layers": (1, 1)}, "each named once"),
        ({"positions": (-1,)}, "position -1 is out of range: expected 0 to 63, the model's context"),
        ({"positions": (64,)}, "position 64 is out of range: expected 0 to 63, the model's context"),
        ({"positions": (9,), "longest": 8}, "position 9 is out of range: expected 0 to 7, the longest text"),
        ({"longest": 65}, "texts of 65 tokens are too long: the model takes 64"),
        ({"layers": (3,), "sites": ("residual", "mlp_out")}, "layer 3 has no mlp_out: the last block, layer 2"),
    ],
)
def test_what_the_model_does_not_have_is_said(tiny_model: Path, request_: dict, message: str):
    with pytest.raises(InvalidInputError, match=message):
        check(tiny_model, **request_)


def test_blocks_without_an_mlp_say_what_they_have(tmp_path: Path):
    OPTConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, word_embed_proj_dim=16
    ).save_pretrained(tmp_path)
    check(tmp_path)
    with pytest.raises(InvalidInputError, match=r"cannot find the MLP of a OPTDecoderLayer: .* found .*fc1.* residual"):
        check(tmp_path, sites=("mlp_in",))


def test_identity_follows_the_weights(tiny_model: Path, tmp_path: Path):
    model = load_model(find_model(str(tiny_model)), "float32", "cpu")
    model.save_pretrained(tmp_path)
    before = model_identity(find_model(str(tmp_path)))
    assert before == model_identity(find_model(str(tmp_path)))
    with torch.no_grad():
        next(find_blocks(model)[1].parameters())[0, 0] += 1
    model.save_pretrained(tmp_path)
    assert before != model_identity(find_model(str(tmp_path)))
