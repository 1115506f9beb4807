"""What the routes use: the encoders by id, and computations with them.

Calls of replicas are repeated if a replica died, cancelled if the client has gone, and their errors become problems.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from bae_ray.errors import CheckpointError, InvalidInputError, UnknownModelError
from bae_ray.fidelity.text_fidelity import TextFidelity
from bae_ray.serving.compute.batching import Batcher
from bae_ray.serving.compute.interface import (
    COMPUTING,
    Operation,
    RefusedError,
    Steering,
    TextActivations,
    TooLongError,
    TooManyTokensError,
    WrittenText,
    WrittenToken,
)
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.http.keys import Caller
from bae_ray.serving.http.limits import Turns
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.replica_calls import GONE, doing, errors_as_problems, message, tried
from bae_ray.serving.monitoring.counts import Counted, Metrics
from bae_ray.serving.monitoring.scrape import ReplicaWatch, Scrape
from bae_ray.serving.ray_serve.placement import Placement
from bae_ray.serving.registry.entry import Entry
from bae_ray.serving.registry.registry import Registry
from bae_ray.serving.time_limits import SlowError

READY_FOR_S = 1.0
READY_TIMEOUT_S = 5.0
ALONE = {"encoders": 16, "texts": 4}
"""Calls without batching at a time per replica. More would wait longer than their clients do."""
PLACE_RETRY_S = 5
"""Seconds to wait before texts are asked for again, if no language model can be placed."""
LOOK_TIMEOUT_S = 2.0
"""How long a request waits for the registry's folder; after that, the last known state answers."""
log = logging.getLogger("ray.serve")
T = TypeVar("T")


