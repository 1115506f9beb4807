"""Steering on a tiny model: labels of several tokens, and a job that goes on where it was stopped."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaForCausalLM

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import load_autoencoder
from bae_ray.cli.job import run_job
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.steering.calibration import split
from bae_ray.experiments.steering.experiment import EXPERIMENT
from tests.chaos import Receipts, Watch, finish, log_of

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1)
TEST, CALIBRATION = 20, 16


@pytest.fixture(scope="module")
def labelled(tiny_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny texts' first words, with labels 0 and 1; some texts are there twice."""
    file = tmp_path_factory.mktemp("labelled") / "texts.jsonl"
    lines = [json.dumps({"text": " ".join(text.split()[:4]), "label": i % 2}) for i, text in enumerate(tiny_texts)]
    file.write_text("\n".join([*lines, *lines[:20]]) + "\n")
    return file


def options(out: Path, model: Path, labelled: Path, corpus: Path) -> list[object]:
    return [
        "--out", out, "--extract.model", model, "--extract.corpus", corpus, "--extract.layers", 1,
        "--extract.max-texts", 60, "--extract.tokens.max-vectors", 400, "--extract.gpus-per-worker", 0,
        "--extract.workers", 1, "--sweep.autoencoder.expansion", 2, "--sweep.autoencoder.k", 4,
        "--sweep.training.epochs", 2, "--sweep.training.batch-size", 64, "--sweep.gpus-per-trial", 0,
        "--prompts.corpus", labelled, "--input.k", 3, "--input.label-words", "w3 w5", "w14",
        "--input.text-prefix", "w50 ", "--input.label-prefix", "w51 ", "--calibration", CALIBRATION, "--test", TEST,
        "--neutral.corpus", corpus, "--neutral.max-texts", 8, "--neutral-tokens", 6, "--layer", 1, "--layers", 3,
        "--strengths", 0, 1, 2, "--kept", 4, "--kept-compared", 2, "None", "--seeds", *SEEDS,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steering")


def test_a_tiny_run(
    run: Callable[..., str], tiny_causal_model: Path, labelled: Path, tiny_corpus: Path, out: Path
) -> None:
    given = options(out, tiny_causal_model, labelled, tiny_corpus)
    printed = run(EXPERIMENT, *given)
    table = pd.read_csv(out / "steering.csv")
    methods = {"bae", "relu", "topk", "gated", "none", "centroids", "pca", "random direction", "random features"}
    assert set(table["method"]) == methods
    for method in methods - {"none"}:
        for seed in SEEDS:
            rows = table[(table["method"] == method) & (table["seed"] == seed) & (table["layer"] == 1)]
            assert {1.0, 2.0} <= set(rows["strength"])
    for method in ("bae", "relu", "topk", "gated"):
        rows = table[(table["method"] == method) & (table["seed"] == 0) & (table["strength"] == 1) & table["rescaled"]]
        found = set(zip(rows["kept"].astype(str), rows["weights"], strict=True))
        assert found == {(kept, weights) for kept in ("2", "4", "all") for weights in ("values", "signs")}
    assert set(table.loc[table["layer"] == 3, "method"]) == {"centroids", "pca", "random direction"}
    assert not table.drop(columns="run").isna().any().any()
    lengths = table[table["rescaled"] & (table["method"] != "none")]
    np.testing.assert_allclose(lengths["norm"], lengths["distance"], rtol=1e-6)
    own = table[~table["rescaled"] & (table["seed"] == 0) & (table["strength"] == 1)].set_index("method")["norm"]
    assert own["random direction"] == pytest.approx(own["bae"])
    assert own["random features"] == pytest.approx(own["bae"])
    assert set(table["chance"]) == {0.5}
    for picture in ("steering.png", "steering_features.png", "steering_layers.png"):
        assert (out / picture).stat().st_size > 10_000
    page = (out / "steering.html").read_text()
    for text in (printed, page):
        assert "Controls, vectors of one length" in text
        assert "Chance among the labels 0.500" in text

    check_seed(table, out, tiny_causal_model, labelled)

    before = {file: file.stat().st_mtime_ns for file in [*out.rglob("steered/*.json"), *out.rglob("receipts/*")]}
    victims = sorted(out.glob("steered/*.json"))[:2]
    content = [victim.read_text() for victim in victims]
    for victim in victims:
        victim.unlink()
    run(EXPERIMENT, *given)
    assert [victim.read_text() for victim in victims] == content, "the same numbers again"
    after = {file: file.stat().st_mtime_ns for file in before if file not in victims}
    assert after == {file: when for file, when in before.items() if file not in victims}
    pd.testing.assert_frame_equal(pd.read_csv(out / "steering.csv"), table)


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_with_the_same_numbers(
    tiny_causal_model: Path, labelled: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    """kill -9 during extraction, training and steering; the same command goes on, and nothing is computed twice."""
    watched = {"**/receipts/*.json": 2, "sweep/*/result.json": 2, "steered/*.json": 3}
    environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}

    def job(out: Path) -> subprocess.Popen[bytes]:
        given = map(str, options(out, tiny_causal_model, labelled, tiny_corpus))
        with open(log_of(out), "ab") as log:
            command = [sys.executable, str(ROOT / "jobs" / "steering.py"), *given]
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    finish(job(quiet), quiet)
    watches = {pattern: Watch(killed, pattern) for pattern in watched}
    kept: dict[str, Receipts] = {}
    for pattern, count in watched.items():
        driver = job(killed)
        watches[pattern].wait_for(count, driver)
        driver.kill()
        driver.wait()
        kept |= {name: watch.look() for name, watch in watches.items()}
    assert len(kept["steered/*.json"]) < len([*quiet.glob("steered/*.json")]), "too late to kill it"
    finish(job(killed), killed)
    for pattern, watch in watches.items():
        receipts = watch.look()
        assert receipts.keys() == {str(file.relative_to(quiet)) for file in quiet.glob(pattern)}
        assert {name: receipts[name] for name in kept[pattern]} == kept[pattern], "finished work was done again"
        assert len(watch.written) == len(receipts), "something was written twice"
    whole, ended = (pd.read_csv(folder / "steering.csv") for folder in (quiet, killed))
    pd.testing.assert_frame_equal(whole, ended, check_exact=True)


def check_seed(table: pd.DataFrame, out: Path, model: Path, labelled: Path) -> None:
    """A seed's prompts share nothing with its tests; one row is what a plain loop over transformers finds."""
    examples = [json.loads(line) for line in labelled.read_text().splitlines()]
    texts = [example["text"] for example in examples]
    for seed in SEEDS:
        chosen = split(texts, TEST, CALIBRATION, 3, seed)
        folder = out / "calibration" / f"seed{seed}"
        pool = [json.loads(line)["example"] for line in (folder / "pool.jsonl").read_text().splitlines()]
        assert pool == chosen.pool
        assert not set(pool) & set(chosen.test)
        assert not {texts[i] for i in pool} & {texts[i] for i in chosen.test}
        queries = []
        for k in (3, 0):
            rows = ActivationStore.open(folder / f"shots{k}").texts
            assert len(rows) == CALIBRATION
            for query, shown in zip(rows["query"], rows["demonstrations"], strict=True):
                assert len(shown) == k
                assert query not in shown
                assert not {pool[i] for i in (query, *shown)} & set(chosen.test)
            queries.append(rows["query"].tolist())
        assert queries[0] == queries[1]

    chosen, folder = split(texts, TEST, CALIBRATION, 3, 0), out / "calibration" / "seed0"
    good, bad = (ActivationStore.open(folder / f"shots{k}").matrix(1, "last").double() for k in (3, 0))
    row = table[(table["method"] == "bae") & (table["seed"] == 0) & (table["strength"] == 2) & ~table["rescaled"]].iloc[
        0
    ]
    autoencoder = load_autoencoder(out / "sweep" / row["run"])
    with torch.no_grad():
        change = (autoencoder.encode(good.float()).mean(0) - autoencoder.encode(bad.float()).mean(0)).double()
    change[torch.from_numpy(np.argsort(-change.abs().numpy(), kind="stable"))[4:]] = 0
    vector = (change @ autoencoder.W_dec.detach().double() * float(autoencoder.scale)).float()
    assert row["norm"] == pytest.approx(float(vector.norm()), rel=1e-5)

    causal = LlamaForCausalLM.from_pretrained(model).eval()
    block = causal.model.layers[1]

    def log_probability(ids: list[int], label: list[int]) -> torch.Tensor:
        def add(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden = args[0].clone()
            hidden[0, len(ids) - 1 :] += 2 * vector
            return (hidden, *args[1:])

        handle = block.register_forward_pre_hook(add)
        with torch.no_grad():
            after = causal(torch.tensor([[*ids, *label]])).logits[0].log_softmax(1)
        handle.remove()
        return after[len(ids) - 1 :]

    def tokens(text: str) -> list[int]:
        return [int(word[1:]) + 1 for word in text.split()]  # of the tiny tokenizer

    odds, among, whole = [], [], []
    for i in chosen.test:
        ids = tokens(f"w50 {texts[i]} w51")
        sums = []
        for label in (tokens("w3 w5"), tokens("w14")):
            after = log_probability(ids, label)
            sums.append(sum(float(after[place, token]) for place, token in enumerate(label)))
        right = examples[i]["label"]
        odds.append(sums[right] - sums[1 - right])
        among.append(odds[-1] > 0)
        whole.append(int(after[0].argmax()) == tokens(("w3", "w14")[right])[0])
    assert row["log_odds"] == pytest.approx(np.mean(odds), abs=1e-3)
    assert row["among"] == pytest.approx(np.mean(among))
    assert row["whole"] == pytest.approx(np.mean(whole))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--layer", 2], r"layer is 2, which is not among extract\.layers \(1,\)"),
        (["--layers", 9], "layer 9 is out of range: the model has layers 0"),
        (["--extract.sites", "mlp_in", "residual"], "this job steers at one site"),
        (["--extract.layers", 1, 3, "--extract.sites", "mlp_out", "--layer", 3], "layer 3 has no mlp_out"),
        (["--input.demonstrations", "fixed"], "this job takes sampled ones"),
        (["--input.k", 0], "this job takes sampled ones, 1 at least"),
        (["--input.label-words", "w3 w5", "w3"], "the labels 'w3 w5' and 'w3' begin with the same token"),
        (["--input.label-column", "answer"], "answer"),
        (["--kept", 33], "33 latents are to be kept, but bae has 32"),
        (["--calibration", 500], "expected 20 to test on"),
        (["--sweep.axes", "autoencoder.architecture=bae,relu", "training.lr=1e-3,1e-2"], "several settings of bae"),
        (["--sweep.axes", "autoencoder.architecture=bae,transcoder"], "reads one cell and reconstructs another"),
        (["--sweep.seeds", 3], "leave them out"),
    ],
)
def test_bad_input_is_named_before_anything_is_computed(
    ray_cluster: None, tiny_causal_model: Path, labelled: Path, tiny_corpus: Path, tmp_path: Path,
    changes: list[object], message: str,
) -> None:  # fmt: skip
    given = options(tmp_path / "out", tiny_causal_model, labelled, tiny_corpus)
    for option in [one for one in changes if str(one).startswith("--")]:
        if option in given:
            start = given.index(option)
            end = next((i for i in range(start + 1, len(given)) if str(given[i]).startswith("--")), len(given))
            del given[start:end]
    with pytest.raises(InvalidInputError, match=message):
        run_job(EXPERIMENT, [*map(str, given), *map(str, changes)])
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_too_long_is_named(
    ray_cluster: None, tiny_causal_model: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    """The tiny model takes 64 tokens."""
    file = tmp_path / "long.jsonl"
    lines = [json.dumps({"text": f"w{i % 50} w{i // 50} " + "w1 " * (i // 2 + 3), "label": i % 2}) for i in range(120)]
    file.write_text("\n".join(lines) + "\n")
    given = options(tmp_path / "out", tiny_causal_model, file, tiny_corpus)
    given[given.index("--test") + 1] = 80
    with pytest.raises(InvalidInputError, match=r"the prompt of example \d+ has 6\d tokens with its label; the model"):
        run_job(EXPERIMENT, [*map(str, given)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strengths": (0.0, float("nan"), 1.0)}, "strengths"),
        ({"compared_at": 0.7}, "compared_at is 0.7: expected one of strengths"),
        ({"compared_at": 0.0}, "compared_at is 0.0"),
        ({"kept": 0}, "kept"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "each named once"),
        ({"layers": (-1,)}, "layers"),
    ],
)
def test_values_that_a_config_never_has(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EXPERIMENT.presets["laptop"].changed(**fields)


def test_tests_and_calibration_are_disjoint_whatever_is_there_twice() -> None:
    texts = [f"text {i % 37}" + " " * (i % 3) for i in range(111)]
    drawn = [split(texts, 12, 30, 4, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for test, pool in drawn:
        assert len({texts[i].strip() for i in test}) == len(test) == 12
        assert not {texts[i].strip() for i in test} & {texts[i].strip() for i in pool}
        assert len(pool) == (37 - 12) * 3
    with pytest.raises(InvalidInputError, match="111 examples, 37 of them different: expected 12 to test on"):
        split(texts, 12, 76, 4, 0)
