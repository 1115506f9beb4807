"""The calls that let an encoder's language model write or predict with features changed."""

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
    """What it adds to the text; empty while a character needs further tokens."""


class Continuation(NamedTuple):
    """What the model wrote after a text."""

    text: str
    token_ids: list[int]
    ended: bool
    """Whether the model ended the text; otherwise it was cut."""


class Steered(NamedTuple):
    """What a language model wrote with the edits and without, from the same random numbers."""

    steered: Continuation
    plain: Continuation


class SteerOptions(TypedDict, total=False):
    """What is done while a text is written. Missing options have the service's defaults."""

    add: Mapping[int, float] | None
    """By feature: the factor of its direction that is added to the activations."""
    clamp: Mapping[int, float] | None
    """By feature: the value to hold it at, in the encoder's own units."""
    ablate: Sequence[int]
    """Features to hold at 0."""
    tokens: Literal["last", "all"]
    """last (the default): edit from the text's last token on. all: at all tokens."""
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
        """The results of `event_of` for the events of an answer, as they arrive."""

    @sent
    def steer(self, encoder_id: str, text: str, **options: Unpack[SteerOptions]) -> Any:
        """What the encoder's language model writes after a text, with features changed and without: a `Steered`."""
        return _steered((yield _steer(encoder_id, text, options)).json())

    def steer_stream(self, encoder_id: str, text: str, **options: Unpack[SteerOptions]) -> Any:
        """The same as a stream: an iterator (async for `AsyncClient`) of `SteeredToken`s, and last the `Steered`.

        Closing it stops the generation; so does leaving the only `for` loop over it.
        """
        return self.events(_steer(encoder_id, text, options)._replace(accept=EVENTS))

    @sent
    def fidelity(self, encoder_id: str, texts: str | Sequence[str], *, first: bool = True) -> Any:
        """What the language model still predicts on the encoder's reconstruction: a data frame with a row per text.

        Means over `tokens` tokens, in nats. `first`: whether to replace the texts' first tokens too.
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
    """A token, or the whole answer at the end. Raises `ServiceError` for an event that reports a problem."""
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
