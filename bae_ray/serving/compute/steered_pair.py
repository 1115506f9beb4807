"""Two continuations of a text, steered and plain, written together token by token."""

from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from bae_ray.feature_model import FeatureModel
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
        """Both texts, as far as they are written."""
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
        tokenizer: Any = model.model.tokenizer
        self._tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self._most = steering.max_new_tokens
        self._prompt, self._ids = model.token_ids(text), list[int]()
        config = GenerationConfig(
            max_new_tokens=steering.max_new_tokens, temperature=steering.temperature, seed=steering.seed
        )
        self._tokens: Iterator[int] = write(SteeredModel(model.model), self._prompt, config, edits)
        self._decoded = DecodeStream(ids=self._prompt, skip_special_tokens=False)

    def next(self) -> WrittenToken | None:
        if (token := next(self._tokens, None)) is None:
            return None
        self._ids.append(token)
        # Nothing yet where a character takes more tokens.
        text = self._decoded.step(self._tokenizer, token) or ""
        return WrittenToken(self._side, token, text)

    def written(self) -> WrittenText:
        before, after = map(self._decode, (self._prompt, self._prompt + self._ids))
        return WrittenText(self._side, self._ids, after[len(before) :], ended=len(self._ids) < self._most)

    def _decode(self, ids: list[int]) -> str:
        """Text of token ids, of which the first are always the same: so is its beginning."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))
