"""From the examples of features to the tasks for the judge, with the controls; what asking about them will cost."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bae_ray.comsem.config import ExamplesConfig, JudgeConfig, ScoringConfig
from bae_ray.comsem.examples import NO_TOKEN, Ints, Kept
from bae_ray.comsem.judge import DECISION_TOKENS
from bae_ray.comsem.judge_check import check_prompts
from bae_ray.comsem.judge_prompts import interpret_prompt, judge_prompt
from bae_ray.comsem.scoring import Task
from bae_ray.comsem.sentences import Sentences
from bae_ray.comsem.usage import estimated_tokens

PHRASE_TOKENS = 8
"""Usual length of an explanation in tokens."""
PLACEHOLDER = "x" * 4 * PHRASE_TOKENS


def active_features(kept: Kept, examples: ExamplesConfig) -> list[int]:
    """Features with more than n_I examples, in order (Algorithm 1)."""
    return np.flatnonzero(kept.counts >= examples.n_interpret + 1).tolist()


def feature_tasks(kept: Kept, sentences: Sentences, examples: ExamplesConfig, scoring: ScoringConfig) -> list[Task]:
    """Tasks of the active features, or of a sample of them."""
    active = active_features(kept, examples)
    generator = np.random.default_rng([examples.seed, 1])
    if scoring.max_features is not None and scoring.max_features < len(active):
        active = sorted(generator.choice(active, scoring.max_features, replace=False).tolist())
    return _tasks(active, kept.tokens[active], sentences, examples, scoring.shuffled)


def random_tasks(sets: Ints, sentences: Sentences, examples: ExamplesConfig, shuffled: int | None) -> list[Task]:
    """Tasks of random sets [S, n_I + n_T] of tokens; none where the evaluation set has too few tokens for one."""
    if sets.shape[1] <= examples.n_interpret:
        return []
    return _tasks(list(range(len(sets))), sets, sentences, examples, shuffled)


def _tasks(
    features: Sequence[int], tokens: Ints, sentences: Sentences, examples: ExamplesConfig, shuffled: int | None
) -> list[Task]:
    sentences.prepare(int(token) for token in tokens.ravel() if token != NO_TOKEN)
    lists = [
        [sentences.example(int(token), examples.context_tokens) for token in row if token != NO_TOKEN] for row in tokens
    ]
    n = examples.n_interpret
    partner = _others(len(features), shuffled, examples.seed)
    return [
        Task(
            feature=feature,
            interpret=lists[i][:n],
            test=lists[i][n:],
            other=-1 if partner[i] < 0 else features[partner[i]],
            others=() if partner[i] < 0 else lists[partner[i]][n:],
        )
        for i, feature in enumerate(features)
    ]


def _others(n: int, wanted: int | None, seed: int) -> list[int]:
    """Another feature for each of `wanted` of n features (None: all); -1 for the rest."""
    others = np.full(n, -1)
    if n < 2:
        return others.tolist()
    generator = np.random.default_rng([seed, 2])
    order = generator.permutation(n)
    others[order] = np.roll(order, 1)
    if wanted is not None and wanted < n:
        others[generator.permutation(n)[wanted:]] = -1
    return others.tolist()


class Plan(NamedTuple):
    """An estimate for an empty cache."""

    explanations: int
    """Requests for an explanation."""
    judgements: int
    """Requests for Yes or No, the judge's own check included."""
    prompt_tokens: int
    completion_tokens: int
    cost: float
    """Dollars."""


def plan(tasks: Sequence[Task], interpretations: int, config: JudgeConfig) -> Plan:
    """Estimate the requests for scoring these features.

    Equal examples have equal explanations, and equal requests are sent once. So the random sets, which all methods
    share, count once.
    """
    named = {tuple(task.interpret) for task in tasks}
    asked = interpretations * [estimated_tokens(interpret_prompt(examples)) for examples in named]
    questions = {(tuple(task.interpret), example) for task in tasks for example in (*task.test, *task.others)}
    judged = [estimated_tokens(judge_prompt(example, PLACEHOLDER)) for _, example in questions]
    if interpretations > 1:
        own = [estimated_tokens(judge_prompt(example, PLACEHOLDER)) for examples in named for example in examples]
        judged += interpretations * own
    judged += [estimated_tokens(prompt) for prompt in check_prompts()]
    prompt_tokens = sum(asked) + sum(judged)
    completion_tokens = len(asked) * PHRASE_TOKENS + len(judged) * (DECISION_TOKENS // 4)
    completion_tokens += (len(asked) + len(judged)) * config.reasoning
    cost = (prompt_tokens * config.input_price + completion_tokens * config.output_price) / 1e6
    return Plan(len(asked), len(judged), prompt_tokens, completion_tokens, cost)
