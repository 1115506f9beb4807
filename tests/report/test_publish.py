"""`bae-ray publish`: a run in a folder and on a small real hub, and what its card says and does not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bae_ray import load_autoencoder
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.layout import Cell
from bae_ray.autoencoders import BAEConfig
from bae_ray.serving.registry.entry import read_entry
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import plan_run
from bae_ray.training.run_execution import execute_run
from tests.hub_server import COMMIT, serving
from tests.serving.support import write_cards

FIDELITY = {
    **dict.fromkeys(
        ("ce_clean", "ce_spliced", "ce_mean", "ce_zero", "kl", "kl_low", "kl_high", "jsd", "jsd_low", "jsd_high",
         "top1_agreement", "top1_agreement_low", "top1_agreement_high"), 0.25),
    "fidelity_texts": 31, "fidelity_tokens": 900,
    "ce_recovered": 0.8123, "ce_recovered_low": 0.7111, "ce_recovered_high": 0.9111,
    "ce_recovered_mean": None, "ce_recovered_mean_low": None, "ce_recovered_mean_high": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(ray_cluster: None, tiny_model: Path, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that lies as those of a job do: OUT/sweep/ID, with OUT/store."""
    out = tmp_path_factory.mktemp("publish")
    config = ExtractConfig(
        model=str(tiny_model), corpus=str(tiny_corpus), layers=(1,), positions=(2,), gpus_per_worker=0
    )
    store = extract(config, out / "store", "inline")
    training = TrainingConfig(epochs=12, batch_size=64, lr=1e-3)
    planned = plan_run(store, Cell(1, "residual", 2), BAEConfig(expansion=2), training)
    execute_run(planned, store, out / "sweep")
    return out / "sweep" / planned.id


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(trained.parents[1], tmp_path / "out")
    return tmp_path / "out" / "sweep" / trained.name


