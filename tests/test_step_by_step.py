"""The commands of README's "Step by step", as they are written, on a small model: what they give means something."""

import json
import random
import re
import shlex
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bae_ray import results
from tests.conftest import WORDS

README = Path(__file__).parents[1] / "README.md"
LAYERS = 21


def commands() -> list[str]:
    """The commands of the section, one a line."""
    section = README.read_text(encoding="utf-8").split("## Step by step")[1].split("\n## ")[0]
    block = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[0].replace("\\\n", " ")
    return [re.sub(r"\s# .*", "", line).strip() for line in block.splitlines()]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with as many blocks as the section's layers need."""
    config = LlamaConfig.from_pretrained(tiny_model)
    config.num_hidden_layers = LAYERS
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "deep")
    for file in tiny_model.glob("tokenizer*"):
        (tmp_path / "deep" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "deep"


@pytest.mark.usefixtures("ray_cluster")
def test_step_by_step(bae_ray, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    different = [" ".join(draw.choices(WORDS, k=18)) for _ in range(8)]  # so that a cell has 3 bits at most
    texts = [{"text": draw.choice(different)} for _ in range(2048)]
    Path("texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    smaller = {"smollm2-135m": str(model), "agnews": "texts.jsonl", "--seeds 0 1 2": "--seeds 0"}
    assert all(any(name in command for command in commands()) for name in smaller)
    ran = []
    for written_so in commands():
        command = written_so
        for name, replacement in smaller.items():
            command = command.replace(name, replacement)
        if written := re.fullmatch(r"echo '(.*)' > (\S+)", command):
            Path(written[2]).write_text(written[1] + "\n")
        elif command.startswith("bae-ray"):
            verb, *arguments = shlex.split(command)[1:]
            one_node = {name: ["--gpus-per-worker", 0] for name in ("extract", "fidelity")}
            one_node |= {"sweep": ["--gpus-per-trial", 0], "watch": ["--once"]}
            code, out, err = bae_ray(verb, *arguments, *one_node.get(verb, []))
            assert code == 0, (command, out, err)
            assert "warning" not in err, (command, err)
            ran.append(verb)
    assert ran == ["extract", "train", "sweep", "watch", "report", "entropy", "measure", "fidelity"]
    table = results("runs/sweep")
    assert set(table["autoencoder.expansion"]) == {2, 4}
    assert table["joint_bits"].between(2.9, 3.0001).all(), "eight texts: three bits"
    assert table["entropy_bits"].max() < 8
    assert table["fvu_val"].max() < 0.1


def test_a_training_that_presses_on_nothing_is_warned_of(bae_ray, tiny_store: Path, tmp_path: Path):
    cell = ["--store", tiny_store, "--layer", 1, "--position", 2, "--out", tmp_path]
    code, out, err = bae_ray("train", *cell, "--training.epochs", 2)
    assert code == 0
    assert "bits of at most 64" in out
    assert "most latents are fair coins" in err
    assert "--training.entropy-weight" in err
    code, _, err = bae_ray("train", *cell, "--training.epochs", 2, "--autoencoder.architecture", "relu")
    assert "fair coins" not in err
