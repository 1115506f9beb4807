"""For notebooks: a language model with one trained autoencoder of its activations, on texts.

Shapes: T tokens of a text, D hidden size, G features, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import pandas as pd
import torch
from torch import Tensor
from typing_extensions import override

from bae_ray.activations.config import Position
from bae_ray.activations.layout import Cell
from bae_ray.activations.model import find_model
from bae_ray.activations.taps import Tap
from bae_ray.analysis.features import evaluating
from bae_ray.autoencoders import Autoencoder, load_autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.fidelity.next_token import MEASURES
from bae_ray.fidelity.spliced_text import SplicedText, measured
from bae_ray.fidelity.text_fidelity import TextFidelity
from bae_ray.files import read_text
from bae_ray.interventions.editable_model import EditableModel
from bae_ray.locations import shown
from bae_ray.steering.edits import AddedVector, ClampedFeatures, SteeringEdit, Tokens
from bae_ray.steering.generation import GenerationConfig, generate
from bae_ray.steering.steered_model import SteeredModel, check_tap
from bae_ray.steering.vectors import of_values
from bae_ray.training.config import RunConfig
from bae_ray.training.run_folder import RESULT_FILE, RUN_FILE, RunResult
from bae_ray.working_copies import reading


class TextReconstruction(NamedTuple):
    """Activations of some tokens of a text and their reconstruction."""

    tokens: list[str]
    x: Tensor
    """[n, D]; for a transcoder, the activations of its target."""
    x_hat: Tensor
    """[n, D]."""

    @property
    def relative_error(self) -> Tensor:
        """|x - x_hat|^2 / |x|^2 of each token, [n]. Not the FVU, which divides by a whole set's variance."""
        return (self.x - self.x_hat).square().sum(1) / self.x.square().sum(1)


