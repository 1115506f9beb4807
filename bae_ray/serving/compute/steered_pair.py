"""Two continuations of a text, steered and plain, written together token by token."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from bae_ray.feature_model import FeatureModel
from bae_ray.serving.compute.decoded_text import DecodedText
from bae_ray.serving.compute.interface import Side, Steering, WrittenText, WrittenToken
from bae_ray.steering.edits import SteeringEdit
from bae_ray.steering.generation import GenerationConfig, write
from bae_ray.steering.steered_model import SteeredModel


class SteeredPair:
    """The continuations. Both draw by the same random numbers, so that only the edits tell them apart."""

    def __init__(self, model: FeatureModel, text: str, steering: Steering) -> None:
        """Raises `InvalidInputError` for a text that is empty or too long, and for edits that do not fit."""
        edits = model.edits(steering.add, steering.clamp, steering.tokens)
        self._sides = [_Side("steered", model, text, steering, edits), _Side("plain", model, text, steering, [])]

    def next(self) -> list[WrittenToken]:
        """The next token of each text that has not ended; none once both have."""
        return [token for side in self._sides if (token := side.next()) is not None]

    def written(self) -> list[WrittenText]:
        """Both texts, once no token follows."""
        return [side.written() for side in self._sides]


class _Side:
    """One of them."""

    def __init__(
        self,
        side: Side,
        model: FeatureModel,
        text: str,
        steering: Steering,
        edits: Sequence[SteeringEdit],
    ) -> None:
        self._side: Side = side
        self._most, self._ids = steering.max_new_tokens, list[int]()
        prompt, tokenizer = model.token_ids(text), cast(Any, model.model.tokenizer).backend_tokenizer
        config = GenerationConfig(
            max_new_tokens=steering.max_new_tokens, temperature=steering.temperature, seed=steering.seed
        )
        self._tokens: Iterator[int] = write(SteeredModel(model.model), prompt, config, edits)
        self._decoded = DecodedText(tokenizer, prompt)

    def next(self) -> WrittenToken | None:
        if (token := next(self._tokens, None)) is None:
            return None
        self._ids.append(token)
        return WrittenToken(self._side, token, self._decoded.add(token))

    def written(self) -> WrittenText:
        self._decoded.finish()
        return WrittenText(self._side, self._ids, self._decoded.text, ended=len(self._ids) < self._most)
