"""The shape of features on a tiny model."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bae_ray.activations.config import ExtractConfig, TokensConfig
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import BAEConfig, load_autoencoder
from bae_ray.comsem.config import ExamplesConfig, ScoringConfig
from bae_ray.errors import IncompleteStoreError, InvalidInputError, JudgeError
from bae_ray.experiments.feature_shape.experiment import EXPERIMENT
from bae_ray.experiments.feature_shape.feature_scores import word_scores
from bae_ray.experiments.feature_shape.plane import has_umap
from bae_ray.experiments.feature_shape.score_comparison import features_shown
from bae_ray.experiments.feature_shape.selected_tokens import Selected
from bae_ray.serving.judge.session import JobJudgeConfig
from tests.comsem.server import JudgeServer, perfect

LAPTOP = EXPERIMENT.presets["laptop"]
K = 3
TINY = ("--extract.layers", "1", "--extract.max-tokens", "16", "--extract.tokens.max-vectors", "1200",
        "--extract.gpus-per-worker", "0", "--gpus-per-trial", "0", "--evaluation.max-texts", "120",
        "--training.epochs", "3", "--training.batch-size", "64", "--autoencoder.expansion", "2", "--examples.k", K,
        "--shape.permutations", "19", "--shape.draws", "2", "--shape.max-tokens", "300")  # fmt: skip


@pytest.fixture
def tiny(tiny_causal_model: Path, tiny_corpus: Path, tmp_path: Path) -> tuple[object, ...]:
    """Options of a tiny run."""
    paths = ("--extract.model", tiny_causal_model, "--extract.corpus", tiny_corpus, "--evaluation.corpus", tiny_corpus)
    return ("--out", tmp_path / "run", *paths, *TINY)


def written(out: Path) -> dict[Path, int]:
    """When what is computed was written."""
    kinds = ("sweep/*/result.json", "measured/*.json", "selected/*", "planes/*.json", "*/manifest.json")
    return {file: file.stat().st_mtime_ns for kind in kinds for file in out.glob(kind)}


def naive_selection(folder: Path, x: torch.Tensor) -> np.ndarray:
    """[N, G]: which features are among the K of largest burstiness, the first of equals before the others."""
    with torch.no_grad():
        code = load_autoencoder(folder).encode(x).double().numpy()
    with np.errstate(divide="ignore"):
        burstiness = np.log2(np.abs(code - code.mean(0))).astype(np.float32)
    chosen = np.zeros(code.shape, dtype=bool)
    for row, values in enumerate(burstiness):
        chosen[row, sorted(range(len(values)), key=lambda i: -values[i])[:K]] = True
    return chosen


def test_scored_features_are_measured_once(
    run: Callable[..., str], tiny: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"
    printed = run(EXPERIMENT, *tiny)
    table = pd.read_csv(out / "feature_shape.csv")
    store = ActivationStore.open(out / "evaluation")
    (folder,) = (file.parent for file in out.glob("sweep/*/result.json"))
    rows, x = store.rows, store.matrix(1, "all").float()
    assert (rows["position"] > 0).all()
    selected = naive_selection(folder, x)
    counts = selected.sum(0)
    assert set(table["feature"]) <= set(np.flatnonzero(counts >= LAPTOP.examples.n_interpret + 1))
    assert (table["active_in_all"] == counts[table["feature"]]).all()
    words = store.texts.set_index("text_id")["text"].str.split()
    word = np.array([words[text][at] for text, at in zip(rows["text_id"], rows["position"], strict=True)])
    for row in table.to_dict("records"):
        tokens = np.flatnonzero(selected[:, row["feature"]])
        told, tested = set(word[tokens[:5]]), word[tokens[5:13]]
        assert row["score"] == pytest.approx(np.mean([one in told for one in tested]))
        texts = set(rows["text_id"][tokens])
        whole = rows["text_id"].isin(texts)
        if whole.sum() <= 300:
            assert (row["sentences"], row["tokens"], row["active"]) == (len(texts), whole.sum(), len(tokens))
        else:
            assert row["tokens"] <= 300
            assert row["sentences"] < len(texts)
    assert table["purity_p"].between(1 / 20, 1).all()
    by_score = pd.read_csv(out / "shape_by_score.csv")
    assert by_score["features"].tolist() == [len(table)] * 4
    page = (out / "feature_shape.html").read_text()
    assert "No judge was asked" in page
    assert "chance, on another feature" in printed
    assert "Paper: tokens of high-score features cluster" in printed
    assert (out / "umap.png").exists() == has_umap()
    assert ("pip install 'bae-ray[umap]'" in printed) != has_umap()

    before = written(out)
    (out / "feature_shape.csv").unlink()
    lost = sorted(out.glob("measured/*.json"))[0]
    lost.write_text("{")  # as a machine that went down may leave it
    assert run(EXPERIMENT, *tiny).splitlines()[-3:] == printed.splitlines()[-3:]
    pd.testing.assert_frame_equal(pd.read_csv(out / "feature_shape.csv"), table)
    after = written(out)
    assert {file for file in after if after[file] != before.get(file)} == {lost}


def test_features_by_index_and_scores_of_a_judge(
    run: Callable[..., str], tiny: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with JudgeServer(perfect) as server:
        judged = ("--scores", "judge", "--judge.judge-url", server.url, "--scoring.random-features", "2")
        run(EXPERIMENT, *tiny, *judged, "--scoring.max-features", "12")
        asked = sum(server.paid.values())
        run(EXPERIMENT, *tiny, *judged, "--scoring.max-features", "12")
        assert sum(server.paid.values()) == asked
    out = tmp_path / "run"
    table = pd.read_csv(out / "feature_shape.csv")
    assert len(table) == 12
    assert table["explanation"].str.startswith("the words ").all()
    (method,) = (file.parent for file in (out / "comsem").glob("*/features.parquet"))
    scored = pd.read_parquet(method / "features.parquet").set_index("feature")
    assert (scored.loc[table["feature"], "score"].to_numpy() == table["score"].to_numpy()).all()
    assert (scored.loc[table["feature"], "count"].to_numpy() == table["active_in_all"].to_numpy()).all()

    taken = tmp_path / "taken"
    chosen = table["feature"].tolist()[:2]
    printed = run(EXPERIMENT, "--out", taken, "--scored", method, "--features", *chosen, *TINY[-6:])
    again = pd.read_csv(taken / "feature_shape.csv")
    assert set(again.loc[again["shown"] == "given", "feature"]) == set(chosen)
    shared = [column for column in table if column not in ("shown", "plane_purity")]
    pd.testing.assert_frame_equal(again[shared], table[shared])
    assert "balanced accuracy is 1.00" in printed
    assert not (taken / "train").exists()

    never = int(scored.index[scored["count"] < 2][0]) if (scored["count"] < 2).any() else None
    refused = [((99,), "features names 99, but the autoencoder has 32"), ((), "features is empty")]
    refused += [((never,), f"features names {never}, which is active on")] if never is not None else []
    config = LAPTOP.model_copy(update={"out": tmp_path / "refused", "scored": method})
    for features, message in refused:
        with pytest.raises(InvalidInputError, match=message):
            EXPERIMENT.run(config.model_copy(update={"features": features}))
    assert not (tmp_path / "refused").exists()
    about = json.loads((out / "comsem" / "comsem.json").read_text())
    (out / "comsem" / "comsem.json").write_text(json.dumps({**about, "store": str(tmp_path / "gone")}))
    with pytest.raises(IncompleteStoreError, match="gone"):
        EXPERIMENT.run(config)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("umap"), reason="needs the extra umap")
@pytest.mark.filterwarnings("default")  # of other packages, which come with it
def test_the_picture_is_the_same_again(run: Callable[..., str], tiny: tuple[object, ...], tmp_path: Path):
    out = tmp_path / "run"
    run(EXPERIMENT, *tiny)
    shown = pd.read_csv(out / "feature_shape.csv").query("shown != ''")
    planes = sorted(out.glob("planes/*.json"))
    assert len(planes) == shown["shown"].notna().sum() == 6
    first = [file.read_text() for file in planes]
    for file in planes:
        file.unlink()
    run(EXPERIMENT, *tiny)
    assert [file.read_text() for file in planes] == first
    assert (out / "umap.png").stat().st_size > 10_000
    for text in first:
        plane = json.loads(text)
        assert np.isfinite(plane["places"]).all()
        assert len(plane["places"]) == len(plane["active"])


def test_a_score_by_words_is_the_share_of_further_words_that_were_told():
    words = ["a", "b", "a", "a", "c", "a", "b", "x", "y", "z", "a", "q", "a", "b"]
    selected = Selected(
        np.array([*range(10), 0, 2, 3, 5, 10, 12, 1]), np.array([10, 16, 17]), np.zeros(3)
    )  # 10, 6 and 1 tokens
    found = word_scores(selected, words, ExamplesConfig(n_interpret=5, n_test=3), ScoringConfig()).table
    assert found["feature"].tolist() == [0, 1]
    assert found["explanation"].tolist() == ["a, b, c", "a"]
    assert found["score"].tolist() == [2 / 3, 1.0]  # of a, b, x; of a
    assert found["chance"].tolist() == [1.0, 1 / 3]
    some = word_scores(selected, words, ExamplesConfig(n_interpret=5, n_test=3), ScoringConfig(max_features=1)).table
    assert len(some) == 1
    assert some["chance"].isna().all()


def test_the_highest_and_lowest_scores_are_shown():
    scores = [1.0, 1.0, 0.9, 0.5, 0.2, 0.0, 0.0, np.nan]
    active = [30, 40, 5, 30, 30, 30, 40, 30]
    table = pd.DataFrame({"feature": range(8), "score": scores, "active": active, "active_in_all": active})
    assert features_shown(table, None, 1) == ["", "high", "", "", "", "", "low", ""]
    assert features_shown(table, None, 2) == ["high", "high", "", "", "", "low", "low", ""]
    assert features_shown(table, None, 9).count("high") == 7  # no feature is both
    assert features_shown(table, (7, 2), 1) == ["", "", "given", "", "", "", "", "given"]


def extracting(**changes: object) -> ExtractConfig:
    return LAPTOP.extract.model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extract": extracting(positions=(4,), tokens=TokensConfig())}, r"extract.positions is \(4,\)"),
        ({"extract": extracting(sites=("mlp_in",))}, r"extract.sites is \('mlp_in',\)"),
        ({"extract": extracting(layers=(4, 10))}, r"extract.layers is \(4, 10\): name one layer"),
        ({"autoencoder": BAEConfig(bits_per_feature=2)}, "autoencoder.bits_per_feature is 2: leave it out"),
        ({"features": ()}, "features is empty: name some, or leave it out"),
        ({"features": (3, 3)}, "features names 3 twice"),
        ({"features": (3, 1152)}, "features names 1152, but the autoencoder has 1152: expected 0 to 1151"),
        ({"scored": Path("nowhere")}, "scored is nowhere, but nowhere/features.parquet is not there: give OUT/METHOD"),
    ],
)
def test_what_the_job_does_not_take(changes: dict, message: str, tmp_path: Path):
    with pytest.raises(InvalidInputError, match=message):
        EXPERIMENT.run(LAPTOP.model_copy(update={"out": tmp_path / "out", **changes}))
    assert not list(tmp_path.iterdir())


def test_a_judge_that_does_not_answer_is_found_out_first(tmp_path: Path):
    judge = JobJudgeConfig(judge_url="http://127.0.0.1:9/v1", attempts=1, backoff_s=0.0)
    with pytest.raises(JudgeError):
        EXPERIMENT.run(LAPTOP.model_copy(update={"out": tmp_path, "scores": "judge", "judge": judge}))
    assert not (tmp_path / "train").exists()
