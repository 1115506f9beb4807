"""The whole of ComSem on a real store, against a real HTTP server."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import load_autoencoder
from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.config import ComSemConfig, EvaluationConfig, ExamplesConfig, ScoringConfig
from bae_ray.comsem.feature_records import EVALUATION_FILE, EXAMPLES_FILE, read_feature_records
from bae_ray.comsem.name_and_score import comsem, dry_run
from bae_ray.comsem.summary import CACHE_FILE, CONFIG_FILE, FEATURES_FILE, SUMMARY_FILE, TABLE_FILE, Outcome
from bae_ray.errors import InvalidInputError, JudgeError, UnreadableFileError
from tests.comsem.server import JudgeServer, Reply, always_yes, is_judgement, perfect

Serve = Callable[..., JudgeServer]

EXAMPLES = ExamplesConfig(k=1, n_interpret=3, n_test=3, top=4)


@pytest.fixture(scope="module")
def settings(sentences_store: Path, word_autoencoder: Path, tiny_model: Path) -> dict[str, Any]:
    return {
        "autoencoders": (str(word_autoencoder),), "store": str(sentences_store), "tokenizer": str(tiny_model),
        "layer": 0, "examples": EXAMPLES, "scoring": ScoringConfig(random_features=6), "backoff_s": 0.01,
    }  # fmt: skip


@pytest.fixture(scope="module")
def asked_perfect(
    settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Path, JudgeServer]:
    """A run with a judge that knows everything."""
    out = tmp_path_factory.mktemp("comsem") / "out"
    with JudgeServer(perfect) as server:
        return comsem(ComSemConfig(judge_url=server.url, **settings), out), out, server


def features(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "words" / FEATURES_FILE)


def test_a_perfect_judge_names_every_word(
    asked_perfect: tuple[Outcome, Path, JudgeServer], sentences_store: Path, tiny_texts: list[str]
):
    """Each latent of the autoencoder is a word: what is found must be what counting the words finds."""
    outcome, out, server = asked_perfect
    (row,) = outcome.summary.to_dict("records")
    words = [word for text in tiny_texts for word in text.split()]
    counts = {f"w{i}": words.count(f"w{i}") for i in range(60)}
    assert row["n_tokens"] == len(words) == ActivationStore.open(sentences_store).manifest.n
    assert row["n_sentences"] == 200
    assert row["activated"] == sum(count >= 4 for count in counts.values())
    assert (row["score"], row["score_low"], row["chance"], row["interpretable"]) == (1.0, 1.0, 0.0, row["activated"])
    assert (row["above_chance_low"], row["judge_accuracy"], row["judge_useless"]) == (1.0, 1.0, False)
    assert row["random"] <= 1.0
    table = features(out)
    assert table["feature"].tolist() == list(range(61))
    for feature in table[table["active"]].to_dict("records"):
        word = f"w{feature['feature'] - 1}"
        assert feature["explanation"] == f"the words {word}"
        assert feature["count"] == counts[word]
        assert feature["n_test"] == min(3, counts[word] - 3)
        assert feature["p_yes"] == pytest.approx(0.97)
        assert feature["chance_feature"] not in (-1, feature["feature"])
    assert set(server.paid.values()) == {1}
    assert set(server.asked.values()) == {1}


def test_what_the_judge_saw_is_in_the_texts(asked_perfect: tuple[Outcome, Path, JudgeServer], tiny_texts: list[str]):
    """The examples of a feature are the word's first occurrences, each in its own text at its own position."""
    from tests.comsem.server import tokens_of

    _, _, server = asked_perfect
    occurrences = [
        (text, position) for text in tiny_texts for position, word in enumerate(text.split()) if word == "w5"
    ]
    (asked,) = [body for body in server.bodies if not is_judgement(body) and set(tokens_of(body)) == {"w5"}]
    lines = asked["messages"][1]["content"].splitlines()[:3]
    assert lines == [
        f'Token: "w5" at position {position + 1} in: {json.dumps(text)}' for text, position in occurrences[:3]
    ]


