"""CE recovered of exported dictionaries, as the real sae-lens evaluates them in its own environment."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.layout import Cell
from bae_ray.autoencoders import JumpReLUConfig, ReLUConfig, load_autoencoder
from bae_ray.autoencoders.interop import export_saelens
from bae_ray.fidelity.config import FidelityConfig
from bae_ray.fidelity.measure_fidelity import measure_fidelity
from bae_ray.fidelity.subjects import targets_of
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import plan_run
from bae_ray.training.run_execution import execute_run
from benchmarks.peers import environment
from tests.activations.odd_models import save_random
from tests.conftest import WORDS
from tests.interventions.test_editable_model import GPT2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

T = 8


@pytest.mark.usefixtures("ray_cluster")
def test_sae_lens_measures_the_same(tiny_model: Path, tiny_corpus: Path, tmp_path: Path):
    model = save_random(tiny_model, tmp_path / "model", "gpt2", **GPT2)
    words = [[WORDS[(i * 7 + k * k) % 60] for k in range(T)] for i in range(24)]
    others = tmp_path / "others.txt"
    others.write_text("".join(" ".join(text) + "\n" for text in words))
    shared = {"model": str(model), "layers": (1,), "gpus_per_worker": 0}
    store = extract(ExtractConfig(corpus=str(tiny_corpus), positions=("all",), **shared), tmp_path / "store", "inline")
    held_out = extract(ExtractConfig(corpus=str(others), positions=(0,), **shared), tmp_path / "other", "inline")
    for autoencoder in (ReLUConfig(expansion=2), JumpReLUConfig(expansion=2)):
        run = plan_run(store, Cell(1, "residual", "all"), autoencoder, TrainingConfig(epochs=5, batch_size=64, lr=3e-3))
        execute_run(run, store, tmp_path / "runs")
        trained = load_autoencoder(tmp_path / "runs" / run.id)
        export_saelens(trained, tmp_path / "ours" / run.id, "gpt2", "blocks.1.hook_resid_pre")
    config = FidelityConfig(model=str(model), gpus_per_worker=0)
    targets = targets_of([tmp_path / "runs"], store)
    found = measure_fidelity(config, store, targets, tmp_path / "runs", held_out, "inline")

    vocabulary = {word: i + 1 for i, word in enumerate(WORDS)}
    tokens = torch.tensor([[vocabulary[word] for word in text] for text in words])
    save_file({"tokens": tokens}, tmp_path / "tokens.safetensors")
    python = environment("sae-lens", ["sae-lens==6.54.12"])
    script = Path(__file__).with_name("saelens_fidelity_peer.py")
    done = subprocess.run([python, script, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads((tmp_path / "measured.json").read_text())
    assert set(theirs) == set(found.records)
    for name, measured in theirs.items():
        columns = found.records[name].columns.model_dump()
        assert columns["fidelity_tokens"] == len(words) * (T - 1)
        for column, value in measured.items():
            assert columns[column] == pytest.approx(value, rel=1e-4, abs=1e-4), column
        recovered = (measured["ce_zero"] - measured["ce_spliced"]) / (measured["ce_zero"] - measured["ce_clean"])
        assert columns["ce_recovered"] == pytest.approx(recovered, abs=1e-3)
        assert columns["kl"] > 0.001, "a splice that changes nothing would show nothing"
