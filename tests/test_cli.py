import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bae_ray import cli, load_autoencoder, results
from bae_ray.autoencoders import TopKConfig
from bae_ray.cli.exit_codes import run_safely
from bae_ray.errors import CompressionError, ConversionError, ExtractionError, InvalidInputError, TrainingError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_help_lists_the_verbs(bae_ray):
    code, out, _ = bae_ray("--help")
    assert code == 0
    for name, verb in cli.VERBS.items():
        assert f"\n  {name:12} {verb.summary}\n" in out


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_each_verb_describes_every_option(bae_ray, verb: str):
    code, out, _ = bae_ray(*verb.split(), "--help")
    assert code == 0
    command, _ = cli.VERBS[verb].load()
    assert " ".join(out.split()).startswith(f"usage: bae-ray {verb} ")
    assert " ".join((command.__doc__ or "?").split()) in " ".join(out.split())
    assert "--config FILE takes" in out
    for name, field in command.flags().model_fields.items():
        assert field.description, f"{name} has no description"
        assert f"--{name.replace('_', '-')}" in out


def test_from_texts_to_report(
    bae_ray, tiny_model: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, runs, out = tmp_path / "store", tmp_path / "runs", tmp_path / "out"
    code, printed, err = bae_ray(
        "extract", "--model", tiny_model, "--corpus", tiny_corpus, "--layers", 1, 3, "--positions", 2, 7,
        "--gpus-per-worker", 0, "--out", store,
    )  # fmt: skip
    assert code == 0, err
    assert (
        "Plan: 4 cells x 16 numbers in float32 for each vector.\nPlan: at most 2048 vectors for each cell, 0.00" in err
    )
    assert f"4 cells of {len(pd.read_parquet(store / 'rows'))} x 16" in printed

    monkeypatch.chdir(tmp_path)
    store, runs = Path("store"), Path("runs")  # relative paths hold on the workers too
    settings = ["--training.epochs", "2", "--training.batch-size", "32"]
    code, printed, _ = bae_ray("train", "--store", store, "--out", runs, "--layer", 1, "--position", 2, *settings)
    assert code == 0
    assert " bits of at most 64, FVU " in printed
    code, printed, _ = bae_ray(
        "sweep", "--store", store, "--out", runs, "--gpus-per-trial", 0, "--axes", "training.seed=0,1", *settings
    )
    assert code == 0
    assert "7 runs trained, 0 failed" in printed, "the run of `train` is one of the grid's eight"

    code, printed, _ = bae_ray("entropy", "--runs", runs, "--out", tmp_path / "e.csv")
    assert code == 0
    assert len(pd.read_csv(tmp_path / "e.csv")) == 8
    assert "Entropy in bits" in printed
    code, printed, _ = bae_ray("report", "--runs", runs, "--out", out)
    assert code == 0
    for name in ("entropy.csv", "entropy.png", "report.html"):
        assert str(out / name) in printed
        assert (out / name).stat().st_size > 100

    code, _, err = bae_ray("extract", "--config", store / "extract.json")
    assert code == 0
    assert "is complete" in err
    code, _, err = bae_ray("extract", "--config", store / "extract.json", "--positions", 2)
    assert code == cli.EXIT_INVALID
    assert "holds the store of a different run" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ExtractionError("1 of 2 shards were not written"), 1),
        (TrainingError("all samples are identical"), 1),
        (ConversionError("1 of 2 parts were not written"), 1),
        (CompressionError("no container"), 2),
        (InvalidInputError("no such layer"), 2),
    ],
)
def test_units_that_failed_and_invalid_input_have_exit_codes_of_their_own(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
):
    def fail() -> int:
        raise error

    assert run_safely(fail) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_sweep_with_a_failing_cell_says_so(bae_ray, tiny_store: Path, tmp_path: Path):
    code, printed, err = bae_ray(
        "sweep", "--store", tiny_store, "--out", tmp_path, "--layers", 1, "--positions", 2, "--gpus-per-trial", 0,
        "--training.epochs", 2, "--training.batch-size", 32, "--axes", "training.lr=1e-3,1e30",
    )  # fmt: skip
    assert code == cli.EXIT_SOME_FAILED
    assert "1 runs trained, 1 failed" in printed
    assert "the loss became" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no-such-model"], "model 'no-such-model' is not"),
        (["--corpus", "no-such-corpus"], "corpus 'no-such-corpus' is none of the bundled ones"),
        (["--layers", "0", "9"], "layer 9 is out of range: the model has layers 0 (embeddings) to 3"),
        (["--positions", "99"], "position 99 is out of range: expected 0 to 63"),
        (["--positions", "60"], "the longest of 200 texts has 24"),
        (["--corpus", "{tmp}/damaged.parquet"], "damaged.parquet cannot be read as .parquet"),
        (["--max-texts", "100000000000000"], "or use fewer texts, layers or positions"),
        (["--max-texts", "1"], "Input should be greater than or equal to 2"),
        (["--batch-size", "many"], "invalid literal for int() with base 10: 'many'"),
        (["--cpus-per-worker", "99"], "a worker needs 99 CPUs and 0 GPUs, but this machine has 4 and 2"),
        (["--out", "{tmp}/damaged.parquet"], "Not a directory"),
    ],
)
def test_bad_input_of_extract(
    bae_ray, tiny_model, tiny_corpus, tmp_path: Path, arguments: list[str], message: str, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else asked five times where it is not
    (tmp_path / "damaged.parquet").write_text("not Parquet")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    defaults = {"--model": tiny_model, "--corpus": tiny_corpus, "--out": tmp_path / "store", "--gpus-per-worker": 0}
    rest = [part for flag, value in defaults.items() if flag not in given for part in (flag, value)]
    code, out, err = bae_ray("extract", *given, *rest)
    assert code == cli.EXIT_INVALID
    assert message in " ".join((out + err).split())
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_corrupted_shard_is_named_on_read(bae_ray, tiny_store: Path, tmp_path: Path):
    store = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    shard = next((store / "cells" / "residual" / "layer-01" / "position-00002").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    code, _, err = bae_ray("train", "--store", store, "--out", tmp_path / "runs", "--layer", 1, "--position", 2)
    assert code == cli.EXIT_INVALID
    assert "these files are damaged" in err
    assert shard.name in err


def test_any_architecture_by_name(bae_ray, tiny_store: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    settings = ["--store", tiny_store, "--out", runs, "--training.epochs", 2]
    cell = ["--layer", 1, "--position", 2]
    code, printed, _ = bae_ray("train", *settings, *cell, "--autoencoder.architecture", "topk", "--autoencoder.k", 3)
    assert code == 0
    trained = load_autoencoder(printed.split(": ")[-1].strip())
    assert trained.config == TopKConfig(d_in=16, k=3)
    onwards = ["--autoencoder.target-site", "residual", "--autoencoder.target-layer-offset", 2]
    code, printed, _ = bae_ray("train", *settings, *cell, "--autoencoder.architecture=transcoder", *onwards)
    assert code == 0
    axes = ["--layers", 1, 2, "--axes", "autoencoder.architecture=bae,relu"]
    code, printed, err = bae_ray("sweep", *settings, "--gpus-per-trial", 0, *axes)
    assert code == 0, err
    assert "8 runs trained, 0 failed" in printed
    assert set(results(runs)["autoencoder.architecture"]) == {"bae", "relu", "topk", "transcoder"}
    code, _, err = bae_ray("report", "--runs", runs, "--out", tmp_path / "out")
    assert code == 0, err
    code, printed, _ = bae_ray("train", "--autoencoder.architecture", "topk", "--help")
    assert "--autoencoder.k INT" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--autoencoder.architecture", "vae"], "architecture 'vae' is not known; expected one of bae, relu, topk"),
        (["--autoencoder.architecture"], "--autoencoder.architecture needs a value"),
        (["--autoencoder.architecture", "topk", "--autoencoder.k", "65"], "k is 65 but there are only 64 latents"),
        (["--autoencoder.bits-per-feature", "3"], "d_latent is 64, which 3 bits per feature do not divide"),
        (["--autoencoder.k", "3"], "autoencoder.k"),
        (
            ["--autoencoder.architecture", "transcoder"],
            "is to reconstruct the cell (layer 1, mlp_out, position 2), which",
        ),
    ],
)
def test_bad_architectures(bae_ray, tiny_store: Path, tmp_path: Path, arguments: list[str], message: str):
    cell = ["--store", tiny_store, "--out", tmp_path, "--layer", 1, "--position", 2]
    code, out, err = bae_ray("train", *cell, *arguments)
    assert code == cli.EXIT_INVALID
    assert message in " ".join((out + err).split())


def test_unknown_verb_lists_the_verbs(bae_ray):
    code, _, err = bae_ray("exract")
    assert code == cli.EXIT_INVALID
    assert "'exract' is not a verb; expected one of extract, store info," in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read: while parsing"),
        (json.dumps({"out": "x", "colour": 1}), "colour is 1: Extra inputs"),
    ],
)
def test_bad_config_file(bae_ray, tmp_path: Path, content: str | None, message: str):
    file = tmp_path / "c.json"
    if content is not None:
        file.write_text(content)
    code, _, err = bae_ray("extract", "--config", file)
    assert code == cli.EXIT_INVALID
    assert message in err


def test_the_pages_name_every_verb_and_no_other():
    root = Path(__file__).parents[1]
    pages = " ".join(page.read_text(encoding="utf-8") for page in (root / "README.md", *(root / "docs").glob("*.md")))
    words = [tuple(found) for found in re.findall(r"\bbae-ray +([a-z]+) *([a-z]*)", pages)]
    named = {next((verb for verb in (" ".join(two), two[0]) if verb in cli.VERBS), two[0]) for two in words}
    assert named == set(cli.VERBS)
