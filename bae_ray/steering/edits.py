"""What is done to a language model's activations: vectors added, features ablated and clamped.

Shapes: B texts, T tokens, D d_in, F d_latent, K features.
"""

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from bae_ray.activations.taps import Tap
from bae_ray.autoencoders import Autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.steering.vectors import check_features
from bae_ray.values import check_finite

Tokens = Literal["last", "all"]
"""last: the prompt's last token and all tokens after it. all: also those before."""


class SteeringEdit(Protocol):
    """An edit of the activations at a tap."""

    tap: Tap
    """Where."""
    tokens: Tokens
    """At which tokens."""

    def of(self, texts: Sequence[int], n_texts: int) -> "SteeringEdit":
        """The edit for these texts out of `n_texts`. Raises `InvalidInputError` if it has another number of texts."""
        ...

    def __call__(self, hidden: Tensor, /) -> Tensor:
        """The activations [B, T, D] that take the place of these."""
        ...


def check_strength(strength: float) -> None:
    """Raise `InvalidInputError` for a strength that is not finite."""
    if not math.isfinite(strength):
        raise InvalidInputError(f"strength is {strength}: expected a finite number, such as 1.")


class AddedVector(SteeringEdit):
    """A vector, times a strength, added to the activations at a tap: one vector for all texts, or one for each."""

    def __init__(self, tap: Tap, vector: Tensor, strength: float = 1.0, tokens: Tokens = "last") -> None:
        """Take one vector [D] for all texts, or one for each, [B, D].

        Raises `InvalidInputError` for another shape or a strength that is not finite; `NotFiniteError`.
        """
        check_strength(strength)
        if vector.ndim not in (1, 2):
            raise InvalidInputError(f"the vector is of shape {tuple(vector.shape)}; expected [d], or [texts, d].")
        check_finite(vector, "the vector")
        self.tap, self.tokens, self._strength = tap, tokens, strength
        self._vector = vector
        self._ready: Tensor | None = None

    @override
    def of(self, texts: Sequence[int], n_texts: int) -> "AddedVector":
        if self._vector.ndim == 1:
            return self
        if len(self._vector) != n_texts:
            raise InvalidInputError(
                f"there are {len(self._vector)} vectors and {n_texts} texts: expected one for each, or one for all."
            )
        return AddedVector(self.tap, self._vector[list(texts)], self._strength, self.tokens)

    @override
    def __call__(self, hidden: Tensor, /) -> Tensor:
        width = self._vector.shape[-1]
        if width != hidden.shape[-1]:
            raise InvalidInputError(
                f"the vector has {width} numbers and the model's activations {hidden.shape[-1]}: it is of another "
                "model."
            )
        if self._ready is None or (self._ready.dtype, self._ready.device) != (hidden.dtype, hidden.device):
            # Once, not for each token: a copy to a GPU is waited for.
            scaled = (self._strength * self._vector).to(hidden.device, hidden.dtype)
            check_finite(scaled, f"the vector times its strength, in {hidden.dtype}".replace("torch.", ""))
            self._ready = scaled if scaled.ndim == 1 else scaled[:, None]
        return hidden + self._ready


class ClampedFeatures(SteeringEdit):
    """Features of an autoencoder held at fixed values, whatever the text is; at 0 they are ablated.

    x + decode(changed latents) - decode(latents): the part of x that the autoencoder does not reconstruct stays. The
    decoder is linear, so only the rows of the chosen latents are added.
    """

    def __init__(
        self,
        tap: Tap,
        autoencoder: Autoencoder,
        features: Sequence[int],
        value: float | Sequence[float] = 0.0,
        tokens: Tokens = "last",
    ) -> None:
        """Clamp the latents `features` at one value, or each at its own, in the autoencoder's units: of a code 0 or 1.

        Raises `InvalidInputError` for latents that there are not, a value that is not finite, and an autoencoder that
        reconstructs other activations than it reads.
        """
        check_features(features, autoencoder.d_latent)
        values = [value] * len(features) if isinstance(value, int | float) else list(value)
        if len(values) != len(features):
            raise InvalidInputError(
                f"there are {len(features)} features and {len(values)} values: expected one for each."
            )
        if wrong := [one for one in values if not math.isfinite(one)]:
            raise InvalidInputError(f"the features' value is {wrong[0]}: expected a finite number; 0 ablates them.")
        if autoencoder.architecture.reconstructs != "input":
            raise InvalidInputError(
                f"a {autoencoder.architecture.label} reads one cell and reconstructs another, so its features "
                "are not part of what it reads. Give an autoencoder of one cell."
            )
        self.tap, self.tokens = tap, tokens
        self._autoencoder = autoencoder.eval()
        self._features = torch.tensor(list(features), device=autoencoder.mean.device)
        self._values = torch.tensor(values, device=autoencoder.mean.device, dtype=autoencoder.mean.dtype)
        check_finite(self._values, "the features' values, in float32")
        rows = autoencoder.latent_directions(self._features).detach()
        self._rows = (rows * autoencoder.target_normalization[1].double()).to(autoencoder.mean.dtype)

    @override
    def of(self, texts: Sequence[int], n_texts: int) -> "ClampedFeatures":
        return self

    @override
    def __call__(self, hidden: Tensor, /) -> Tensor:
        x = hidden.flatten(0, -2)
        with torch.no_grad():
            latents = self._autoencoder.encode(x)[:, self._features]
            change = (self._values - latents) @ self._rows
        return (x + change.to(hidden.dtype)).reshape(hidden.shape)
