"""From the texts of one shard to its activations: batches, the forward pass, and the model's answers to prompts.

Shapes: N texts, V vectors (N of them, or with position `all` one per token taken), B texts of a batch, T its longest
text, M vectors wanted of a batch, D hidden size.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from bae_ray.activations.batch_limits import TRIED_TOKENS, limits, measured, timed
from bae_ray.activations.capture import Capture
from bae_ray.activations.config import Position, Precision
from bae_ray.activations.download import Copies, Downloads
from bae_ray.activations.layout import Cell
from bae_ray.activations.loading import TORCH_DTYPES, load_model, load_model_with_head
from bae_ray.activations.model import ModelSource
from bae_ray.activations.ragged import Ints, Ragged
from bae_ray.errors import ExtractionError

MAX_CELLS_SHOWN = 10


class Work(NamedTuple):
    """What a worker needs to know."""

    model: ModelSource
    layers: tuple[int, ...]
    sites: tuple[str, ...]
    positions: tuple[Position, ...]
    dtype: Precision
    batch_size: int | None
    batch_tokens: int | None
    compile: bool
    label_tokens: tuple[int, ...] | None
    """For prompts: the first token of each label's word. None: the texts have no labels."""
    gpus: int = 1
    """Number of GPUs that the model's blocks are divided among."""


class Batch(NamedTuple):
    """Texts that go through the model together."""

    texts: Ints
    """Their indices in the shard."""
    token_ids: Tensor
    """[B, T], padded on the right."""
    lengths: Ints


class _Done(NamedTuple):
    """A batch whose vectors are on their way."""

    batch: Batch
    wanted: list[tuple[Ints, Ints]]
    copies: Copies


def load(work: Work, device: str) -> PreTrainedModel:
    """The model, with its head if it is to answer. Raises `InvalidInputError` where it cannot be loaded."""
    devices = [device] if work.gpus == 1 else [f"cuda:{i}" if device == "cuda" else device for i in range(work.gpus)]
    return (load_model if work.label_tokens is None else load_model_with_head)(work.model, work.dtype, *devices)


