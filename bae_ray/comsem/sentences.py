"""The sentences of an evaluation set, and its tokens within them by character offsets.

Shapes: N tokens of the evaluation set, T tokens of a sentence.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from bae_ray.activations.ragged import Ragged
from bae_ray.activations.store import ActivationStore
from bae_ray.comsem.examples import MAX_TOKENS
from bae_ray.comsem.judge_prompts import Example
from bae_ray.errors import InvalidInputError

TOKENIZED_AT_ONCE = 4096
"""Sentences."""
REPLACEMENT = "\ufffd"


class Window(NamedTuple):
    """A token with its neighbours, each as a piece of the sentence."""

    text: int
    pieces: list[str]
    rows: list[int]
    """Index of each among the evaluation set's tokens; -1 for tokens that are not in it."""
    at: int
    """Index of the token among the pieces."""


class Sentences:
    """The sentences of an evaluation store: token number -> sentence, position, offsets."""

    def __init__(self, store: ActivationStore, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises `InvalidInputError` for a store that does not hold every token of texts."""
        request = store.manifest.request
        if request.positions != ("all",) or request.input["kind"] != "texts":
            raise InvalidInputError(
                f"the store {store.folder} holds positions {list(request.positions)} of {request.input['kind']}; "
                "ComSem needs all tokens of texts. Extract with --positions all --input.kind texts."
            )
        if store.manifest.n >= MAX_TOKENS:
            raise InvalidInputError(
                f"the store {store.folder} holds {store.manifest.n} tokens; expected at most "
                f"{MAX_TOKENS - 1}. Extract fewer."
            )
        table = store.texts_table()
        self._texts = table["text"]
        self._ids = Ragged.of(table["token_ids"])
        self._kept = Ragged.of(table["kept"])
        self._tokenizer = tokenizer
        self._offsets: dict[int, list[tuple[int, int]]] = {}

    @property
    def n_tokens(self) -> int:
        """N."""
        return len(self._kept.values)

    def __len__(self) -> int:
        return len(self._ids)

    def texts_of(self, n_tokens: int) -> int:
        """Number of sentences that the first `n_tokens` tokens come from."""
        return self._place(n_tokens - 1)[0] + 1

    def example(self, token: int, around: int) -> Example:
        """The token with the part of its sentence up to `around` tokens before and after it."""
        text, position = self._place(token)
        offsets, sentence = self._offsets_of(text), self._texts[text].as_py()
        start, end = _trimmed(sentence, *offsets[position])
        first_shown = max(0, position - around)
        shown = [span for span in offsets[first_shown : position + around + 1] if span[0] < span[1]]
        first, last = (min(s for s, _ in shown), max(e for _, e in shown)) if shown else (start, end)
        place = position - first_shown
        if start == end:  # a special token, which the text does not hold
            piece = self._piece(text, position)
            return Example(piece, place, sentence[first:last], 0, 0)
        first = first + len(sentence[first:start]) - len(sentence[first:start].lstrip()) if first_shown else first
        return Example(sentence[start:end], place, sentence[first:last], start - first, end - first)

    def window(self, token: int, around: int) -> Window:
        """The token and at most `around` tokens on either side."""
        text, position = self._place(token)
        kept = self._kept.list(text)
        first_row = int(self._kept.ends[text]) - len(kept)
        first = max(0, position - around)
        positions = range(first, min(len(self._offsets_of(text)), position + around + 1))
        numbers = {int(place): first_row + i for i, place in enumerate(kept)}
        pieces = [self._piece(text, place) for place in positions]
        return Window(text, pieces, [numbers.get(place, -1) for place in positions], position - first)

    def prepare(self, tokens: Iterable[int]) -> None:
        """Tokenise the sentences of these tokens ahead of their use, many at once."""
        texts = sorted({self._place(token)[0] for token in tokens} - self._offsets.keys())
        for start in range(0, len(texts), TOKENIZED_AT_ONCE):
            self._tokenize(texts[start : start + TOKENIZED_AT_ONCE])

    def _place(self, token: int) -> tuple[int, int]:
        text = int(np.searchsorted(self._kept.ends, token, side="right"))
        before = int(self._kept.ends[text - 1]) if text else 0
        return text, int(self._kept.list(text)[token - before])

    def _offsets_of(self, text: int) -> list[tuple[int, int]]:
        if text not in self._offsets:
            self._tokenize([text])
        return self._offsets[text]

    def _tokenize(self, texts: list[int]) -> None:
        encoded: Any = self._tokenizer(
            [self._texts[text].as_py() for text in texts], return_offsets_mapping=True, verbose=False
        )
        for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            stored = self._ids.list(text).tolist()
            if ids[: len(stored)] != stored:
                raise InvalidInputError(
                    f"the tokenizer splits text {text} otherwise than the store does: it is not the one that the store "
                    "was made with. Name that one with --tokenizer."
                )
            self._offsets[text] = [(int(start), int(end)) for start, end in offsets[: len(stored)]]

    def _piece(self, text: int, position: int) -> str:
        """The text of a token with its blanks; the name of a special token.

        Where several tokens are the bytes of one character, the first is the character and the others are a replacement
        character.
        """
        start, end = self._offsets_of(text)[position]
        if start < end and position and self._offsets_of(text)[position - 1][1] >= end:
            return REPLACEMENT
        if start < end:
            before = self._offsets_of(text)[position - 1][1] if position else 0
            sentence = self._texts[text].as_py()
            return sentence[before if sentence[before:start].isspace() else start : end]
        return str(self._tokenizer.convert_ids_to_tokens(int(self._ids.list(text)[position])))


def _trimmed(sentence: str, start: int, end: int) -> tuple[int, int]:
    """Offsets without the blanks around a token, which some tokenizers include; a token of blanks keeps them."""
    inside = sentence[start:end]
    if not inside.strip():
        return start, end
    return start + len(inside) - len(inside.lstrip()), end - (len(inside) - len(inside.rstrip()))
