"""A test that a model's vector depends only on the text up to its own token.

The model is run on a few short texts before a corpus is tokenised for it.

Shapes: S = layers x sites, T tokens, D hidden size.
"""

import gc
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bae_ray.activations.capture import Capture
from bae_ray.activations.compute import Work, load
from bae_ray.activations.config import Precision
from bae_ray.activations.layout import Probe
from bae_ray.activations.model import load_tokenizer
from bae_ray.activations.parts import stack_of
from bae_ray.activations.taps import Tap
from bae_ray.errors import BaeRayError, InvalidInputError, first_line

LENGTHS = (20, 12)
"""Lengths of the random texts in tokens."""
TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.1}
"""Largest mean distance of vectors relative to their length that rounding explains. With 16 bits, rounding can also
change the choice of a mixture-of-experts router."""


class _Compared(NamedTuple):
    """The largest average difference over layers and sites, and where it is."""

    difference: float
    at: Tap


def probe(work: Work, device: str, texts: Sequence[Sequence[int]] | None = None, cut: int | None = None) -> Probe:
    """Load the model and test it; see `probe_loaded`. Raises `InvalidInputError` also if it cannot be loaded."""
    try:
        return probe_loaded(load(work, device), work, device, texts, cut)
    finally:
        gc.collect()  # the model and its hooks hold each other


def probe_loaded(
    model: PreTrainedModel,
    work: Work,
    device: str,
    texts: Sequence[Sequence[int]] | None = None,
    cut: int | None = None,
) -> Probe:
    """Compare a model's vectors for texts alone and in a padded batch, whole and cut, and with later tokens changed.

    `texts` are token ids of different lengths, by default random ones. `cut` is where an extraction cuts them, by
    default the middle. With `work.label_tokens`, the model has its head.

    Raises `InvalidInputError` where the model cannot be run, or its vectors depend on other texts or later tokens.
    """
    ids = [torch.tensor(text) for text in texts or _made_up(work, model)]
    try:
        capture = Capture(model, work.layers, work.sites, answers=work.label_tokens is not None, shared=True)
        found, numbering = _compare(work, capture, ids, cut, device), _numbering(work, model, capture, ids[0], device)
    except BaeRayError:
        raise
    except Exception as error:  # whatever the code of some architecture raises
        raise InvalidInputError(
            f"model '{work.model.name}', a {type(model).__name__}, cannot read a text: {type(error).__name__}: "
            f"{first_line(error)} Give another model."
        ) from error
    _refuse(work, found)
    return Probe(
        texts="made up" if texts is None else "of the corpus",
        tokens=sum(map(len, ids)),
        tolerance=TOLERANCE[work.dtype],
        later_token=found["later_token"].difference,
        batched=found["batched"].difference,
        cut=found["cut"].difference,
        numbering=numbering,
    )


