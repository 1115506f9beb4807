"""Asking the judge: a client of any server that speaks OpenAI's chat completions.

Every answer is recorded before it is used, and equal requests are sent once. What may pass (a dropped connection, a
busy server, a body that is no JSON) is tried again, a bounded number of times; what cannot pass ends the run.
"""

import asyncio
import contextlib
import logging
import os
import random
import time
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Self

import openai

from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.answers import CHOICES
from bae_ray.comsem.budget import Budget, estimated_tokens
from bae_ray.comsem.completions import Answer
from bae_ray.comsem.config import JudgeConfig
from bae_ray.comsem.judge_prompts import Message, in_one_turn
from bae_ray.comsem.reachability import unreachable
from bae_ray.comsem.rejected_requests import REMEDIES, cause_of
from bae_ray.errors import JudgeError, RefusedRequestError, UnansweredError

TOP_LOGPROBS = 20
"""The most that hosted servers give."""
THINKING_LOGPROBS = 5
"""Of a judge that thinks: each token of the thought has them, too."""
DECISION_TOKENS = 8
"""A word, and the quotation marks or blanks that unconstrained models put around it."""
EXPLANATION_TOKENS = 64
MAX_BACKOFF_S = 60.0
MAX_RETRY_AFTER_S = 600.0
GIVE_UP_AFTER = 16
"""Requests in a row that get no answer at all: the server is gone."""
REFUSED_AT_FIRST = 3
"""Requests refused before any is answered: the server will take none."""
SYSTEM = "system"
"""Withheld from servers that take no system message: the instructions stand in the user's turn."""
OPTIONAL = ("structured_outputs", "top_logprobs", "seed", "temperature")
"""Parameters that are left out, first to last, where a server takes them not."""
FATAL = {
    401: "Set the key in the environment variable that --judge-key names.",
    403: "Set the key in the environment variable that --judge-key names.",
    404: "Check --judge-url (it ends in /v1) and --judge-model.",
}


class Usage(NamedTuple):
    """What asking came to in this run."""

    sent: int
    """Requests sent, further attempts included."""
    answered: int
    """Answers received."""
    from_cache: int
    """Answers that were paid for before."""
    retried: int
    prompt_tokens: int
    completion_tokens: int
    prefix_tokens: int
    """Of the prompt tokens: those that the server had computed before, if it says so."""
    cost: float
    """Dollars of this run."""
    estimated: int = 0
    """Requests of which it is not known how many tokens they took, since the server does not say or no answer came:
    the cost counts their prompts by their length and the longest answers, the tokens above do not count them."""

    def after(self, first: "Usage") -> "Usage":
        """The sum with the usage of a first question that was then asked again, from the cache."""
        together = Usage(*(a + b for a, b in zip(first, self, strict=True)))
        return together._replace(from_cache=self.from_cache - first.answered)