class Service:
    """The registry, and the replicas that compute."""

    def __init__(
        self,
        config: ServiceConfig,
        encoders: DeploymentHandle,
        texts: DeploymentHandle,
        metrics: Metrics,
        placement: Placement | None = None,
        gateway: DeploymentHandle | None = None,
    ) -> None:
        """`placement`: of the texts' replicas; without it, texts are always sent to them.

        `gateway`: this replica's own deployment, whose other replicas are asked for their metrics.
        """
        self._placement = placement
        self.config = config
        self.registry = Registry.of(config)
        self.metrics = metrics
        self._encoders, self._texts = encoders, texts
        # As many as all replicas could take, whether they run yet or not: what waits is what Serve scales by.
        concurrent = config.encoders.concurrent_batches * config.encoders.max_replicas
        self._batcher: Batcher[tuple[str, Operation]] = Batcher(self._run, config.encoders.batch_rows, concurrent)
        self._turns_encoders = Turns(ALONE["encoders"] * config.encoders.max_replicas)
        self._turns_texts = Turns(ALONE["texts"] * config.texts.max_replicas)
        self._ready_until = 0.0
        self._looking: asyncio.Future[dict[str, Entry]] | None = None
        deployments = {"encoders": encoders, "texts": texts} | ({"gateway": gateway} if gateway else {})
        self._watch = ReplicaWatch(
            deployments, lambda name: name == "texts" and placement is not None and placement.is_lacking
        )
        self.scrape = Scrape(self.counted, self._watch, deployments)
        self.parsing = asyncio.Lock()
        """Held while a large JSON body is parsed, which takes several times its size: one at a time."""

    async def entries(self) -> dict[str, Entry]:
        """The encoders by id, broken ones included. One thread looks at the folder for all requests."""
        if self.registry.is_stale:
            looking = self._looking
            if looking is None or looking.done():
                looking = self._looking = asyncio.ensure_future(asyncio.to_thread(self.registry.look))
            await asyncio.wait([looking], timeout=LOOK_TIMEOUT_S)
            if looking.done():
                looking.result()
        return self.registry.known

    async def counted(self) -> Counted:
        """The metrics of this replica."""
        calls = {"encoders": self._turns_encoders.taken, "texts": self._turns_texts.taken}
        self.metrics.queued(Counter(key.partition("@")[0] for key, _ in self._batcher.waiting()), calls)
        try:
            self.metrics.came(await self._watch.new())
        except (RayError, SlowError) as error:
            log.warning(f"the replicas cannot be listed: {error}")
        return self.metrics.collected()

    async def entry(self, encoder_id: str, caller: Caller) -> Entry:
        """The encoder of an id. Raises `encoder_not_found` and `not_allowed`."""
        if not caller.may_use(encoder_id):
            raise Problem("not_allowed", "This key is for other encoders.")
        entry = (await self.entries()).get(encoder_id)
        if entry is None:
            raise Problem("encoder_not_found", "The registry has no encoder of this id; GET /v1/encoders lists them.")
        return entry

    async def compute(self, entry: Entry, operation: Operation, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays with a row for each of `rows`: see `operations.compute`."""
        return await self._answered(entry, self._batcher.submit((entry.key, operation), rows))

    async def call(self, entry: Entry, method: str, *arguments: Any, **options: Any) -> Any:
        """A method of `Encoders` that is not batched. Raises `overloaded` where too many are under way."""
        handle = getattr(self._encoders.options(multiplexed_model_id=entry.key), method)
        with self._turns_encoders.one():
            return await self._answered(entry, tried(lambda: handle.remote(*arguments, **options)))

    async def texts(self, entry: Entry, texts: list[str], most: int) -> TextActivations:
        """The activations of every token of texts, of the encoder's own language model; of `most` tokens at most."""
        async with self._language_model(entry):
            call = tried(lambda: self._texts.activations.remote(entry.origin, texts, most))
            return await self._answered(entry, call, asks_texts=True)

    async def fidelity(self, entry: Entry, texts: list[str], first: bool) -> list[TextFidelity]:
        """What the encoder's language model still predicts on its reconstruction of each text."""
        async with self._language_model(entry):
            call = tried(lambda: self._texts.fidelity.remote(entry.origin, entry.key, texts, first))
            return await self._answered(entry, call, asks_texts=True)

    async def steered(
        self, entry: Entry, text: str, steering: Steering
    ) -> AsyncIterator[list[WrittenToken] | list[WrittenText]]:
        """What the encoder's language model writes after a text, as `Texts.steer` gives it. Ends it where it is closed.

        A replica that dies is not asked again: what was given already would come twice.
        """
        until = asyncio.get_running_loop().time() + self.config.limits.deadline_s
        async with self._language_model(entry):
            parts: Any = self._texts.options(stream=True).steer.remote(entry.origin, entry.key, text, steering)
            try:
                while (part := await self._answered(entry, anext(parts, None), True, until)) is not None:
                    yield part
            finally:
                parts.cancel()

    @asynccontextmanager
    async def _language_model(self, entry: Entry) -> AsyncIterator[None]:
        """Around a call of the texts' replicas: its turn, a place for a replica, and its errors as problems."""
        assert entry.origin is not None
        try:
            with self._turns_texts.one():
                if self._placement is not None and (reason := await self._placement.refusal()):
                    raise Problem("unavailable", reason, {"retry-after": str(PLACE_RETRY_S)})
                yield
        except TooManyTokensError as error:
            raise Problem("answer_too_large", message(error)) from error
        except TooLongError as error:
            raise Problem("too_much_text", message(error)) from error
        except RefusedError as error:
            raise Problem("invalid", message(error)) from error
        except UnknownModelError as error:
            log.error(f"encoder {entry.id}: {message(error)}")  # with paths of this machine
            raise Problem("no_language_model", f"The service has no model {entry.origin.model}.") from error
        except InvalidInputError as error:
            raise Problem("no_language_model", message(error)) from error

    async def check_ready(self) -> None:
        """Raise `not_ready` unless an encoders' replica answers."""
        if time.monotonic() < self._ready_until:
            return
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self._encoders.ping.remote()
        except (TimeoutError, RayError, *GONE) as error:
            raise Problem("not_ready", "No replica of the encoders answers yet.") from error
        self._ready_until = time.monotonic() + READY_FOR_S

    @asynccontextmanager
    async def deadline(self, asks_texts: bool = False, until: float | None = None) -> AsyncIterator[None]:
        """Around all that a request has computed. Raises `deadline` where that takes too long together.

        `until`: when that is, by the loop's clock, where it began before.

        Raises `unavailable` where it was no computing: a replica did not start in time, or its model was being loaded.
        """
        try:
            now = asyncio.get_running_loop().time()
            async with asyncio.timeout_at(now + self.config.limits.deadline_s if until is None else until):
                yield
        except TimeoutError as error:
            asked = {"language models": self._texts} if asks_texts else {}
            for called, handle in {**asked, "encoders": self._encoders}.items():
                if (state := await doing(handle)) != COMPUTING:
                    raise Problem("unavailable", f"A replica of the {called} is {state}.") from error
            raise Problem("deadline", "It took too long. Ask for fewer rows, texts or new tokens.") from error

    async def _run(self, key: tuple[str, Operation], parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        encoder, operation = key
        handle = self._encoders.options(multiplexed_model_id=encoder)
        with self.metrics.batch(sum(map(len, parts))):
            return await tried(lambda: handle.compute.remote(operation, parts))

    async def _answered(
        self, entry: Entry, call: Awaitable[T], asks_texts: bool = False, until: float | None = None
    ) -> T:
        """The call's result in time, its errors as problems."""
        try:
            with errors_as_problems(entry.id):
                async with self.deadline(asks_texts, until):
                    return await call
        except CheckpointError as error:
            raise Problem("encoder_broken", self.registry.refuse(entry, message(error))) from error
