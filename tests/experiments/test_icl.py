"""In-context learning on a tiny model and corpus."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bae_ray.activations.store import ActivationStore
from bae_ray.cli.job import run_job
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.icl.experiment import EXPERIMENT


@pytest.fixture(scope="module")
def labelled(tiny_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny texts' first words, with labels 0 and 1: prompts that fit the tiny model's context."""
    file = tmp_path_factory.mktemp("labelled") / "texts.jsonl"
    lines = [
        json.dumps({"text": " ".join(text.split()[:4]), "label": i % 2}) + "\n" for i, text in enumerate(tiny_texts)
    ]
    file.write_text("".join(lines))
    return file


def options(out: Path, model: Path, corpus: Path) -> list[object]:
    return [
        "--out", out, "--ks", 0, 3, "--extract.model", model, "--extract.corpus", corpus, "--extract.layers", 1, 3,
        "--extract.max-texts", 80, "--extract.input.label-words", "w3", "w14", "--extract.input.text-prefix", "w50 ",
        "--extract.input.label-prefix", "w51 ", "--extract.gpus-per-worker", 0, "--extract.workers", 1,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for both results, whose stores are made once."""
    return tmp_path_factory.mktemp("icl")


@pytest.mark.slow
def test_accuracy_over_k(run: Callable[..., str], tiny_causal_model: Path, labelled: Path, out: Path):
    given = [*options(out, tiny_causal_model, labelled), "--only", "accuracy"]
    printed = run(EXPERIMENT, *given)
    assert not (out / "entropy.csv").exists()
    table = pd.read_csv(out / "accuracy.csv")
    assert list(zip(table["demonstrations"], table["k"], strict=True)) == [
        ("sampled", 0), ("sampled", 3), ("fixed", 0), ("fixed", 3),
    ]  # fmt: skip
    assert set(table["n"]) == {80}
    assert set(table["chance"]) == {0.5}
    assert not table.isna().any().any()
    for row in table.to_dict("records"):
        store = ActivationStore.open(out / "stores" / "-k".join([row["demonstrations"], str(row["k"])]))
        answers = store.predictions
        assert row["label_accuracy"] == pytest.approx((answers["predicted"] == answers["label"]).mean())
        assert row["label_low"] <= row["label_accuracy"] <= row["label_high"]
        texts = store.texts
        assert set(map(len, texts["demonstrations"])) == {row["k"]}
        leaked = sum(query in shown for query, shown in zip(texts["query"], texts["demonstrations"], strict=True))
        assert row["leaked"] == leaked
        assert row["demonstrations"] == "fixed" or leaked == 0
        assert str(out / "accuracy.png") in printed
        assert "Paper: accuracy rises with k (sampled demonstrations). Here: " in printed
    assert (out / "accuracy.png").stat().st_size > 10_000
    assert "Accuracy of the model" in printed

    sampled = [ActivationStore.open(out / "stores" / f"sampled-k{k}").texts["query"] for k in (0, 3)]
    assert sampled[0].equals(sampled[1]), "the same queries for every k"

    before = {file: file.stat().st_mtime_ns for file in out.glob("stores/*/receipts/*")}
    assert run(EXPERIMENT, *given).count("accuracy.csv") == 1
    assert {file: file.stat().st_mtime_ns for file in out.glob("stores/*/receipts/*")} == before


@pytest.mark.parametrize("ways", [("sampled",), pytest.param(("sampled", "fixed"), marks=pytest.mark.slow)], ids=len)
def test_entropy_by_layer_and_k(
    run: Callable[..., str], tiny_causal_model: Path, labelled: Path, out: Path, ways: tuple[str, ...]
):
    """After the other result, or alone."""
    printed = run(
        EXPERIMENT, *options(out, tiny_causal_model, labelled), "--only", "entropy", "--sweep.layers", 1, 3,
        "--sweep.training.epochs", 5, "--sweep.training.batch-size", 32, "--sweep.seeds", 0, 1,
        "--sweep.gpus-per-trial", 0, "--sweep.packed", 4, "--demonstrations", *ways,
    )  # fmt: skip
    table = pd.read_csv(out / "entropy.csv")
    cells = table[["demonstrations", "k", "layer", "seed"]].apply(tuple, axis=1).tolist()
    assert sorted(cells) == sorted(
        (way, k, layer, seed) for way in ways for k in (0, 3) for layer in (1, 3) for seed in (0, 1)
    )
    for row in table.to_dict("records"):
        folder = out / "sweeps" / f"{row['demonstrations']}-k{row['k']}" / row["run"]
        assert json.loads((folder / "result.json").read_text())["entropy_bits"] == row["entropy_bits"]
        assert (row["n_train"] + row["n_val"], row["position"]) == (80, "last")
    assert (out / "entropy.png").stat().st_size > 10_000
    assert "sampled: Paper: more demonstrations, less entropy. Here:" in printed
    assert f"{ways[-1]}: Paper: a deeper layer contains more information. Here:" in (out / "entropy.html").read_text()


def test_layers_that_are_not_extracted_are_told_before_anything_is_extracted(tmp_path: Path):
    said = r"sweep\.layers has 5, 20, which extract\.layers does not: it has 10, 30"
    with pytest.raises(InvalidInputError, match=said):
        run_job(EXPERIMENT, ["--extract.layers", "10", "30", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_other_inputs_are_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"extract\.input\.kind is texts: this job takes icl"):
        run_job(EXPERIMENT, ["--extract.input.kind", "texts", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())