class _TryAgainError(Exception):
    """An attempt failed in a way that may pass; after `wait` seconds, if the server says when."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Judge:
    """The client; an asynchronous context manager over an open cache."""

    def __init__(self, config: JudgeConfig, cache: AnswerCache) -> None:
        self._config, self._cache = config, cache
        self._id = config.judge_id or config.judge_url
        self._server = f"{self._id} {config.judge_model}"
        self._withheld = cache.withheld(self._server)
        self._accepted: set[frozenset[str]] = set()
        self._budget = Budget(config.input_price, config.output_price, config.max_cost, cache.tokens())
        self._free = asyncio.Semaphore(config.in_flight)
        self._alone = asyncio.Lock()
        self._opened = False
        self._refused = 0
        self._under_way: dict[str, asyncio.Future[Answer]] = {}
        self._not_before = 0.0
        self._unanswered = 0
        self._fatal: JudgeError | None = None
        self._counts = dict.fromkeys(("sent", "answered", "from_cache", "retried", "estimated"), 0)
        self._tokens = dict.fromkeys(("prompt_tokens", "completion_tokens", "prefix_tokens"), 0)

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
        """What asking came to so far."""
        return Usage(**self._counts, **self._tokens, cost=self._budget.spent_now)

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
        try:
            answer = await self._answer(request)
            future.set_result(answer)
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else JudgeError("interrupted"))
            future.exception()  # looked at: nobody else may be waiting for it
            raise
        finally:
            del self._under_way[name]
        return answer

    async def _answer(self, request: dict[str, Any]) -> Answer:
        if found := self._cached(request):
            return found
        async with self._free:
            if found := self._cached(request):  # the server's ways may be known by now
                return found
            reason = ""
            for attempt in range(1, self._config.attempts + 1):
                if self._fatal:
                    raise self._fatal
                try:
                    return await self._attempt(request)
                except _TryAgainError as error:
                    reason = str(error)
                    if attempt < self._config.attempts:
                        self._counts["retried"] += 1
                        await self._wait(attempt, error.wait)
        self._unanswered += 1
        if self._unanswered >= GIVE_UP_AFTER:
            raise self._stop(
                f"gave no answer to the last {self._unanswered} requests; the last problem: {reason}. See whether the "
                "server is up, and run the same command again."
            )
        raise UnansweredError(f"no answer in {self._config.attempts} attempts; the last problem: {reason}")

    def _cached(self, request: dict[str, Any]) -> Answer | None:
        found = self._cache.get(self._sent(request, self._withheld))
        self._counts["from_cache"] += found is not None
        return found

    def _sent(self, request: dict[str, Any], withheld: frozenset[str]) -> dict[str, Any]:
        """The request as it goes to the server, which identifies it."""
        body = {key: value for key, value in request.items() if key not in withheld}
        if "top_logprobs" in withheld:
            body.pop("logprobs", None)
        if SYSTEM in withheld:
            body["messages"] = in_one_turn(request["messages"])
        if "max_tokens" in withheld:  # newer hosted models
            body["max_completion_tokens"] = request["max_tokens"]
        if "seed" in request and "seed" in withheld:  # or samples would be taken for one another
            return {"url": self._id, "sample": request["seed"], "body": body}
        return {"url": self._id, "body": body}

    async def _attempt(self, request: dict[str, Any]) -> Answer:
        """Send the request; the first ones go alone, so that what a server does not take is found out once."""
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
            except _TryAgainError:
                self._opened = True
                raise
            self._opened = True
            return answer

    async def _exchange(self, request: dict[str, Any]) -> Answer:
        """Send the request, as often as it takes to find out which parameters the server does not take."""
        while (early := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(early)
        withheld = self._withheld
        while True:
            sent = self._sent(request, withheld)
            body = dict(sent["body"])
            extra = {key: body.pop(key) for key in ("structured_outputs",) if key in body}
            try:
                async with self._budget.reserve(request["messages"], request["max_tokens"]):
                    self._counts["sent"] += 1
                    raw = await self._client.chat.completions.with_raw_response.create(**body, extra_body=extra or None)
                    answer = _answer_in(raw)
                    tokens = self._tokens_of(request, answer)
                    self._cache.put(sent, answer, tokens)  # before anything else can happen
                    self._budget.pay(*tokens)
            except _TryAgainError:
                self._lose(request)
                raise
            except openai.APITimeoutError as error:
                self._lose(request)
                raise _TryAgainError(f"no answer within {self._config.timeout_s:g} s") from error
            except openai.APIConnectionError as error:
                # By name: the class is of whichever HTTP client the openai package has chosen.
                if type(error.__cause__).__name__ != "ConnectError":
                    self._lose(request)
                raise _TryAgainError(f"connection failed ({error.__cause__ or error})") from error
            except openai.APIStatusError as error:
                refused = self._refused_parameter(error, sent["body"], withheld)
                if refused is None:
                    raise self._status_error(error) from error
                withheld |= {refused}
                continue
            except openai.OpenAIError as error:
                raise _TryAgainError(f"{type(error).__name__}: {error}") from error
            self._count(answer, sent["body"], withheld)
            return answer

    def _tokens_of(self, request: dict[str, Any], answer: Answer) -> tuple[int, int]:
        """Prompt tokens and tokens answered that are paid for; a server that says nothing may think the most."""
        said = answer.prompt_tokens, answer.completion_tokens
        self._counts["estimated"] += 0 in said
        return said[0] or estimated_tokens(request["messages"]), said[1] or request["max_tokens"]

    def _lose(self, request: dict[str, Any]) -> None:
        """Count what a request may have cost whose answer did not come."""
        tokens = estimated_tokens(request["messages"]), request["max_tokens"]
        self._counts["estimated"] += 1
        self._cache.put_lost(tokens)
        self._budget.pay(*tokens)

    def _count(self, answer: Answer, body: dict[str, Any], withheld: frozenset[str]) -> None:
        self._unanswered = 0
        self._accepted.add(frozenset(body))
        if not withheld <= self._withheld:
            self._withheld |= withheld
            self._cache.set_withheld(self._server, self._withheld)
        self._counts["answered"] += 1
        self._tokens["prompt_tokens"] += answer.prompt_tokens
        self._tokens["completion_tokens"] += answer.completion_tokens
        self._tokens["prefix_tokens"] += answer.cached_tokens

    def _refused_parameter(
        self, error: openai.APIStatusError, body: dict[str, Any], withheld: frozenset[str]
    ) -> str | None:
        """The parameter that the server may have refused the request for, if we can do without it."""
        message = str(error.body or error)
        cause = cause_of(message)
        # A template's own complaint comes with other statuses, too.
        if error.status_code not in (400, 422, 500) or frozenset(body) in self._accepted:
            return None
        if cause == SYSTEM and SYSTEM not in withheld:
            return SYSTEM
        if cause != "other" or error.status_code == 500:
            return None
        named = [name for name in (*OPTIONAL, "max_tokens") if name in message and name in body]
        if "logprobs" in message and "top_logprobs" in body:
            named.append("top_logprobs")
        guessed = [name for name in OPTIONAL if name in body and name != "temperature"]
        return next(iter([*named, *guessed]), None)

    def _status_error(self, error: openai.APIStatusError) -> Exception:
        status, reason = error.status_code, f"HTTP {error.status_code}: {str(error.message)[:300]}"
        if status in FATAL or "insufficient_quota" in str(error.body):
            remedy = FATAL.get(status, "The account has no funds left.")
            return self._stop(f"refuses requests for {self._config.judge_model} ({reason}). {remedy}")
        cause = cause_of(str(error.body or error)) if status in (400, 413, 422, 500) else "other"
        if status in (408, 409, 429) or (status >= 500 and cause == "other"):
            wait = _retry_after(error.response.headers.get("retry-after"))
            if wait is not None and wait > MAX_RETRY_AFTER_S:
                return self._stop(f"asks to wait {wait:.0f} s ({reason}). Run the same command again by then.")
            return _TryAgainError(reason, wait)
        self._refused += 1
        if not self._known_to_answer and self._refused >= (1 if cause == "template" else REFUSED_AT_FIRST):
            return self._stop(f"does not take the judge's questions ({reason}). {REMEDIES[cause]}")
        if cause == "other":  # a filter's, say: this one cannot be judged
            return RefusedRequestError(f"the server does not take the request ({reason})")
        return UnansweredError(f"the server does not take the request ({reason}). {REMEDIES[cause]}")

    @property
    def _known_to_answer(self) -> bool:
        return self._counts["answered"] + self._counts["from_cache"] > 0

    def _stop(self, problem: str) -> JudgeError:
        self._fatal = JudgeError(f"{self._config.judge_url} {problem} Answers so far are kept.")
        return self._fatal

    async def _wait(self, attempt: int, told: float | None) -> None:
        """Wait before the next attempt; a time that the server names holds for all requests."""
        if told is not None:
            self._not_before = max(self._not_before, time.monotonic() + told)
            await asyncio.sleep(told)
        # Also after a time that was told, lest all come back at once; and it may have been none.
        longest = min(MAX_BACKOFF_S, self._config.backoff_s * 2 ** (attempt - 1))
        await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing


def _be_quiet() -> None:
    """Keep the libraries below from a line per request, where whoever runs us has set nothing else for them."""
    for name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def _answer_in(raw: Any) -> Answer:
    try:
        return Answer.of_body(raw.http_response.json())
    except ValueError as error:  # no JSON, or none of a chat completion
        raise _TryAgainError(f"the answer is not what it should be ({str(error)[:200]})") from error


def _retry_after(header: str | None) -> float | None:
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
