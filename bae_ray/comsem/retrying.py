"""Waiting between the attempts at a request: longer each time, and as long as the server asks for."""

import asyncio
import random
import time
from email.utils import parsedate_to_datetime

MAX_BACKOFF_S = 60.0


class TryAgainError(Exception):
    """An attempt failed in a way that may pass. `wait` is the number of seconds that the server asks to wait."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Pause:
    """The pauses of all requests to one server."""

    def __init__(self, backoff_s: float) -> None:
        self._backoff_s, self._not_before = backoff_s, 0.0

    async def before_sending(self) -> None:
        """Wait as long as the server has asked of any request."""
        while (early := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(early)

    async def after(self, attempt: int, told: float | None) -> None:
        """Wait after a failed attempt, counted from 1; `told` is the number of seconds that the server asks for."""
        if told is not None:
            self._not_before = max(self._not_before, time.monotonic() + told)
            await asyncio.sleep(told)
        # Also after the time that the server asked for: it may be 0, and requests should not all come at once.
        longest = min(MAX_BACKOFF_S, self._backoff_s * 2 ** (attempt - 1))
        await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing


def retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which gives them or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
