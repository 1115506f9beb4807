"""The commands and programs of the pages, as they are written, on a small model: what they give means something."""

import io
import json
import random
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from bae_ray import ActivationStore, cli, load_autoencoder, results
from tests.conftest import WORDS
from tests.docs.code_blocks import commands, run_blocks

LAYERS = 21
ONE_NODE = {name: ["--gpus-per-worker", "0"] for name in ("extract", "fidelity")} | {
    "sweep": ["--gpus-per-trial", "0"],
    "watch": ["--once"],
}
"""What a verb is given besides: there are no GPUs here, and nobody stops `watch`."""
Ran = list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with as many blocks as the pages' layers need."""
    folder = tmp_path_factory.mktemp("guides") / "deep"
    config = LlamaConfig.from_pretrained(tiny_model)
    config.num_hidden_layers = LAYERS
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tiny_model.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def folder(model: Path) -> Path:
    """Where the pages are followed, with a corpus of eight different texts, so that a cell has 3 bits at most."""
    draw = random.Random(0)
    different = [" ".join(draw.choices(WORDS, k=18)) for _ in range(8)]
    texts = [{"text": draw.choice(different)} for _ in range(2048)]
    (model.parent / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    return model.parent


@pytest.fixture(scope="module")
def stepped(ray_cluster: None, model: Path, folder: Path) -> Iterator[Ran]:
    """What the commands of "Step by step" said; the tests are where they left their files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield follow("get-started.md", model, {"--seeds 0 1 2": "--seeds 0"})


def call(*arguments: str) -> tuple[int, str, str]:
    """Call the command as the shell would: exit code, what it printed, what it complained of."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["bae-ray", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    return int(exit_.value.code or 0), out.getvalue(), err.getvalue()


def exchanged(code: str, others: dict[str, str]) -> str:
    """A page's code with other names in place of some of its own, each of which has to be there."""
    assert all(name in code for name in others), others
    return re.sub("|".join(map(re.escape, others)), lambda found: others[found[0]], code) if others else code


def follow(page: str, model: Path, others: dict[str, str]) -> Ran:
    """Run a page's commands where we are, on the tiny model and corpus: verb, standard output and error of each."""
    code = exchanged("".join(run_blocks(f"docs/{page}", "bash")), others)
    ran: Ran = []
    for words in commands(code.replace("smollm2-135m", str(model)).replace("agnews", "texts.jsonl")):
        if words[0] == "echo" and words[2] == ">":
            Path(words[3]).write_text(words[1] + "\n")
        elif words[0] == "bae-ray":
            verb = " ".join(words[1:3] if words[1] == "store" else words[1:2])
            exit_code, out, err = call(*words[1:], *ONE_NODE.get(verb, []))
            assert exit_code == 0, (words, out, err)
            assert "warning" not in err, (words, err)
            ran.append((verb, out, err))
        else:
            assert words[0] == "source", words
    return ran


def program(page: str, others: dict[str, str], **names: Any) -> dict[str, Any]:
    """Run a page's programs, one after another, with names that the page takes for granted; all names at the end."""
    exec(exchanged("".join(run_blocks(f"docs/{page}", "python")), others), names)
    return names


def test_step_by_step(stepped: Ran):
    verbs = [verb for verb, _, _ in stepped]
    assert verbs == ["extract", "train", "sweep", "watch", "report", "entropy", "measure", "fidelity"]
    table = results("runs/sweep")
    assert set(table["autoencoder.expansion"]) == {2, 4}
    assert table["joint_bits"].between(2.9, 3.0001).all(), "eight texts: three bits"
    assert table["entropy_bits"].max() < 8
    assert table["fvu_val"].max() < 0.1


def test_the_same_in_python(stepped: Ran):
    found = program("get-started.md", {})
    assert found["x_hat"].shape == found["x"].shape == (2048, 16)
    assert {*np.unique(found["code"])} <= {0, 1}
    assert found["bae"].all.entropy_bits < 8
    assert found["bae"].val.fvu < 0.1
    assert [one.autoencoder.config.name for one in found["both"]] == ["bae", "topk"]


def test_what_is_stored_is_shown(stepped: Ran, model: Path):
    (verb, _, _), (shown, out, _) = follow("extract.md", model, {})
    assert (verb, shown) == ("extract", "store info")
    assert "2048" in out


def test_measures_are_shown(stepped: Ran, model: Path):
    ran = follow("measure.md", model, {})
    assert [verb for verb, _, _ in ran] == ["watch", "entropy", "report", "measure"]
    best = program("measure.md", {})["best"]
    assert len(best) == 3
    assert best["fvu_val"].is_monotonic_increasing
    assert [verb for verb, _, _ in follow("fidelity.md", model, {})] == ["fidelity"]


def test_cells_are_compared_at_one_fvu(stepped: Ran, model: Path):
    """Of two cells, with fewer weights than the page has."""
    small = {"--axes": "--layers 10 20 --positions 4 --axes", "=3e-4,1e-3,3e-3": "=3e-4,3e-3"}
    assert [verb for verb, _, _ in follow("bits.md", model, small)] == ["sweep", "report"]
    assert set(results("runs/curves")["training.entropy_weight"]) == {3e-4, 3e-3}
    assert Path("runs/curves-report/matched.csv").is_file()


def test_activations_are_compressed(stepped: Ran, model: Path):
    table = results("runs/sweep")
    first, second = (table[table["layer"] == layer]["run"].iloc[0] for layer in (10, 20))
    x = ActivationStore.open("runs/store").matrix(layer=10, position=4)
    np.save("a.npy", x[:100])
    save_file({"x": np.asarray(x[100:200])}, "b.safetensors")
    ran = follow("compress.md", model, {"RUN1": first, "RUN2": second})
    assert [verb for verb, _, _ in ran] == ["compress", "compress", "decompress"]
    assert len([*Path("runs/restored").rglob("*.npy")]) == 4, "of two cells and two files"
    autoencoder = load_autoencoder(f"runs/sweep/{first}")
    found = program("compress.md", {}, autoencoder=autoencoder, x=x)
    assert torch.equal(torch.as_tensor(found["code"]), torch.as_tensor(autoencoder.encode(x)))
    assert found["x_hat"].shape == (100, 16)


def test_a_model_is_steered(stepped: Ran, model: Path):
    table = results("runs/sweep")
    autoencoder = load_autoencoder(f"runs/sweep/{table[table['layer'] == 10]['run'].iloc[0]}")
    x = ActivationStore.open("runs/store").matrix(layer=10, position=4)
    names = {"autoencoder": autoencoder, "good": x[:50], "bad": x[50:100], "token_ids": [[1, 2, 3], [4, 5]]}
    found = program("steer.md", {"smollm2-135m": str(model), "256": "16"}, **names)
    assert len(found["texts"]) == 2


def test_a_training_that_presses_on_nothing_is_warned_of(bae_ray, tiny_store: Path, tmp_path: Path):
    cell = ["--store", tiny_store, "--layer", 1, "--position", 2, "--out", tmp_path]
    code, out, err = bae_ray("train", *cell, "--training.epochs", 2)
    assert code == 0
    assert "bits of at most 64" in out
    assert "most latents are fair coins" in err
    assert "--training.entropy-weight" in err
    code, _, err = bae_ray("train", *cell, "--training.epochs", 2, "--autoencoder.architecture", "relu")
    assert "fair coins" not in err