def card_of(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The front matter of a card, and its tables' rows."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.count("|") == 3]
    return yaml.safe_load(front), dict(row for row in rows if len(row) == 2)


def test_a_folder_is_loaded_and_served_and_its_card_says_what_was_measured(bae_ray, run: Path, tmp_path: Path):
    result = json.loads((run / "result.json").read_text())
    to = tmp_path / "registry" / "mine"
    code, out, err = bae_ray("publish", run, "--to", to, "--licence", "apache-2.0", "--base-model", "someone/tiny")
    assert (code, out, err) == (0, f"{to}\n", "")
    x = torch.randn(5, result["d_in"])
    assert torch.equal(load_autoencoder(to).encode(x), load_autoencoder(run).encode(x))
    entry = read_entry("mine", to, "1")
    assert entry.origin
    assert (entry.reason, entry.has_tree, entry.origin.model, entry.origin.layer) == ("", True, "someone/tiny", 1)
    front, rows = card_of(to)
    assert front == {
        "license": "apache-2.0", "base_model": "someone/tiny", "library_name": "bae_ray",
        "tags": ["autoencoder", "interpretability", "sparse-autoencoder", "bae"],
    }  # fmt: skip
    told = {what.split(":")[0]: value for what, value in rows.items()}
    assert told["Bits, as the paper counts them"].startswith(f"{result['entropy_bits']:.1f} [")
    assert told["Tree bits"].startswith(f"{result['tree_bits']:.1f} [")
    assert told["Held-out bits"].startswith(f"{result['heldout_bits']:.1f} [")
    assert rows[f"FVU on {result['n_train']} training samples"] == f"{result['fvu_train']:.3f}"
    assert rows[f"FVU on {result['n_val']} held-out samples"] == f"{result['fvu_val']:.3f}"
    assert rows["Corpus"] == "`texts.jsonl (texts)`"
    assert int(rows["Texts"]) == result["n_train"] + result["n_val"]
    assert rows["Layer, site, position"] == "1, residual, 2"
    assert (rows["Seed"], rows["Run"]) == ("0", f"`{run.name}`")
    assert rows["Converged"].startswith({True: "yes", False: "no", None: "not measured"}[result["converged"]])
    assert rows["Cross-entropy recovered"].startswith("not measured")
    text = (to / "README.md").read_text()
    assert "the judge's trust: not measured" in text
    assert 'load_autoencoder("mine")' in text
    assert str(tmp_path) not in text, "paths of this machine"
    before = (to / "README.md").read_bytes()
    assert bae_ray("publish", run, "--to", to, "--licence", "apache-2.0", "--base-model", "someone/tiny")[0] == 0
    assert (to / "README.md").read_bytes() == before


def test_fidelity_and_the_judges_trust_stand_beside_their_chance_levels(bae_ray, run: Path, tmp_path: Path):
    (run / "fidelity.json").write_text(json.dumps({"request": {}, "columns": FIDELITY, "by_position": []}))
    write_cards(run, {})
    about = {"model": "a `judge` | <script>", "pairs": 230, "balanced_accuracy": 0.617, "accuracy_low": 0.55,
             "accuracy_high": 0.68, "warnings": ["it says Yes to all"]}  # fmt: skip
    write_cards(run, {}, judge=about)
    assert bae_ray("publish", run, "--to", tmp_path / "p")[0] == 0
    front, rows = card_of(tmp_path / "p")
    assert rows["Cross-entropy recovered against zeros, 31 held-out texts"] == "0.812 [0.711, 0.911]"
    assert rows["Cross-entropy recovered against the mean, 31 held-out texts"] == "not measured"
    assert rows["Its balanced accuracy on 230 labelled pairs; .5 is chance"] == "0.62 [0.55, 0.68]"
    assert rows["Mean score"] == rows["Its chance level: the same names on another feature's tokens"] == "0.500"
    assert rows["Judge"] == "`a 'judge' / <script>`"
    assert "Of this judge: `it says Yes to all`." in (tmp_path / "p" / "README.md").read_text()
    assert "license" not in front
    assert "base_model" not in front, "a folder of this machine is no id"
    assert rows["Licence of the weights"] == "not stated"
    assert {"cards.parquet", "fidelity.json"} <= {file.name for file in (tmp_path / "p").iterdir()}
    (run / "cards.parquet").unlink()
    assert bae_ray("publish", run, "--to", tmp_path / "p")[0] == 0
    assert not (tmp_path / "p" / "cards.parquet").exists(), "published before, and not the run's any more"


def test_a_corpus_that_is_not_known_is_not_made_up(bae_ray, run: Path, tmp_path: Path, tiny_store: Path):
    shutil.rmtree(run.parents[1] / "store")
    assert bae_ray("publish", run, "--to", tmp_path / "p")[0] == 0
    assert card_of(tmp_path / "p")[1]["Corpus"] == "not known"
    code, _, err = bae_ray("publish", run, "--to", tmp_path / "q", "--store", tiny_store)
    assert code == 2
    assert "trained on other activations" in err


def test_what_publish_refuses(bae_ray, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text("{}")
    for arguments, says in (
        ([run, "--to", "full"], "--to full holds other files, which stay as they are: give a folder that is new"),
        (
            [run, "--to", "full/thesis"],
            "may be a folder here or an id of the Hugging Face hub: give ./full/thesis or hf",
        ),
        ([run, "--to", "./full/thesis.tex"], "is a file"),
        ([run, "--to", "s3://bucket/x"], "is a URI; expected a folder of this machine, or OWNER/NAME on the hub"),
        ([run, "--to", "hf://x"], "expected hf://OWNER/NAME"),
        ([run, "--to", "./new", "--private", "True"], "are for the hub, and --to ./new is a folder"),
        ([run, "--to", "./new", "--licence", "My own"], "licence"),
        (["unfinished", "--to", "./new"], "is no finished run: config.json is missing. The command that trained it"),
        (["nowhere", "--to", "./new"], "is no finished run: config.json is missing. Give the folder of one, RUNS/ID"),
    ):
        code, _, err = bae_ray("publish", *arguments)
        assert code == 2, arguments
        assert says in err, (arguments, err)
    assert not (tmp_path / "new").exists()
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def on_hub(run: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`bae-ray publish` in a process of its own, for a hub that the environment names."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "bae_ray", "publish", str(run), "--to", "someone/bae", *options]
    return subprocess.run(
        command, env=kept | quiet | environment, cwd=run.parent, capture_output=True, text=True, check=False
    )


def test_the_hub_gets_the_run_and_its_card(run: Path, tmp_path: Path):
    with serving() as hub:
        there = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home")}
        without = on_hub(run, **there)
        done = on_hub(run, "--private", "True", "--licence", "mit", HF_TOKEN="hf_ours", **there)
    assert without.returncode == 2
    assert "there is no token of the Hugging Face hub" in without.stderr
    assert "Set HF_TOKEN" in without.stderr
    assert done.returncode == 0, done.stderr
    assert COMMIT in done.stdout
    assert hub.tokens == {"Bearer hf_ours"}
    files = hub.repositories["someone/bae"]
    names = {"config.json", "model.safetensors", "run.json", "result.json", "tree.safetensors"}
    assert {name: files[name] for name in names} == {name: (run / name).read_bytes() for name in names}
    assert files.keys() == names | {"README.md"}
    card = files["README.md"].decode()
    assert card.startswith("---\nlicense: mit\nlibrary_name: bae_ray\n")
    assert 'load_autoencoder("someone/bae")' in card
    lost = on_hub(run, HF_TOKEN="hf_ours", **there)
    assert lost.returncode == 2
    assert "cannot be reached for 'someone/bae'" in lost.stderr
    assert "Traceback" not in lost.stderr
