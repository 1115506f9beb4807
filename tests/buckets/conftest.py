"""A bucket for each module, and a cache for each test."""

from tests.bucket import cache, server

__all__ = ["cache", "server"]