class ShardComputer:
    """A copy of the model that turns texts into activations."""

    def __init__(self, work: Work, model: PreTrainedModel, device: str) -> None:
        """`model` is what `load` gives; only its parts up to the last layer of the work stay."""
        self._work, self._device = work, device
        self._limits = limits(work.batch_size, work.batch_tokens, device)
        self._answers = work.label_tokens is not None
        self._capture = Capture(model, work.layers, work.sites, answers=self._answers)
        if work.compile:
            self._capture.compile()
        self._downloads = Downloads(device)
        self._measured: dict[str, str] = {}

    @property
    def made_with(self) -> dict[str, str]:
        """All that rounding depends on: the device, the threads of a CPU, the versions of libraries."""
        return {
            "device": torch.cuda.get_device_name() if self._device == "cuda" else "cpu",
            "threads": str(torch.get_num_threads()),
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            **self._measured,
        }

    def measure(self, rows: pa.Table) -> float:
        """Tokens per second of one batch of these texts, of medium length, after two of its texts to warm up."""
        self._limit(rows)
        batches = list(self._batches(Ragged.of(rows["token_ids"])))
        batch = batches[len(batches) // 2]
        started = 0.0
        for part in (Batch(batch.texts[:2], batch.token_ids[:2], batch.lengths[:2]), batch):
            self._wait()
            started = time.perf_counter()
            self._forward(part, torch.tensor([0]))
            self._wait()
        return int(batch.lengths.sum()) / (time.perf_counter() - started)

    def compute(self, rows: pa.Table) -> tuple[dict[Cell, Tensor], pa.Table | None]:
        """The activations [V, D] of every cell, in the order of the texts, and the model's answers to prompts.

        They may not be finite: see `check_finite`.
        """
        self._limit(rows)
        work = self._work
        kept = Ragged.of(rows["kept"]) if "all" in work.positions else None
        n = len(rows) if kept is None else len(kept.values)
        width, dtype = work.model.hidden_size, TORCH_DTYPES[work.dtype]
        vectors: dict[Cell, Tensor] = {
            Cell(tap.layer, tap.site, position): torch.empty(n, width, dtype=dtype)
            for tap in self._capture.taps
            for position in work.positions
        }
        answers = np.zeros((len(rows), 2), dtype=np.int32)
        for done in self._run(Ragged.of(rows["token_ids"]), kept):
            (captured, answered), start = done.copies.wait(), 0
            for position, (source, target) in zip(work.positions, done.wanted, strict=True):
                for tap, found in zip(self._capture.taps, captured, strict=True):
                    vectors[Cell(tap.layer, tap.site, position)][target] = found[start : start + len(source)]
                start += len(source)
            if answered is not None:
                answers[done.batch.texts] = answered.numpy()
        return vectors, _predictions(rows, answers) if self._answers else None

    def _run(self, token_ids: Ragged, kept: Ragged | None) -> Iterator[_Done]:
        """All batches; each is given once the next one is under way on the device."""
        before: _Done | None = None
        for batch in self._batches(token_ids):
            wanted = [_wanted(position, batch, kept) for position in self._work.positions]
            index = torch.from_numpy(np.concatenate([source for source, _ in wanted]))
            done = _Done(batch, wanted, self._downloads.start(*self._forward(batch, index)))
            if before is not None:
                yield before
            before = done
        if before is not None:
            yield before

    def _batches(self, token_ids: Ragged) -> Iterator[Batch]:
        """All texts in batches of similar lengths; the longest first, so that a lack of memory shows at once."""
        lengths = token_ids.lengths
        order = np.argsort(-lengths, kind="stable")
        while len(order):
            longest = int(lengths[order[0]])
            assert self._limits is not None
            texts, order = np.split(order, [self._limits.of(longest)])
            padded = torch.zeros(len(texts), longest, dtype=torch.long)
            for row, text in zip(padded, texts.tolist(), strict=True):
                row[: lengths[text]] = torch.tensor(token_ids.list(text))
            yield Batch(texts, padded, lengths[texts])

    def _limit(self, rows: pa.Table) -> None:
        """Measure which batches pay on this GPU, once, on the texts of a shard, unless they were given."""
        if self._limits is not None:
            return
        ids = Ragged.of(rows["token_ids"])
        middle = int(np.argsort(ids.lengths)[len(ids) // 2])
        length = max(1, int(ids.lengths[middle]))
        text = torch.tensor(ids.list(middle).astype(np.int64))[None]
        of_text = length if "all" in self._work.positions else len(self._work.positions)

        def seconds(tokens: int) -> float:
            n = max(1, tokens // length)
            batch = Batch(np.arange(n), text.expand(n, length), np.full(n, length))
            return timed(lambda: self._forward(batch, torch.arange(n * of_text)))

        # No batch has more texts than a shard.
        most = min(len(ids), self._work.batch_size or len(ids)) * length
        tokens = measured(seconds, [tokens for tokens in TRIED_TOKENS if tokens <= max(most, TRIED_TOKENS[0])])
        self._limits = limits(self._work.batch_size, tokens, self._device)
        self._measured = {"batch_tokens": str(tokens)}

    def _forward(self, batch: Batch, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Activations [S, M, D], and for prompts [B, 2]: the label answered, and the token answered."""
        asked = torch.from_numpy(_last(batch)).to(self._device) if self._answers else None
        captured, logits = self._capture(self._on_device(batch.token_ids), self._on_device(index), asked)
        if logits is None:
            return captured, None
        labels = torch.tensor(self._work.label_tokens, device=logits.device)
        return captured, torch.stack([logits[:, labels].argmax(1), logits.argmax(1)], 1)

    def _on_device(self, tensor: Tensor) -> Tensor:
        """A copy that does not wait for the device."""
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device == "cuda" else tensor

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def _last(batch: Batch) -> Ints:
    """Index of each text's last token among the batch's B T tokens."""
    return np.arange(len(batch.texts)) * batch.token_ids.shape[1] + batch.lengths - 1


def _wanted(position: Position, batch: Batch, kept: Ragged | None) -> tuple[Ints, Ints]:
    """Indices of a position's vectors among the batch's B T tokens, and their rows of the matrix."""
    longest = batch.token_ids.shape[1]
    if position == "last":
        return _last(batch), batch.texts
    if isinstance(position, int):
        return np.arange(len(batch.texts)) * longest + position, batch.texts
    assert kept is not None
    source = [i * longest + kept.list(text) for i, text in enumerate(batch.texts.tolist())]
    target = [
        np.arange(end - length, end)
        for end, length in zip(kept.ends[batch.texts], kept.lengths[batch.texts], strict=True)
    ]
    return np.concatenate(source).astype(np.int64), np.concatenate(target)


def _predictions(rows: pa.Table, answers: np.ndarray) -> pa.Table:
    """What the model answered to each prompt: a label among those there are, and a token among all."""
    return pa.table(
        {
            "text_id": rows["text_id"],
            "label": rows["label"],
            "predicted": pa.array(answers[:, 0], pa.int32()),
            "label_token": rows["label_token"],
            "predicted_token": pa.array(answers[:, 1], pa.int32()),
        }
    )


def check_finite(vectors: dict[Cell, Tensor], rows: pa.Table) -> None:
    """Raise `ExtractionError` that says which cells hold NaN or infinity, how many, and in which text first."""
    kept = Ragged.of(rows["kept"]) if "kept" in rows.column_names else None
    found: list[str] = []
    for cell, matrix in vectors.items():
        finite = torch.isfinite(matrix)
        if not bool(finite.all()):
            row = int((~finite).any(1).nonzero()[0])
            text = row if kept is None else int(np.searchsorted(kept.ends, row, side="right"))
            text_id = rows["text_id"][text].as_py()
            found.append(f"{int((~finite).sum())} NaN or infinite numbers in {cell}, first in text {text_id}")
    if found:
        more = f"; and in {len(found) - MAX_CELLS_SHOWN} more cells" if len(found) > MAX_CELLS_SHOWN else ""
        remedy = " (try --dtype bfloat16 or float32, or leave that text out)"
        raise ExtractionError("; ".join(found[:MAX_CELLS_SHOWN]) + more + remedy)
