"""ComSem whose results are in a bucket: those of a folder of this machine, and no answer is asked for twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bae_ray.comsem import answers_elsewhere
from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.completions import Answer
from bae_ray.comsem.config import ComSemConfig, ExamplesConfig, ScoringConfig
from bae_ray.comsem.name_and_score import comsem
from bae_ray.comsem.summary import CACHE_FILE, FEATURES_FILE, TABLE_FILE
from bae_ray.locations import local_path
from bae_ray.report.feature_browser import report_features
from tests.bucket import Server, cache, server
from tests.comsem.server import perfect

__all__ = ["cache", "server"]


def test_results_are_those_of_this_machine_and_another_one_asks_nothing(
    serve: Callable, server: Server, sentences_store: Path, word_autoencoder: Path, tiny_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    uri, method = server.bare_uri("bucket/comsem"), server.bare_uri("bucket/autoencoders/words")
    for file in word_autoencoder.iterdir():
        server.write(f"bucket/autoencoders/words/{file.name}", file.read_bytes())
    settings: dict[str, Any] = {
        "store": str(sentences_store), "tokenizer": str(tiny_model), "layer": 0, "backoff_s": 0.01,
        "examples": ExamplesConfig(k=1, n_interpret=3, n_test=3, top=4), "scoring": ScoringConfig(random_features=6),
    }  # fmt: skip
    judge = serve(perfect)
    here = comsem(
        ComSemConfig(judge_url=judge.url, autoencoders=(str(word_autoencoder),), **settings), tmp_path / "out"
    )
    report_features(tmp_path / "out")
    first = len(judge.paid)
    config = ComSemConfig(judge_url=judge.url, autoencoders=(method,), **settings)
    assert config.autoencoders == (str(local_path(method)),)
    assert ComSemConfig.model_validate_json(config.model_dump_json()) == config
    assert method in config.model_dump_json()
    there = comsem(config, uri)
    report_features(local_path(uri))
    pd.testing.assert_frame_equal(there.summary, here.summary)
    ours = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert set(server.names("bucket/comsem")) == {name for name in ours if not name.endswith(".lock")}
    for name in (TABLE_FILE, f"words/{FEATURES_FILE}", "words/features.html"):
        assert server.read(f"bucket/comsem/{name}") == (tmp_path / "out" / name).read_bytes()

    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "another"))  # a machine that has none of it
    asked = sum(judge.paid.values())
    config = ComSemConfig(judge_url=judge.url, autoencoders=(method,), **settings)
    pd.testing.assert_frame_equal(comsem(config, uri).summary, here.summary)
    assert sum(judge.paid.values()) == asked
    assert len(judge.paid) == first


def test_answers_of_this_machine_and_of_the_bucket_both_count(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answers_elsewhere, "EVERY_S", 0.0)
    answer = Answer("yes", "", "stop", [], 1, 2, 0)
    uri = server.bare_uri(f"bucket/answers/{CACHE_FILE}")
    with AnswerCache(local_path(uri)) as cache:
        cache.put({"question": 1}, answer, (1, 2))
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "second"))
    second = AnswerCache(local_path(uri))
    with second:
        assert second.get({"question": 1}) == answer
        second.put({"question": 2}, answer, (3, 4))
        second.put_lost((5, 6))
        assert second.tokens() == (9, 12)
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "cache"))
    with AnswerCache(local_path(uri)) as cache:
        assert cache.get({"question": 2}) == answer
        assert cache.tokens() == (9, 12)
