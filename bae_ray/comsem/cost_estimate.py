"""An estimate of the requests of a run and their cost, before any is sent."""

from collections.abc import Sequence
from typing import NamedTuple

from bae_ray.comsem.config import JudgeConfig
from bae_ray.comsem.judge import DECISION_TOKENS
from bae_ray.comsem.judge_check import check_prompts
from bae_ray.comsem.judge_prompts import interpret_prompt, judge_prompt
from bae_ray.comsem.scoring import Task
from bae_ray.comsem.usage import estimated_tokens

PHRASE_TOKENS = 8
"""Usual length of an explanation in tokens."""
PLACEHOLDER = "x" * 4 * PHRASE_TOKENS


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