def test_a_rerun_asks_nothing_and_finds_the_same(
    asked_perfect: tuple[Outcome, Path, JudgeServer], settings: dict[str, Any], tmp_path: Path
):
    """Not even the server is needed any more."""
    outcome, out, server = asked_perfect
    shutil.copytree(out, tmp_path / "out")
    again = comsem(ComSemConfig(judge_url=server.url, **settings), tmp_path / "out")
    assert (again.usage.sent, again.usage.cost) == (0, 0.0)
    pd.testing.assert_frame_equal(again.summary, outcome.summary)
    assert files_of(tmp_path / "out") == files_of(out)


@pytest.mark.parametrize("identity", ["same", "other"])
def test_records_of_an_earlier_version_are_collected_anew(
    identity: str, asked_perfect: tuple[Outcome, Path, JudgeServer], settings: dict[str, Any], tmp_path: Path
):
    _, out, server = asked_perfect
    shutil.copytree(out, tmp_path / "out")
    words = tmp_path / "out" / "words"
    pq.write_table(pq.read_table(words / EXAMPLES_FILE).drop_columns(["magnitudes"]), words / EXAMPLES_FILE)
    if identity == "other":
        about = json.loads((words / EVALUATION_FILE).read_text())
        (words / EVALUATION_FILE).write_text(json.dumps(about | {"identity": "of an earlier version"}))
    with pytest.raises(UnreadableFileError, match="an earlier version, without the columns magnitudes"):
        read_feature_records(words)
    dry_run(ComSemConfig(judge_url=server.url, **settings), tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(out)


def test_how_results_are_shown_makes_no_summary_foreign(
    bae_ray: Callable[..., tuple[int, str, str]], asked_perfect: tuple[Outcome, Path, JudgeServer],
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """A finished summary stays while the same command runs again with --publish. All options are written down."""
    _, finished, server = asked_perfect
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    config = ComSemConfig(judge_url=server.url, **settings).model_dump(mode="json")
    (tmp_path / "given.json").write_text(json.dumps({**config, "out": str(out)}))
    code, _, err = bae_ray("comsem", "--config", tmp_path / "given.json")
    assert code == 0, err
    written = json.loads((out / CONFIG_FILE).read_text())
    assert written == {**config, "out": str(out), "json_features": False, "publish": False, "dry_run": False}

    def interrupted(*_: object) -> None:
        raise InvalidInputError("cut off")

    monkeypatch.setattr("bae_ray.comsem.name_and_score.collect_records", interrupted)
    code, _, err = bae_ray("comsem", "--config", out / CONFIG_FILE, "--publish")
    assert (code, err.splitlines()[-1]) == (2, "error: cut off")
    assert json.loads((out / CONFIG_FILE).read_text()) == {**written, "publish": True}
    assert (out / SUMMARY_FILE).exists()
    assert (out / TABLE_FILE).exists()
    assert bae_ray("comsem", "--config", out / CONFIG_FILE, "--examples.seed", 1)[0] == 2
    assert not (out / SUMMARY_FILE).exists(), "of other examples"


def files_of(out: Path) -> dict[str, bytes]:
    """What a run leaves, but for the answers' file and what the last run cost."""
    left = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    return {
        name: content for name, content in left.items() if not name.startswith((CACHE_FILE, "usage", "comsem.json"))
    }


def test_random_sets_are_a_method_too(settings: dict[str, Any], asked_perfect: Any, tmp_path: Path):
    """Random token sets as a method of the table: the judge's answers to the check are paid for already."""
    _, out, server = asked_perfect
    cache = tmp_path / CACHE_FILE
    shutil.copy(out / CACHE_FILE, cache)
    config = ComSemConfig(judge_url=server.url, cache=cache, **{**settings, "autoencoders": ("random",)})
    with JudgeServer(perfect, server.port):
        (row,) = comsem(config, tmp_path / "out").summary.to_dict("records")
    assert (row["architecture"], row["activated"], row["n_features"]) == ("random", 6, 6)
    assert np.isnan(row["random"])


def test_a_judge_that_always_says_yes_is_useless(settings: dict[str, Any], serve: Serve, tmp_path: Path):
    scoring = ScoringConfig(random_features=0, max_features=5)
    outcome = comsem(ComSemConfig(judge_url=serve(always_yes).url, **{**settings, "scoring": scoring}), tmp_path)
    (row,) = outcome.summary.to_dict("records")
    assert (row["score"], row["chance"], row["above_chance"]) == (1.0, 1.0, 0.0)
    assert (row["judge_accuracy"], row["judge_yes_bias"], row["judge_useless"]) == (0.5, 0.5, True)
    assert "answers Yes to 100%" in json.loads((tmp_path / SUMMARY_FILE).read_text())["judge"]["warnings"][0]
    assert (row["scored"], features(tmp_path)["status"].value_counts()["scored"]) == (5, 5)


def test_bits_are_told_by_burstiness_over_the_evaluation_set(
    settings: dict[str, Any], random_bae: Path, sentences_store: Path, tmp_path: Path
):
    """A dry run collects the examples: of a binary autoencoder as in the pseudocode, its prior over this set."""
    examples = ExamplesConfig(k=5, n_interpret=3, n_test=3, top=4, top_context=2)
    changes = {"autoencoders": (str(random_bae),), "layer": 1, "examples": examples}
    config = ComSemConfig(**{**settings, **changes})
    plan = dry_run(config, tmp_path)
    x = ActivationStore.open(sentences_store).matrix(1, "all")
    with torch.no_grad():
        code = load_autoencoder(random_bae).encode(x)
    magnitudes = ((code - code.double().mean(0).float()).abs() + 1e-6).log2()
    expected: list[list[int]] = [[] for _ in range(48)]
    for token, row in enumerate(magnitudes.tolist()):
        for feature in sorted(range(48), key=lambda j: row[j], reverse=True)[:5]:
            expected[feature].append(token)
    found = pd.read_parquet(tmp_path / "bae" / "examples.parquet")
    assert [list(tokens) for tokens in found["tokens"]] == [tokens[:6] for tokens in expected]
    np.testing.assert_allclose(found["firing_rate"], code.double().mean(0))
    active = [tokens for tokens in expected if len(tokens) >= 4]
    assert plan.explanations == len({tuple(tokens[:3]) for tokens in active}) + 6, "of equal examples one"
    own = len({(tuple(tokens[:3]), token) for tokens in active for token in tokens[3:6]})
    assert 460 + own + 18 < plan.judgements <= 460 + sum(min(3, len(tokens) - 3) * 2 for tokens in active) + 18
    for feature, strongest in enumerate(found["strongest"]):
        largest = sorted((float(magnitudes[token, feature]) for token in expected[feature]), reverse=True)[:4]
        if len(expected[feature]) >= 4:
            assert [one["values"][one["at"]] for one in strongest] == pytest.approx(largest, rel=1e-5)
        assert all(len(one["values"]) == len(one["pieces"]) <= 5 for one in strongest)


def test_plan_costs_what_it_says(settings: dict[str, Any], tmp_path: Path):
    plan = dry_run(ComSemConfig(input_price=2.0, output_price=8.0, **settings), tmp_path)
    assert plan.cost == pytest.approx((plan.prompt_tokens * 2 + plan.completion_tokens * 8) / 1e6)
    assert not (tmp_path / CACHE_FILE).exists()


def test_a_plan_is_what_a_run_sends(
    settings: dict[str, Any], asked_perfect: tuple[Outcome, Path, JudgeServer], word_autoencoder: Path, tmp_path: Path
):
    """What several methods share, the random sets above all, is asked once."""
    _, _, server = asked_perfect
    assert dry_run(ComSemConfig(**settings), tmp_path / "one")[:2] == (
        sum(not is_judgement(body) for body in server.bodies), sum(map(is_judgement, server.bodies)),
    )  # fmt: skip
    shutil.copytree(word_autoencoder, tmp_path / "again")
    both = {**settings, "autoencoders": (str(word_autoencoder), str(tmp_path / "again"))}
    assert dry_run(ComSemConfig(**both), tmp_path / "two") == dry_run(ComSemConfig(**settings), tmp_path / "one")


def test_an_autoencoder_of_another_language_model_is_refused(
    settings: dict[str, Any], word_autoencoder: Path, tiny_model: Path, tmp_path: Path
):
    shutil.copytree(word_autoencoder, tmp_path / "other")
    (tmp_path / "other" / "result.json").write_text('{"model": "org/base-model"}')
    other = {**settings, "autoencoders": (str(tmp_path / "other"),)}
    evaluated = {**other, "store": None, "evaluation": EvaluationConfig(model=str(tiny_model))}
    for changed in (other, evaluated):
        with pytest.raises(InvalidInputError, match="other was trained on activations of org/base-model, and the eval"):
            dry_run(ComSemConfig(**changed), tmp_path / "out")
    assert dry_run(ComSemConfig(**other, other_model=True), tmp_path / "out").explanations
    (tmp_path / "other" / "result.json").write_text(json.dumps({"model": f"/elsewhere/{tiny_model.name}"}))
    assert dry_run(ComSemConfig(**other), tmp_path / "out").explanations


def test_no_summary_stands_beside_a_config_that_it_is_not_of(
    settings: dict[str, Any], asked_perfect: tuple[Outcome, Path, JudgeServer], tmp_path: Path
):
    _, out, server = asked_perfect
    shutil.copytree(out, tmp_path / "out")
    config = ComSemConfig(judge_url=server.url, **settings)
    with AnswerCache(tmp_path / "out" / CACHE_FILE), pytest.raises(InvalidInputError, match="in use by another"):
        comsem(config.model_copy(update={"in_flight": 3}), tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(out), "nothing of the other process was touched"
    with pytest.raises(JudgeError):
        comsem(config.model_copy(update={"judge_model": "another", "attempts": 1}), tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(out), "the judge was not there: no answer of another config either"
    run_out_after_one_answer(config.model_copy(update={"judge_model": "another"}), tmp_path / "out")
    assert not (tmp_path / "out" / SUMMARY_FILE).exists()
    assert not (tmp_path / "out" / TABLE_FILE).exists()


def run_out_after_one_answer(config: ComSemConfig, out: Path) -> None:
    """A run whose judge answers the first question, and after that no more; what it answered before is not known."""
    (out / CACHE_FILE).unlink()
    arrived = count()

    def script(body: dict[str, Any], times: int) -> Reply | str:
        return perfect(body, times) if next(arrived) == 0 else Reply(status=401, body='{"error": "the key ran out"}')

    port = int(config.judge_url.split(":")[-1].split("/")[0])
    with JudgeServer(script, port), pytest.raises(JudgeError, match="401"):
        comsem(config, out)


def test_a_config_that_an_earlier_version_wrote_is_the_same(
    settings: dict[str, Any], asked_perfect: tuple[Outcome, Path, JudgeServer], tmp_path: Path
):
    """It lacks the fields that were added since: the summary is of it, and stays where the run ends early."""
    _, out, server = asked_perfect
    shutil.copytree(out, tmp_path / "out")
    file = tmp_path / "out" / CONFIG_FILE
    fields = json.loads(file.read_text())
    for field in ("reasoning", "other_model", "judge_id"):
        del fields[field]
    file.write_text(json.dumps(fields))
    run_out_after_one_answer(ComSemConfig(judge_url=server.url, **settings), tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": None}, "has no run.json that says its layer. Give it with --layer"),
        ({"layer": 7}, "holds no cell"),
        ({"autoencoders": ()}, "autoencoders is empty"),
        ({"examples": EXAMPLES.model_copy(update={"k": 99})}, "examples.k is 99"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(
    changes: dict[str, Any], message: str, settings: dict[str, Any], tmp_path: Path
):
    with pytest.raises(InvalidInputError, match=message):
        comsem(ComSemConfig(judge_url="http://127.0.0.1:9/v1", **{**settings, **changes}), tmp_path)


def test_a_store_of_single_positions_is_refused(settings: dict[str, Any], tiny_store: Path, tmp_path: Path):
    with pytest.raises(InvalidInputError, match="--positions all"):
        comsem(ComSemConfig(**{**settings, "store": str(tiny_store), "autoencoders": ("random",)}), tmp_path)


@pytest.mark.slow
def test_killed_in_the_middle_nothing_is_paid_twice(
    asked_perfect: tuple[Outcome, Path, JudgeServer], settings: dict[str, Any], word_autoencoder: Path, tmp_path: Path
):
    """kill -9 when 500 answers are out; those asked for after that never get one, so what is paid is known.

    With all eight places in flight taken by questions that wait, the answers before have been received.
    """
    out = tmp_path / "out"
    paid_before_kill = 500
    config = tmp_path / "config.json"

    arrived = count()

    def stalling(body: dict[str, Any], times: int) -> Reply:
        return perfect(body, times) if next(arrived) < paid_before_kill else Reply(hold=True)

    def run(port: int) -> subprocess.Popen[bytes]:
        given = ComSemConfig(judge_url=f"http://127.0.0.1:{port}/v1", in_flight=8, **settings)
        config.write_text(given.model_dump_json())
        return subprocess.Popen(
            [sys.executable, "-c", "from bae_ray.cli import main; main()", "comsem", "--config", str(config),
             "--out", str(out)],
            env={**os.environ, "PYTHONWARNINGS": "ignore"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    with JudgeServer(stalling) as first:
        driver = run(first.port)
        deadline = time.monotonic() + 120
        while first.paid.total() < paid_before_kill or first.at_once < 8:
            assert driver.poll() is None, "the driver ended by itself"
            assert time.monotonic() < deadline, f"no progress beyond {first.paid.total()}"
            time.sleep(0.02)
        driver.kill()
        driver.wait()
    assert not (out / SUMMARY_FILE).exists()
    with JudgeServer(perfect, first.port) as second:
        assert run(first.port).wait(timeout=120) == 0
    paid = first.paid + second.paid
    assert first.paid.total() == paid_before_kill
    assert set(paid.values()) == {1}, "something was paid for twice"
    outcome, undisturbed, _ = asked_perfect
    assert paid.total() == outcome.usage.answered
    for name in (f"words/{FEATURES_FILE}", "words/random.parquet", "words/examples.parquet"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert (
        json.loads((out / SUMMARY_FILE).read_text())["methods"]
        == json.loads((undisturbed / SUMMARY_FILE).read_text())["methods"]
    )


@pytest.mark.slow
def test_workers_of_a_cluster_find_the_same(settings: dict[str, Any], random_bae: Path, tmp_path: Path):
    changed = {
        **settings,
        "autoencoders": (str(random_bae),),
        "layer": 1,
        "examples": ExamplesConfig(k=5, n_interpret=3),
    }
    for workers in (1, 2):
        dry_run(ComSemConfig(workers=workers, **changed), tmp_path / str(workers))
    one, two = (pd.read_parquet(tmp_path / str(workers) / "bae" / "examples.parquet") for workers in (1, 2))
    for column in ("count", "tokens", "magnitudes", "strongest", "max_magnitude"):
        assert one[column].map(str).tolist() == two[column].map(str).tolist(), column
    np.testing.assert_allclose(one["firing_rate"], two["firing_rate"], rtol=1e-12)


@pytest.mark.slow
def test_from_texts_to_browser_in_one_command(
    bae_ray: Callable[..., tuple[int, str, str]], word_autoencoder: Path, tiny_model: Path, tiny_corpus: Path,
    serve: Serve, tmp_path: Path,
):  # fmt: skip
    """Without a store: the evaluation set is extracted."""
    server = serve(perfect)
    code, out, err = bae_ray(
        "comsem", "--autoencoders", word_autoencoder, "random", "--layer", 0, "--evaluation.model", tiny_model,
        "--evaluation.corpus", tiny_corpus, "--evaluation.sentences", 50, "--evaluation.sentence-tokens", 20,
        "--tokenizer", tiny_model, "--judge-url", server.url, "--judge-model", "judge", "--examples.k", 1,
        "--scoring.random-features", 5, "--json-features", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert "balanced accuracy 1.00" in out
    assert (tmp_path / "out" / "words" / "features.html").exists()
    assert len(list((tmp_path / "out" / "words" / "features").glob("*.json"))) > 3
    assert set(pd.read_csv(tmp_path / "out" / "summary.csv")["method"]) == {"words", "random"}
