"""Asking a judge a few questions, for tests of its client."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.completions import Answer
from bae_ray.comsem.config import JudgeConfig
from bae_ray.comsem.judge import Judge
from bae_ray.comsem.judge_prompts import Example, Message, judge_prompt
from bae_ray.comsem.usage import Usage
from tests.comsem.server import JudgeServer

Serve = Callable[..., JudgeServer]


def prompts(n: int) -> list[list[Message]]:
    return [judge_prompt(Example(f"w{i}", i, f"w{i} in a text", 0, 2), "a word") for i in range(n)]


def config(url: str, **changes: Any) -> JudgeConfig:
    return JudgeConfig(judge_url=url, backoff_s=0.01, timeout_s=20, **changes)


def ask(
    settings: JudgeConfig, cache: Path, n: int = 1, explain: bool = False
) -> tuple[list[Answer | Exception], Usage]:
    """Ask n different questions; errors stand in place of answers."""

    async def run() -> tuple[list[Answer | Exception], Usage]:
        with AnswerCache(cache) as opened:
            async with Judge(settings, opened) as judge:
                method = judge.explain if explain else judge.decide
                found = await asyncio.gather(*(method(prompt) for prompt in prompts(n)), return_exceptions=True)
                return found, judge.usage  # pyright: ignore[reportReturnType]

    return asyncio.run(run())


def good(answers: list[Answer | Exception]) -> list[Answer]:
    assert all(isinstance(answer, Answer) for answer in answers), answers
    return answers  # pyright: ignore[reportReturnType]


SYSTEM_REFUSED = json.dumps({"object": "error", "message": "System role not supported", "code": 400})
