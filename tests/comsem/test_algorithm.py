"""Steps 2 and 3 of ComSem against the pseudocode of Algorithm 1, asked of the same server one request at a time."""

import asyncio
import hashlib
import json
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.config import ExamplesConfig, JudgeConfig, ScoringConfig
from bae_ray.comsem.examples import collect
from bae_ray.comsem.judge import Judge
from bae_ray.comsem.judge_prompts import Example, interpret_prompt, judge_prompt
from bae_ray.comsem.scoring import FeatureScore, Task, score_features
from bae_ray.comsem.sentences import Sentences
from bae_ray.comsem.summary import summarize, table
from bae_ray.comsem.tasks import active_features, feature_tasks
from tests.comsem.server import JudgeServer, asked_of, coin, is_judgement, tokens_of

N, D, F, K, N_I, N_T = 400, 6, 40, 4, 5, 8


def sentence(token: int) -> Example:
    """Every token has a word and a context of its own."""
    word = f"w{token * 7919 % 1000}"
    return Example(word, token % 9, f"the {word} of number {token}", 4, 4 + len(word))


class Numbered:
    """In place of the sentences of a store."""

    def prepare(self, tokens: Iterable[int]) -> None:
        pass

    def example(self, token: int, _around: int) -> Example:
        return sentence(token)


def hashed(body: dict[str, Any], _times: int) -> str:
    """An answer that depends on nothing but the question."""
    digest = hashlib.sha256(asked_of(body).encode()).digest()
    return ("Yes" if digest[0] < 100 else "No") if is_judgement(body) else f"phrase {digest.hex()[:8]}"


def score(tasks: list[Task], url: str, cache: Path, interpretations: int = 1) -> list[FeatureScore]:
    async def run() -> list[FeatureScore]:
        with AnswerCache(cache) as opened:
            async with Judge(JudgeConfig(judge_url=url, backoff_s=0.01), opened) as judge:
                return await score_features(judge, tasks, interpretations, None, 16)

    return asyncio.run(run())