def _made_up(work: Work, model: PreTrainedModel) -> list[list[int]]:
    """Texts of random tokens, without special ones such as those for an image or the end."""
    fields = {**model.config.to_dict(), **model.config.get_text_config().to_dict()}
    other = {value for name, value in fields.items() if "token" in name and isinstance(value, int)}
    special = {*load_tokenizer(work.model).all_special_ids, *other}
    ordinary = [token for token in range(work.model.vocabulary) if token not in special] or [0]
    generator = torch.Generator().manual_seed(0)
    longest = work.model.max_positions or max(LENGTHS)
    lengths = [max(1, min(length, longest * length // max(LENGTHS))) for length in LENGTHS]
    draws = [torch.randint(len(ordinary), (length,), generator=generator).tolist() for length in lengths]
    return [[ordinary[i] for i in draw] for draw in draws]


def _compare(work: Work, capture: Capture, ids: list[Tensor], cut: int | None, device: str) -> dict[str, _Compared]:
    """The distances of the vectors, by what was changed."""
    worst = {name: _Compared(0.0, capture.taps[0]) for name in ("later_token", "batched", "cut")}

    def run(batch: Tensor, row: int, length: int) -> Tensor:
        index = torch.arange(length) + row * batch.shape[1]
        asked = index[-1:].to(device) if work.label_tokens is not None else None
        return capture(batch.to(device), index.to(device), asked)[0].float().cpu()

    def compare(name: str, expected: Tensor, found: Tensor) -> None:
        for tap, of_tap, other in zip(capture.taps, expected, found, strict=True):
            difference = _difference(of_tap, other)
            if difference > worst[name].difference:
                worst[name] = _Compared(difference, tap)

    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    for row, text in enumerate(ids):
        length = len(text)
        alone = run(text[None], 0, length)
        _check_finite(work, capture, alone)
        if work.batch_size != 1:
            compare("batched", alone, run(padded, row, length))
        end = min(cut or length // 2, length - 1)
        if end < 1:
            continue
        compare("cut", alone[:, :end], run(text[None, :end], 0, end))
        changed = torch.cat([text[:end], ids[row - 1][:1].expand(1), text[end:-1]])  # another token there, all shifted
        compare("later_token", alone[:, :end], run(changed[None], 0, end))
    return worst


def _difference(expected: Tensor, found: Tensor) -> float:
    """Relative distance of vectors [T, D], averaged over those that are finite in both."""
    finite = torch.isfinite(expected).all(1) & torch.isfinite(found).all(1)
    expected, found = expected[finite].double(), found[finite].double()
    lengths = expected.norm(dim=1).clamp_min(1e-12)
    return float(((expected - found).norm(dim=1) / lengths).mean()) if len(expected) else 0.0


def _check_finite(work: Work, capture: Capture, vectors: Tensor) -> None:
    for tap, of_tap in zip(capture.taps, vectors, strict=True):
        if not torch.isfinite(of_tap).all(1).any():
            raise InvalidInputError(
                f"model '{work.model.name}' gives nothing but NaN or infinite numbers at layer {tap.layer}, {tap.site} "
                f"({work.dtype}). Try --dtype bfloat16 or float32."
            )


def _refuse(work: Work, found: dict[str, _Compared]) -> None:
    """Raise `InvalidInputError` where a difference is larger than rounding explains."""
    told = {
        "later_token": ("tokens see those after them", "Give a decoder-only model, which reads from left to right."),
        "batched": (
            "vectors of a text depend on the texts beside it in a batch",
            "Give --batch-size 1, or another model.",
        ),
        "cut": ("vectors depend on how much of the text follows", "Give another model."),
    }
    for name, worst in found.items():
        if worst.difference > TOLERANCE[work.dtype]:
            what, remedy = told[name]
            raise InvalidInputError(
                f"model '{work.model.name}': its {what}: by {worst.difference:.2g} of their length at layer "
                f"{worst.at.layer}, {worst.at.site}, where rounding explains {TOLERANCE[work.dtype]:g}. {remedy}"
            )


def _numbering(work: Work, model: PreTrainedModel, capture: Capture, text: Tensor, device: str) -> str:
    """How our layers correspond to transformers' `hidden_states`."""
    ids, stack = text[None].to(device), model if work.label_tokens is None else stack_of(model)
    with torch.inference_mode():
        theirs = stack(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    vectors, _ = capture(ids, torch.arange(len(text)).to(device), None)
    ours = {tap.layer: found for tap, found in zip(capture.taps, vectors, strict=True) if tap.site == "residual"}
    if not ours:
        return "the input and output of the MLPs"
    if theirs is None:
        return "what block l receives, and after the last layer's norm; transformers gives no hidden_states"

    def same(layer: int, index: int, stream: int | None = None) -> bool:
        if not 0 <= index < len(theirs):
            return False
        other = theirs[index] if stream is None or theirs[index].dim() < 4 else theirs[index][stream]
        mine = ours[layer]
        return other.shape == (1, *mine.shape) and _difference(mine.cpu(), other[0].cpu()) <= TOLERANCE[work.dtype]

    if all(same(layer, layer) for layer in ours):
        return "hidden_states[l]"
    stream = getattr(model.config.get_text_config(), "altup_active_idx", None)
    last = work.model.n_layers
    if stream is not None and all(same(layer, layer, stream) for layer in ours if layer < last):
        return (
            f"hidden_states[l], of its streams the one that blocks compute with, {stream}; the last joins all streams"
        )
    if all(same(layer, layer if layer == last else layer - 1) for layer in ours if layer):
        return "what block l receives: hidden_states[l - 1] of transformers, which begins after the first block here"
    return (
        "what block l receives, and after the last layer's norm; hidden_states of transformers is something else here"
    )
