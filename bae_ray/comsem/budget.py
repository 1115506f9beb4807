"""The cost of a judge, kept below a limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bae_ray.comsem.judge_prompts import Message
from bae_ray.errors import CostLimitError

CHARACTERS_PER_TOKEN = 4
"""Roughly, in English text; for estimates."""
TOKENS_PER_MESSAGE = 16
"""Largest number of tokens that a server's template adds to a message."""


def estimated_tokens(messages: list[Message]) -> int:
    """A rough number of prompt tokens of messages."""
    return sum(len(message["content"]) // CHARACTERS_PER_TOKEN + 4 for message in messages)


class Budget:
    """Keeps the dollars spent, and those that requests under way may still cost, below the limit."""

    def __init__(self, input_price: float, output_price: float, limit: float | None, spent: tuple[int, int]) -> None:
        """Prices are per million tokens; `spent` are the prompt and completion tokens that are paid for already."""
        self._prices = (input_price, output_price)
        self._limit = limit
        self._spent = self._before = self.cost(*spent)
        self._reserved = 0.0
        self._changed = asyncio.Condition()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Cost in dollars."""
        return (prompt_tokens * self._prices[0] + completion_tokens * self._prices[1]) / 1e6

    @property
    def spent_now(self) -> float:
        """Dollars paid in this run."""
        return self._spent - self._before

    def pay(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count the tokens of an answer."""
        self._spent += self.cost(prompt_tokens, completion_tokens)

    @asynccontextmanager
    async def reserve(self, messages: list[Message], max_tokens: int) -> AsyncIterator[None]:
        """Reserve the largest cost of a request while it is under way. No token is shorter than a byte.

        Waits while other requests have reserved too much. Raises `CostLimitError` where the limit leaves no room.
        """
        if self._limit is None:
            yield
            return
        longest = sum(len(message["content"].encode()) + TOKENS_PER_MESSAGE for message in messages)
        most = self.cost(longest, max_tokens)
        async with self._changed:
            while self._spent + self._reserved + most > self._limit:
                if self._reserved <= 0:
                    raise CostLimitError(
                        f"${self._spent:.4f} is spent, and the next request may cost ${most:.4f}, which passes "
                        f"--max-cost {self._limit:g}. Answers are kept: raise the limit, and the same command goes on."
                    )
                await self._changed.wait()
            self._reserved += most
        try:
            yield
        finally:
            async with self._changed:
                self._reserved = max(0.0, self._reserved - most) if self._reserved - most > 1e-12 else 0.0
                self._changed.notify_all()