@pytest.mark.parametrize("seed", range(2))
def test_selection_fa_fi_and_score_are_those_of_algorithm_1(
    seed: int, serve: Callable[..., JudgeServer], tmp_path: Path
):
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(seed))
    bae = build_autoencoder(BAEConfig(d_in=D, d_latent=F)).eval()
    bae.reset_parameters(torch.Generator().manual_seed(seed))
    code = bae.encode(x).detach()
    bae.prior.copy_(code.mean(0))
    server = serve(hashed)

    def lm(prompt: list[dict[str, str]]) -> str:
        """The naive client: one blocking request."""
        body = json.dumps({"model": "judge", "messages": prompt, "max_tokens": 9}).encode()
        request = urllib.request.Request(f"{server.url}/chat/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return json.load(response)["choices"][0]["message"]["content"]

    # Algorithm 1, line by line.
    f = ((code - code.mean(0)).abs() + 1e-6).log2().tolist()
    d_s: list[list[int]] = [[] for _ in range(F)]
    for i in range(N):
        a = f[i]
        for j in sorted(range(F), key=lambda j: a[j], reverse=True)[:K]:
            d_s[j].append(i)
    interp: list[str | None] = [None] * F
    fa = fi = 0
    for i in range(F):
        if len(d_s[i]) >= N_I + 1:
            interp[i] = lm(interpret_prompt([sentence(token) for token in d_s[i][:N_I]]))
            fa += 1
    scores: dict[int, float] = {}
    literal: dict[int, float] = {}
    for i in range(F):
        explanation = interp[i]
        if explanation is not None:
            tested = d_s[i][N_I : N_I + N_T]
            yes = sum(lm(judge_prompt(sentence(token), explanation)) == "Yes" for token in tested)
            scores[i] = yes / len(tested)
            literal[i] = yes / len(d_s[i][N_I:])  # as printed, over all that is held out
            fi += scores[i] > 0

    examples = ExamplesConfig(k=K, n_interpret=N_I, n_test=N_T)
    kept = collect(bae, Rows([x]), examples).examples.kept()
    assert active_features(kept, examples) == [i for i in range(F) if interp[i] is not None]
    tasks = feature_tasks(kept, cast(Sentences, Numbered()), examples, ScoringConfig(shuffled=0))
    found = score(tasks, server.url, tmp_path / "c")
    assert {one.feature: one.explanation for one in found} == {i: e for i, e in enumerate(interp) if e is not None}
    assert {one.feature: one.score for one in found} == scores
    held_out = {i: kept.counts[i] - N_I for i in scores}
    assert {one.feature: one.test.yes / held_out[one.feature] for one in found} == literal
    summary = summarize(table(found), table([]), seed=0)
    assert 0 < fi <= fa == len(scores)
    assert (summary.activated, summary.interpretable) == (fa, fi)
    assert summary.score.mean == pytest.approx(sum(scores.values()) / fa, rel=1e-12)


def tasks_of(n: int, n_test: int = 4) -> list[Task]:
    """Features each of whose tokens is the word of its number, each with the next one as the other."""

    def examples(feature: int, first: int, count: int) -> list[Example]:
        return [Example(f"f{feature}", i, f"f{feature} is here {i}", 0, 2) for i in range(first, first + count)]

    return [
        Task(i, examples(i, 0, 5), examples(i, 5, n_test), (i + 1) % n, examples((i + 1) % n, 5, n_test))
        for i in range(n)
    ]


def test_unreadable_answers_and_refusals_are_counted(serve: Callable[..., JudgeServer], tmp_path: Path):
    """Half of feature 0's answers cannot be read, all of feature 1's are refused, feature 2 is not explained."""

    def script(body: dict[str, Any], times: int) -> Any:
        asked = asked_of(body)
        if is_judgement(body):
            if '"f0"' in asked and ("here 5" in asked or "here 6" in asked):
                return "Hmm, hard to say"
            return "I'm sorry, I can't judge that." if '"f1"' in asked else "Yes"
        return "I cannot help with that." if '"f2"' in asked else "words " + tokens_of(body)[0]

    found = score([task._replace(others=()) for task in tasks_of(4)], serve(script).url, tmp_path / "c")
    assert [one.status for one in found] == ["scored", "unreadable", "unexplained", "scored"]
    assert [one.score for one in found] == [0.5, 0.0, 0.0, 1.0]
    assert [one.test[:2] for one in found] == [(4, 2), (4, 0), (0, 0), (4, 4)]
    assert [(one.test.unreadable, one.test.refusals) for one in found] == [(2, 0), (0, 4), (0, 0), (0, 0)]
    assert found[2].explanations_refused == 1
    summary = summarize(table(found), table([]), 0)
    assert (summary.unreadable, summary.refusals, summary.unexplained, summary.judged) == (2, 4, 1, 12)
    assert (summary.scored, summary.interpretable, summary.score.mean) == (4, 2, 0.375)


def test_features_without_answers_are_failed_and_not_zero(serve: Callable[..., JudgeServer], tmp_path: Path):
    from tests.comsem.server import Reply, perfect

    def script(body: dict[str, Any], times: int) -> Any:
        return (
            Reply(status=400, body='{"error": {"message": "too long"}}')
            if '"f1"' in asked_of(body)
            else perfect(body, times)
        )

    tasks = [task._replace(others=()) for task in tasks_of(3)]
    found = score(tasks, serve(script).url, tmp_path / "c")
    assert [one.status for one in found] == ["scored", "failed", "scored"]
    assert "too long" in found[1].error
    summary = summarize(table(found), table([]), 0)
    assert (summary.activated, summary.scored, summary.failed, summary.score.mean) == (3, 2, 1, 1.0)
    again = score(tasks, serve(perfect).url, tmp_path / "c")
    assert [one.status for one in again] == ["scored"] * 3


def test_of_several_explanations_the_best_on_its_own_examples_is_tested(
    serve: Callable[..., JudgeServer], tmp_path: Path
):
    """Three explanations: one fits 2 of 5 examples, one 4, one 3; held-out examples have no say in the choice."""
    fits = {"first": 2, "second": 4, "third": 3}

    def script(body: dict[str, Any], _times: int) -> str:
        asked = asked_of(body)
        if not is_judgement(body):
            return ["first", "second", "third"][body.get("seed", 0)]
        name = next(name for name in fits if f'"{name}"' in asked)
        number = int(asked.split("is here ")[1][0])
        return "Yes" if (number < fits[name] if number < 5 else name != "second") else "No"

    (found,) = score([tasks_of(2)[0]._replace(others=())], serve(script).url, tmp_path / "c", interpretations=3)
    assert (found.explanation, found.score) == ("second", 0.0)
    assert [(one.explanation, one.fit) for one in found.candidates] == [("first", 0.4), ("second", 0.8), ("third", 0.6)]


def test_a_perfect_judge_scores_1_above_a_chance_of_0(serve: Callable[..., JudgeServer], tmp_path: Path):
    from tests.comsem.server import perfect

    summary = summarize(table(score(tasks_of(12), serve(perfect).url, tmp_path / "c")), table([]), 0)
    assert (summary.score, summary.chance, summary.above_chance) == ((1, 1, 1), (0, 0, 0), (1, 1, 1))


def test_a_coin_is_at_chance(serve: Callable[..., JudgeServer], tmp_path: Path):
    summary = summarize(table(score(tasks_of(40), serve(coin).url, tmp_path / "c")), table([]), 0)
    assert 0.4 < summary.score.mean < 0.6
    assert summary.above_chance.low < 0 < summary.above_chance.high


def test_a_coin_that_explains_only_half_is_at_chance(serve: Callable[..., JudgeServer], tmp_path: Path):
    """What has no explanation counts as 0 on its own tokens and on another's."""

    def script(body: dict[str, Any], times: int) -> Any:
        odd = not is_judgement(body) and int(tokens_of(body)[0][1:]) % 2
        return "I cannot help with that." if odd else coin(body, times)

    found = table(score(tasks_of(40), serve(script).url, tmp_path / "c"))
    assert (found["status"] == "unexplained").sum() == 20
    assert found[found["status"] == "unexplained"]["chance"].tolist() == [0.0] * 20
    summary = summarize(found, table([]), 0)
    assert summary.chance.mean < 0.4
    assert summary.above_chance.low < 0 < summary.above_chance.high


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Features whose true score is .6 against a chance of .5, many times over."""
    from bae_ray.comsem.scoring import Judgement

    generator = np.random.default_rng(0)
    covered = 0
    for repeat in range(200):
        scores = [
            FeatureScore(i, "scored", "x", yes / 8, Judgement(8, yes, float("nan"), 0, 0),
                         Judgement(8, other, float("nan"), 0, 0), 0)
            for i, (yes, other) in enumerate(zip(generator.binomial(8, 0.6, 40).tolist(),
                                                 generator.binomial(8, 0.5, 40).tolist(), strict=True))
        ]  # fmt: skip
        interval = summarize(table(scores), table([]), repeat).above_chance
        covered += interval.low <= 0.1 <= interval.high
    assert 180 <= covered <= 199
