"""The verb `bae-ray fidelity` as users call it: on a sweep, with real Ray, and killed in the middle."""

import json
import os
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.fidelity.measure_fidelity import FOLDER
from bae_ray.training.run_fidelity import FIDELITY_FILE, RunFidelity
from tests.chaos import Watch, finish, start
from tests.conftest import WORDS

SMALL = ["--gpus-per-trial", 0, "--training.epochs", 2, "--training.batch-size", 32]


@pytest.fixture(scope="module")
def swept(causal_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep by the command: its sweep.json says which store it is of."""
    from unittest import mock

    from bae_ray import cli

    out = tmp_path_factory.mktemp("verb") / "runs"
    arguments = [
        "bae-ray",
        "sweep",
        "--store",
        causal_store,
        "--out",
        out,
        "--layers",
        2,
        "--sites",
        "residual",
        *SMALL,
    ]
    with mock.patch("sys.argv", list(map(str, arguments))), pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    return out


def test_a_sweep_gets_columns_a_table_and_a_picture(bae_ray, swept: Path, tiny_causal_model: Path, tmp_path: Path):
    before = pd.read_parquet(swept / "results.parquet")
    code, printed, err = bae_ray("fidelity", "--runs", swept, "--model", tiny_causal_model, "--max-texts", 20)
    assert code == 0, err
    assert "Reconstructions in place of activations" in printed
    for name in ("fidelity.csv", "fidelity_by_position.csv", "fidelity.png", "fidelity.html"):
        assert str(swept / FOLDER / name) in printed
        assert (swept / FOLDER / name).stat().st_size > 200
    after = pd.read_parquet(swept / "results.parquet")
    assert set(RunFidelity.model_fields) == set(after) - set(before)
    pd.testing.assert_frame_equal(after[before.columns], before)
    table = pd.read_csv(swept / FOLDER / "fidelity.csv")
    assert table["fidelity_texts"].tolist() == [20, 20]
    assert table["autoencoder.architecture"].tolist() == ["bae", "bae"]
    for run, kl in zip(table["run"], table["kl"], strict=True):
        assert json.loads((swept / run / FIDELITY_FILE).read_text())["columns"]["kl"] == kl
    code, printed, err = bae_ray("report", "--runs", swept, "--out", tmp_path / "report")
    assert code == 0, err
    assert (tmp_path / "report" / "fidelity.png").exists()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "CE recovered, against the mean" in page


def test_an_autoencoder_that_is_no_run_gets_the_same_row(
    bae_ray, swept: Path, causal_store: Path, tiny_causal_model: Path, tmp_path: Path
):
    """At one layer and then at another: the numbers are those of the layer."""
    corpus = tmp_path / "others.txt"
    corpus.write_text("w1 w2 w3 w4\nw9 w8 w7 w6 w5\n")
    config = ExtractConfig(
        model=str(tiny_causal_model), corpus=str(corpus), layers=(0,), positions=(0,), gpus_per_worker=0
    )
    extract(config, tmp_path / "others", "inline")
    run = next(iter(swept.glob("*/model.safetensors"))).parent
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "taken").mkdir(exist_ok=True)
        shutil.copy(run / name, tmp_path / "taken")
    found: list[float] = []
    for layer in (2, 0):
        code, printed, err = bae_ray(
            "fidelity", "--autoencoder", tmp_path / "taken", "--layer", layer, "--position", 2, "--store", causal_store,
            "--held-out", tmp_path / "others", "--model", tiny_causal_model,
        )  # fmt: skip
        assert code == 0, err
        table = pd.read_csv(tmp_path / "taken" / FOLDER / "fidelity.csv")
        assert table["layer"].tolist() == [layer]
        assert table["fidelity_texts"].tolist() == [2]
        assert "taken" in table["run"].tolist()
        assert "fidelity.html" in printed
        found.append(float(table["kl"].iloc[0]))
    assert found[0] != found[1]


def test_what_is_missing_or_wrong_is_told(bae_ray, swept: Path, causal_store: Path, tmp_path: Path):
    for arguments, message in (
        ([], "expected either --runs, folders of runs, or --autoencoder"),
        (["--autoencoder", swept, "--store", causal_store], "--layer is missing"),
        (["--runs", tmp_path], "so the runs' activation store is not known. Name it with --store"),
        (["--runs", tmp_path, "--store", causal_store], "holds no finished run"),
    ):
        code, _, err = bae_ray("fidelity", *arguments)
        assert code == 2, arguments
        assert message in err


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_with_the_same_numbers(
    ray_cluster: None, swept: Path, causal_store: Path, tiny_causal_model: Path, tmp_path: Path
):
    """kill -9 once a unit is written: the others are measured then, and no unit twice."""
    runs = {name: shutil.copytree(swept, tmp_path / name) for name in ("quiet", "killed")}
    for folder in runs.values():
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        for record in folder.glob(f"*/{FIDELITY_FILE}"):
            record.unlink()
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    draw, corpus, others = random.Random(1), tmp_path / "others.txt", tmp_path / "others"
    corpus.write_text("".join(" ".join(draw.choices(WORDS, k=12)) + "\n" for _ in range(300)))
    config = ExtractConfig(
        model=str(tiny_causal_model), corpus=str(corpus), layers=(0,), positions=(0,), gpus_per_worker=0
    )
    extract(config, others, "inline")

    def command(folder: Path) -> list[str]:
        named = {"runs": folder, "store": causal_store, "model": tiny_causal_model, "held-out": others}
        named |= {"gpus-per-worker": 0, "workers": 1, "max-texts": 300}
        return ["fidelity", *(str(part) for name, value in named.items() for part in (f"--{name}", value))]

    finish(start(command(runs["quiet"]), runs["quiet"] / FOLDER, environment), runs["quiet"] / FOLDER)
    killed = runs["killed"]
    watch = Watch(killed / FOLDER, "*/*.parquet")
    driver = start(command(killed), killed / FOLDER, environment)
    watch.wait_for(1, driver)
    kept = watch.look()
    driver.kill()
    driver.wait()
    total = len(list((runs["quiet"] / FOLDER).glob("*/*.parquet")))
    assert total > len(kept), "too late to kill it"
    finish(start(command(killed), killed / FOLDER, environment), killed / FOLDER)
    receipts = watch.look()
    assert len(receipts) == total
    assert {name: receipts[name] for name in kept} == kept, "finished work was done again"
    quiet, ended = (pd.read_csv(folder / FOLDER / "fidelity.csv") for folder in runs.values())
    pd.testing.assert_frame_equal(quiet, ended, check_exact=True)
