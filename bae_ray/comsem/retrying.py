"""Waiting between attempts at a request: longer each time, and as long as the server says."""

import asyncio
import random
import time
from email.utils import parsedate_to_datetime

MAX_BACKOFF_S = 60.0


class TryAgainError(Exception):
    """An attempt failed in a way that may pass; `wait`: the seconds to wait, if the server says so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Pause:
    """The waiting of all requests to one server."""

    def __init__(self, backoff_s: float) -> None:
        self._backoff_s, self._not_before = backoff_s, 0.0

    async def before_sending(self) -> None:
        """Wait as long as the server has told any request to wait."""
        while (early := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(early)

    async def after(self, attempt: int, told: float | None) -> None:
        """Wait after an attempt, counted from 1, that failed; `told`: the seconds that the server has named."""
        if told is not None:
            self._not_before = max(self._not_before, time.monotonic() + told)
            await asyncio.sleep(told)
        # Also after a time that was told, lest all come back at once; and it may have been none.
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
