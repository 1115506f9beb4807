"""The calls that have an encoder's language model write, or predict, with features changed."""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import pandas as pd
from httpx_sse import ServerSentEvent

from bae_ray.client.endpoints import Calls, sent
from bae_ray.client.requests import EVENTS, Call, Flow, Info, answers, groups, path_of, up_to_date
from bae_ray.client.service_errors import told_error


class SteeredToken(NamedTuple):
    """A token as it is written."""

    side: Literal["steered", "plain"]
    token_id: int
    text: str
    """What it adds to the text; empty where a character takes more tokens."""


class Continuation(NamedTuple):
    """What was written after a text."""

    text: str
    token_ids: list[int]
    ended: bool
    """Whether the model ended it; otherwise it was cut."""


class Steered(NamedTuple):
    """What a language model wrote with the edits, and without, by the same random numbers."""

    steered: Continuation
    plain: Continuation


class SteerOptions(TypedDict, total=False):
    """What is done while a text is written; what is left out is as the service has it."""

    add: Mapping[int, float] | None
    """By feature: how many times its direction is added to the activations."""
    clamp: Mapping[int, float] | None
    """By feature: the value that it is held at, in the encoder's own units."""
    ablate: Sequence[int]
    """Features that are held at 0."""
    tokens: Literal["last", "all"]
    """last: from the text's last token on, as by default. all: at all tokens."""
    max_new_tokens: int
    """32 by default."""
    temperature: float
    """1 by default; 0 takes the likeliest token."""
    seed: int
    """0 by default."""


class EffectCalls(Calls):
    """The calls."""

    @abstractmethod
    def events(self, call: Call) -> Any:
        """What `event_of` makes of the events of an answer, as they come."""

    @sent
    def steer(self, encoder_id: str, text: str, **options: Unpack[SteerOptions]) -> Any:
        """What the encoder's language model writes after a text, with features changed and without: a `Steered`."""
        return _steered((yield _steer(encoder_id, text, options)).json())

    def steer_stream(self, encoder_id: str, text: str, **options: Unpack[SteerOptions]) -> Any:
        """The same as it is written: an iterator of `SteeredToken`s, and at last the `Steered`; of `AsyncClient` async.

        Closing it ends the writing, as the end of a `for` loop that it is only in does.
        """
        return self.events(_steer(encoder_id, text, options)._replace(accept=EVENTS))

    @sent
    def fidelity(self, encoder_id: str, texts: str | Sequence[str], *, first: bool = True) -> Any:
        """What the language model still predicts on the encoder's reconstruction: a data frame with a row per text.

        Means over the `tokens` that count, in nats. `first`: whether the texts' first tokens are replaced as well.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)

        def attempt(info: Info) -> Flow[pd.DataFrame]:
            path, parts = f"{path_of(encoder_id)}/texts/fidelity", list(groups(info["limits"], listed))
            made = yield from answers(
                info, parts, lambda group: Call("POST", path, json={"texts": group, "first": first})
            )
            return pd.DataFrame([text for response in made for text in response.json()["texts"]])

        return (yield from up_to_date(self._known, encoder_id, attempt))


def event_of(event: ServerSentEvent) -> SteeredToken | Steered:
    """A token, or at last the whole answer. Raises the `ServiceError` that an event is."""
    found = json.loads(event.data)
    if event.event == "problem":
        raise told_error(found)
    return SteeredToken(**found) if event.event == "token" else _steered(found)


def _steered(found: dict[str, Any]) -> Steered:
    return Steered(*(Continuation(**found[side]) for side in ("steered", "plain")))


def _steer(encoder_id: str, text: str, options: SteerOptions) -> Call:
    body: dict[str, Any] = {"text": text, **{name: value for name, value in options.items() if value is not None}}
    for name, value in (("add", "strength"), ("clamp", "value")):
        if name in body:
            body[name] = [{"feature": index(feature), value: float(size)} for feature, size in body[name].items()]
    if "ablate" in body:
        body["ablate"] = [index(feature) for feature in body["ablate"]]
    for name in ("max_new_tokens", "seed"):
        if name in body:
            body[name] = index(body[name])
    return Call("POST", f"{path_of(encoder_id)}/texts/steer", json=body)