class FeatureModel:
    """A language model with an autoencoder of its activations at one layer and site.

    Methods take a text, and use the tokens that the autoencoder was trained on: those at its position, or all.
    """

    def __init__(self, model: EditableModel, autoencoder: Autoencoder, cell: Cell, target: Cell | None = None) -> None:
        """`cell` is what the autoencoder encodes, `target` what it reconstructs if that is another one.

        Raises `InvalidInputError` where the language model has no such layer or site, or other activations there.
        """
        self.model, self.autoencoder, self.cell, self.target = model, autoencoder.eval(), cell, target or cell
        for tap, width in (
            (self._read, autoencoder.d_in),
            (self._write, len(autoencoder.target_normalization[0])),
        ):
            check_tap(tap, model.n_layers)
            with model.edited({tap: lambda _: None}):  # raises where a block's MLP cannot be found
                pass
            if width != model.source.hidden_size:
                raise InvalidInputError(
                    f"the autoencoder's activations have {width} numbers, those of the language model have "
                    f"{model.source.hidden_size}. Give the language model of its run."
                )

    @classmethod
    def of_run(cls, folder: str | Path, model: str | None = None, device: str = "cpu") -> Self:
        """The autoencoder of a run, here or at a URI, and its language model: the one that the run names, or another.

        Raises `InvalidInputError` for a folder that is no finished run, and a model that cannot be found.
        """
        folder = reading(folder)
        if not (folder / RESULT_FILE).exists():
            raise InvalidInputError(
                f"{shown(folder)} is no finished run: {RESULT_FILE} is missing. Give the folder of one, RUNS/ID."
            )
        run = RunConfig.model_validate_json(read_text(folder / RUN_FILE))
        result = RunResult.model_validate_json(read_text(folder / RESULT_FILE))
        cell, target = (Cell(it.layer, it.site, it.position) if it else None for it in (run.cell, run.target))
        assert cell is not None
        autoencoder = load_autoencoder(folder).to(device)
        loaded = EditableModel(find_model(model or result.model), "float32", device)
        return cls(loaded, autoencoder, cell, target)

    @override
    def __repr__(self) -> str:
        return f"FeatureModel({self.model.source.name}, {self.autoencoder!r} at {self.cell})"

    def top_features(self, text: str, k: int = 5) -> pd.DataFrame:
        """The k features of largest magnitude at each token: position, token, feature, magnitude.

        Only features that are present. For a binary autoencoder the magnitude is the burstiness.
        """
        places = self._places(text)
        x = self._activations(places.token_ids, self._read)[places.positions]
        with torch.no_grad(), evaluating(self.autoencoder):
            present = self.autoencoder.features_fire(x)
            magnitudes = self.autoencoder.magnitudes(x).masked_fill(~present, -torch.inf)
        values, features = magnitudes.topk(min(k, magnitudes.shape[1]), dim=1)
        rows = [
            (position, token, int(feature), float(value))
            for position, token, of, found in zip(places.positions, places.tokens, features, values, strict=True)
            for feature, value in zip(of, found, strict=True)
            if torch.isfinite(value)
        ]
        return pd.DataFrame(rows, columns=["position", "token", "feature", "magnitude"])

    def reconstruct(self, text: str) -> TextReconstruction:
        """The text's activations and their reconstruction."""
        places = self._places(text)
        found = {tap: self._activations(places.token_ids, tap)[places.positions] for tap in {self._read, self._write}}
        return TextReconstruction(places.tokens, found[self._write], self._reconstruction(found[self._read]))

    def splice(self, text: str) -> pd.DataFrame:
        """What the language model predicts with the reconstruction in place: a row per token.

        Cross-entropies of the next token, KL and Jensen-Shannon divergence are in nats; the last token has no next one,
        so its cross-entropies are NaN. top1_agreement: whether the most probable next token is the same.
        """
        places = self._places(text)
        spliced = self._spliced(places)
        found = spliced.measures(self._reconstruction(spliced.x))
        table = pd.DataFrame(dict(zip(MEASURES, found.numpy(), strict=True)))
        table.insert(0, "token", self._words(places.token_ids))
        return table.assign(top1_agreement=table["top1_agreement"].astype(bool))

    def fidelity(self, text: str, first: bool = True) -> TextFidelity:
        """Means of `splice` over tokens that see the reconstruction, beside those with the mean or zeros in its place.

        `first`: whether to replace a text's first token too, if all tokens are replaced. `pooled` combines many texts.

        Raises `InvalidInputError` for a text with no token to measure.
        """
        places = self._places(text, first)
        spliced = self._spliced(places)
        is_last = self.target.position == "last"  # whose next token is not known: divergences alone
        told = slice(places.positions[0], None if is_last else len(places.token_ids) - 1)
        if told.start == told.stop:
            raise InvalidInputError(
                f"the text has no token after position {told.start}, so that there is none to predict. Give a longer "
                "text."
            )
        mean = self.autoencoder.target_normalization[0]
        known = bool(mean.any())
        return measured(spliced, self._reconstruction(spliced.x), mean if known else None, told)

    def generate(
        self,
        prompt: str,
        add: Mapping[int, float] | None = None,
        clamp: Mapping[int, float] | None = None,
        tokens: Tokens = "last",
        **generation: object,
    ) -> str:
        """What the model writes after a prompt, with features turned up or held at a value.

        `add`: by feature, the factor of its direction that is added to the activations. `clamp`: by feature, the value
        that it is held at; 0 ablates it. Both act from the prompt's last token on, or with tokens="all" on all tokens.
        Further arguments are those of `GenerationConfig`: max_new_tokens, temperature, seed.

        Raises `InvalidInputError` for features that do not exist, and a prompt that is too long.
        """
        config = GenerationConfig.model_validate(generation)
        edits = self.edits(add, clamp, tokens)
        (written,) = generate(SteeredModel(self.model), [self.token_ids(prompt)], config, edits)
        return str(self.model.tokenizer.decode(written.token_ids))

    def edits(
        self, add: Mapping[int, float] | None = None, clamp: Mapping[int, float] | None = None, tokens: Tokens = "last"
    ) -> list[SteeringEdit]:
        """What `generate` does to the activations, for `bae_ray.steering`. Raises what `generate` does for features."""
        edits: list[SteeringEdit] = []
        if add:
            edits.append(AddedVector(self._write, of_values(self.autoencoder, add), 1.0, tokens))
        if clamp:
            edits.append(ClampedFeatures(self._write, self.autoencoder, [*clamp], [*clamp.values()], tokens))
        return edits

    def token_ids(self, text: str) -> list[int]:
        """The text's tokens. Raises `InvalidInputError` for a text without any, or with more than the model takes."""
        ids = list(map(int, self.model.tokenizer(text).input_ids))
        if not ids:
            raise InvalidInputError("the text is empty: expected one token at least.")
        self.model.check_length(len(ids))
        return ids

    @property
    def _read(self) -> Tap:
        return Tap(self.cell.layer, self.cell.site)

    @property
    def _write(self) -> Tap:
        return Tap(self.target.layer, self.target.site)

    def _spliced(self, places: "_Places") -> SplicedText:
        return SplicedText(self.model, places.token_ids, self._read, self._write, places.positions)

    def _places(self, text: str, first: bool = True) -> "_Places":
        ids = self.token_ids(text)
        positions = _positions(self.cell.position, len(ids))
        if self.cell.position == "all" and not first:
            positions = positions[1:]
        words = self._words(ids)
        return _Places(ids, positions, [words[position] for position in positions])

    def _words(self, ids: Sequence[int]) -> list[str]:
        return [str(self.model.tokenizer.decode([token])) for token in ids]

    def _activations(self, ids: Sequence[int], tap: Tap) -> Tensor:
        """[T, D]."""
        batch = torch.tensor([list(ids)], device=self.model.device)
        return self.model.clean(batch, torch.tensor([0], device=self.model.device), [tap]).activations[tap][0]

    def _reconstruction(self, x: Tensor) -> Tensor:
        with torch.no_grad(), evaluating(self.autoencoder):
            return self.autoencoder(x).x_hat


class _Places(NamedTuple):
    """A text's tokens, and those that are used."""

    token_ids: list[int]
    positions: list[int]
    tokens: list[str]


def _positions(position: Position, length: int) -> list[int]:
    if position == "all":
        return list(range(length))
    if position == "last":
        return [length - 1]
    if position >= length:
        raise InvalidInputError(
            f"the text has {length} tokens, and the autoencoder was trained on position {position}. Give a longer text."
        )
    return [position]
