"""Asking the judge: a client of any server that speaks OpenAI's chat completions.

Every answer is recorded before it is used, and equal requests are sent once. After failures that may pass (a dropped
connection, a busy server, an invalid body) a request is repeated a bounded number of times; other failures end the run.
"""

import asyncio
import contextlib
import logging
import os
from typing import Any, Self

import openai

from bae_ray import meters
from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.answers import CHOICES
from bae_ray.comsem.completions import Answer
from bae_ray.comsem.config import JudgeConfig
from bae_ray.comsem.dialect import REMEDIES, Dialect, cause_of
from bae_ray.comsem.judge_prompts import Message
from bae_ray.comsem.reachability import unreachable
from bae_ray.comsem.retrying import Pause, TryAgainError, retry_after
from bae_ray.comsem.usage import Account, Usage
from bae_ray.errors import JudgeError, RefusedRequestError, UnansweredError

TOP_LOGPROBS = 20
"""Largest number that hosted servers allow."""
THINKING_LOGPROBS = 5
"""For a reasoning model: each token of its reasoning has them as well."""
DECISION_TOKENS = 8
"""For a word, and quotation marks or blanks that unconstrained models put around it."""
EXPLANATION_TOKENS = 64
MAX_RETRY_AFTER_S = 600.0
GIVE_UP_AFTER = 16
"""Number of requests in a row without any answer, after which the server counts as gone."""
REFUSED_AT_FIRST = 3
"""Number of requests rejected before any answer, after which the server counts as useless."""
FATAL = {
    401: "Set the key in the environment variable that --judge-key names.",
    403: "Set the key in the environment variable that --judge-key names.",
    404: "Check --judge-url (it ends in /v1) and --judge-model.",
}


