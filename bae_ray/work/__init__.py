"""Resumable work, once: units, attempts, retries, what fits, failures, and the executors that run it."""