class Judge:
    """The client of a judge; an asynchronous context manager over an open cache."""

    def __init__(self, config: JudgeConfig, cache: AnswerCache) -> None:
        self._config, self._cache = config, cache
        self._dialect = Dialect(cache, config.judge_id or config.judge_url, config.judge_model)
        self._account = Account(config, cache)
        self._pause = Pause(config.backoff_s)
        self._free = asyncio.Semaphore(config.in_flight)
        self._alone = asyncio.Lock()
        self._opened = False
        self._refused = 0
        self._under_way: dict[str, asyncio.Future[Answer]] = {}
        self._unanswered = 0
        self._fatal: JudgeError | None = None

    async def __aenter__(self) -> Self:
        _be_quiet()
        self._client = openai.AsyncOpenAI(
            base_url=self._config.judge_url,
            api_key=os.environ.get(self._config.judge_key) or "none",
            timeout=self._config.timeout_s,
            max_retries=0,  # we try again ourselves: counted, and with the whole client waiting
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    @property
    def usage(self) -> Usage:
        """What asking has come to so far."""
        return self._account.usage

    async def decide(self, messages: list[Message]) -> Answer:
        """Ask for Yes or No, constrained to them and with their probabilities where the server can; see `ask`."""
        wanted = {
            "max_tokens": DECISION_TOKENS + self._config.reasoning,
            "structured_outputs": {"choice": list(CHOICES)},
            "logprobs": True,
            "top_logprobs": THINKING_LOGPROBS if self._config.reasoning else TOP_LOGPROBS,
        }
        return await self.ask(messages, wanted)

    async def explain(self, messages: list[Message], number: int = 0) -> Answer:
        """Ask for a phrase; those after the first (`number` > 0) are sampled, each with a seed of its own."""
        wanted: dict[str, Any] = {"max_tokens": EXPLANATION_TOKENS + self._config.reasoning}
        if number:
            wanted |= {"temperature": 1.0, "seed": number}
        return await self.ask(messages, wanted)

    async def ask(self, messages: list[Message], wanted: dict[str, Any]) -> Answer:
        """The answer to a request, from the cache or from the server.

        Raises `UnansweredError` where it cannot be had for this request, and `JudgeError` or `CostLimitError` where no
        other will be answered either.
        """
        request = {"temperature": 0.0, **wanted, "model": self._config.judge_model, "messages": messages}
        name = repr(sorted((key, value) for key, value in request.items()))
        if name in self._under_way:
            return await asyncio.shield(self._under_way[name])
        future = asyncio.get_running_loop().create_future()
        self._under_way[name] = future
        meters.put("bae_ray_judge_waiting", len(self._under_way))
        try:
            answer = await self._answer(request)
            future.set_result(answer)
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else JudgeError("interrupted"))
            future.exception()  # retrieved: nobody else may be waiting for it
            raise
        finally:
            del self._under_way[name]
            meters.put("bae_ray_judge_waiting", len(self._under_way))
        return answer

    async def _answer(self, request: dict[str, Any]) -> Answer:
        if found := self._cached(request):
            return found
        async with self._free:
            if found := self._cached(request):  # what the server rejects may be known by now
                return found
            reason = ""
            for attempt in range(1, self._config.attempts + 1):
                if self._fatal:
                    raise self._fatal
                try:
                    return await self._attempt(request)
                except TryAgainError as error:
                    reason = str(error)
                    if attempt < self._config.attempts:
                        self._account.count("retried")
                        await self._pause.after(attempt, error.wait)
        self._unanswered += 1
        if self._unanswered >= GIVE_UP_AFTER:
            raise self._stop(
                f"gave no answer to the last {self._unanswered} requests; the last problem: {reason}. See whether the "
                "server is up, and run the same command again."
            )
        raise UnansweredError(f"no answer in {self._config.attempts} attempts; the last problem: {reason}")

    def _cached(self, request: dict[str, Any]) -> Answer | None:
        found = self._cache.get(self._dialect.written(request, self._dialect.withheld))
        if found is not None:
            self._account.count("from_cache")
        return found

    async def _attempt(self, request: dict[str, Any]) -> Answer:
        """Send the request. The first ones go alone, so that rejected parameters are found out only once."""
        async with contextlib.AsyncExitStack() as stack:
            if not self._opened:
                await stack.enter_async_context(self._alone)
            if self._opened:
                await stack.aclose()
            elif self._fatal is None and (reason := await asyncio.to_thread(unreachable, self._config.judge_url)):
                raise self._stop(
                    f"cannot be reached ({reason}). See whether the server is up and --judge-url is right, and run the "
                    "same command again."
                )
            if self._fatal:
                raise self._fatal
            try:
                answer = await self._exchange(request)
            except TryAgainError:
                self._opened = True
                raise
            self._opened = True
            return answer

    async def _exchange(self, request: dict[str, Any]) -> Answer:
        """Send the request, again without each parameter that the server rejects."""
        await self._pause.before_sending()
        withheld = self._dialect.withheld
        while True:
            sent = self._dialect.written(request, withheld)
            body = dict(sent["body"])
            extra = {key: body.pop(key) for key in ("structured_outputs",) if key in body}
            try:
                async with self._account.reserve(request):
                    self._account.count("sent")
                    raw = await self._client.chat.completions.with_raw_response.create(**body, extra_body=extra or None)
                    answer = _answer_in(raw)
                    self._account.pay(request, sent, answer)  # before anything else can happen
            except TryAgainError:
                self._account.pay_for_lost(request)
                raise
            except openai.APITimeoutError as error:
                self._account.pay_for_lost(request)
                raise TryAgainError(f"no answer within {self._config.timeout_s:g} s") from error
            except openai.APIConnectionError as error:
                # By name: the class is of whichever HTTP client the openai package has chosen.
                if type(error.__cause__).__name__ != "ConnectError":
                    self._account.pay_for_lost(request)
                raise TryAgainError(f"connection failed ({error.__cause__ or error})") from error
            except openai.APIStatusError as error:
                message = str(error.body or error)
                refused = self._dialect.refused(error.status_code, message, sent["body"], withheld)
                if refused is None:
                    raise self._status_error(error) from error
                withheld |= {refused}
                continue
            except openai.OpenAIError as error:
                raise TryAgainError(f"{type(error).__name__}: {error}") from error
            self._unanswered = 0
            self._dialect.accept(sent["body"], withheld)
            self._account.count_answer(answer)
            return answer

    def _status_error(self, error: openai.APIStatusError) -> Exception:
        status, reason = error.status_code, f"HTTP {error.status_code}: {str(error.message)[:300]}"
        if status in FATAL or "insufficient_quota" in str(error.body):
            remedy = FATAL.get(status, "The account has no funds left.")
            return self._stop(f"refuses requests for {self._config.judge_model} ({reason}). {remedy}")
        cause = cause_of(str(error.body or error)) if status in (400, 413, 422, 500) else "other"
        if status in (408, 409, 429) or (status >= 500 and cause == "other"):
            wait = retry_after(error.response.headers.get("retry-after"))
            if wait is not None and wait > MAX_RETRY_AFTER_S:
                return self._stop(f"asks to wait {wait:.0f} s ({reason}). Run the same command again by then.")
            return TryAgainError(reason, wait)
        self._refused += 1
        if not self._account.has_answers and self._refused >= (1 if cause == "template" else REFUSED_AT_FIRST):
            return self._stop(f"does not take the judge's questions ({reason}). {REMEDIES[cause]}")
        if cause == "other":  # a filter's, say: this one cannot be judged
            return RefusedRequestError(f"the server does not take the request ({reason})")
        return UnansweredError(f"the server does not take the request ({reason}). {REMEDIES[cause]}")

    def _stop(self, problem: str) -> JudgeError:
        self._fatal = JudgeError(f"{self._config.judge_url} {problem} Answers so far are kept.")
        return self._fatal


def _be_quiet() -> None:
    """Keep libraries from logging each request, unless the application has set their levels."""
    for name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def _answer_in(raw: Any) -> Answer:
    try:
        return Answer.of_body(raw.http_response.json())
    except ValueError as error:  # no JSON, or none of a chat completion
        raise TryAgainError(f"the answer is not what it should be ({str(error)[:200]})") from error
