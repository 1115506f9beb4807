"""Answers: from computed arrays to HTTP responses.

Shapes: N rows, F d_latent, T tokens, K the largest kept, B = ceil(F / 8) bytes of a packed code.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pydantic_core
from safetensors.numpy import save
from starlette.responses import Response

from bae_ray.compression import read_header
from bae_ray.serving.compute.interface import Operation, TextActivations, unpack
from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http import schemas as s
from bae_ray.serving.http.arrays import Style
from bae_ray.serving.http.media_types import BYTES, JSON, SAFETENSORS, Media
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.registry.entry import Entry

Format = Literal["packed", "indices", "magnitudes"]
UNPACKED_BYTES = 1 << 22
"""Bits that are unpacked at a time, a byte each."""
CHUNK_NUMBERS = 1 << 16
"""Numbers that are converted to Python at a time."""


def info(entry: Entry, limits: LimitsConfig) -> s.EncoderInfo:
    """The description of an encoder."""
    published = s.Limits(**{name: getattr(limits, name) for name in s.Limits.model_fields})
    if entry.config is None:
        return s.EncoderInfo(id=entry.id, status="broken", reason=entry.reason, version=entry.version, limits=published)
    d_in, d_latent = entry.config.widths()
    config = entry.config.model_dump(mode="json")
    return s.EncoderInfo(
        id=entry.id,
        status="ready",
        version=entry.version,
        architecture=config["architecture"],
        binary=entry.binary,
        d_in=d_in,
        d_latent=d_latent,
        n_features=entry.n_features,
        prior_bits=entry.prior_bits,
        origin=entry.origin,
        measures=entry.measures,
        config=config,
        limits=published,
    )


def listing(entries: Sequence[Entry], limits: LimitsConfig, more: bool) -> str:
    """A page of the list of encoders, as JSON; `more`: another page follows."""
    listed = [info(entry, limits) for entry in entries]
    return s.EncoderList(encoders=listed, next=listed[-1].id if more else None).model_dump_json()


def operation(entry: Entry, format_: Format, top_k: int | None) -> Operation:
    """The computation for a format. Raises `not_binary`, `invalid` and `no_prior`."""
    if (format_ == "magnitudes" or top_k is not None) and entry.lacks_prior:
        raise Problem(
            "no_prior",
            "This encoder came without firing rates, and without them all bits that fire are alike: ask for packed "
            "codes, or for indices without top_k.",
        )
    if top_k is not None:
        if format_ == "packed":
            raise Problem("invalid", "top_k goes with the formats indices and magnitudes.")
        if top_k > (n := entry.n_features):
            raise Problem("invalid", f"top_k may be {n} at most: so many features this encoder has.")
        return Operation("top_k", top_k)
    if format_ == "magnitudes":
        return Operation("magnitudes")
    if format_ == "packed" and not entry.binary:
        raise Problem("not_binary", "This encoder's latents are real numbers: ask for magnitudes, or for indices.")
    return Operation("pack")


def arrays(made: Mapping[str, np.ndarray], fields: Mapping[str, Any], media: Media, style: Style) -> Response:
    """An answer of arrays and other fields."""
    return Response(write(made, fields, media, style), media_type=media)


def indices(code: np.ndarray, d_latent: int, fields: Mapping[str, Any], media: Media, style: Style) -> Response:
    """The answer of the latents that fire, from packed codes [N, B]."""
    step = max(1, UNPACKED_BYTES // d_latent)
    flat = np.concatenate(
        [unpack(code[i : i + step], d_latent).nonzero()[1].astype(np.int32) for i in range(0, len(code), step)]
    )
    splits = np.cumsum([0, *np.bitwise_count(code).sum(axis=1, dtype=np.int64)])
    if media == JSON and style == "nested":
        return Response(write_json(fields, {"indices": ragged(flat, splits)}), media_type=media)
    return arrays({"indices": flat, "splits": splits}, fields, media, style)


def container(data: bytes, rows: int, entry: Entry, media: Media) -> Response:
    """The answer of compress: the container itself, which may be safetensors, or in JSON as base64."""
    if media != JSON:
        return Response(data, media_type=BYTES if read_header(data).table == "reference" else media)
    body = s.CompressAnswer(encoder=entry.id, rows=rows, bytes=len(data), data=base64.b64encode(data).decode())
    return Response(body.model_dump_json(), media_type=media)


def texts(found: TextActivations, made: Mapping[str, np.ndarray], about: Mapping[str, Any], media: Media) -> Response:
    """The answer of texts/encode; in safetensors token_ids [T], spans [T, 2], splits, indices and magnitudes [T, K].

    With error [T] and bits [T] where they are in `made`.

    `about`: what it says of the encoder.
    """
    if media != JSON:
        tensors = {"token_ids": found.token_ids, "spans": found.spans, "splits": found.splits, **made}
        return arrays(tensors, {**about, "tokens": found.tokens}, media, "nested")
    listed = [
        write_json({}, {"tokens": in_chunks(_tokens(found, made, start, end))})
        for start, end in pairwise(found.splits.tolist())
    ]
    return Response(write_json(about, {"texts": b"[" + b",".join(listed) + b"]"}), media_type=media)


def _tokens(
    found: TextActivations, made: Mapping[str, np.ndarray], start: int, end: int
) -> Iterator[list[dict[str, Any]]]:
    """Tokens `start` to `end` - 1 for JSON, some at a time."""
    step = max(1, CHUNK_NUMBERS // made["indices"].shape[1])
    fit = [name for name in ("error", "bits") if name in made]
    for first in range(start, end, step):
        here = slice(first, min(first + step, end))
        yield [
            {
                "id": token,
                "text": text,
                "start": begin,
                "end": stop,
                "features": [{"index": i, "magnitude": m} for i, m in zip(indices, magnitudes, strict=True)],
                **dict(zip(fit, values, strict=True)),
            }
            for token, text, (begin, stop), indices, magnitudes, values in zip(
                found.token_ids[here].tolist(), found.tokens[here], found.spans[here].tolist(),
                made["indices"][here].tolist(), made["magnitudes"][here].tolist(),
                np.stack([made[name][here] for name in fit], 1).tolist() if fit else [()] * (here.stop - first),
                strict=True,
            )
        ]  # fmt: skip


def write(arrays: Mapping[str, np.ndarray], fields: Mapping[str, Any], media: Media, style: Style) -> bytes:
    """The body of an answer: arrays, and other fields, which are metadata in safetensors.

    Raises `not_finite` if numbers overflowed.
    """
    for a in arrays.values():
        if a.dtype.kind == "f" and not np.isfinite(a).all():
            raise Problem("not_finite", "The numbers sent are so large that the answer overflows float32.")
    if media == SAFETENSORS:
        # Values that are text stay as they are, so that what reads the metadata need not know JSON.
        metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items() if v is not None}
        return save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, metadata)
    if style == "nested":
        return write_json(fields, {name: nested(a) for name, a in arrays.items()})
    return pydantic_core.to_json({**fields, **{name: _as_base64(a) for name, a in arrays.items()}})


def write_json(fields: Mapping[str, Any], parts: Mapping[str, bytes]) -> bytes:
    """A JSON object of fields, and of parts that are JSON already."""
    texts = [pydantic_core.to_json({**fields})[1:-1], *(b'"%s":%s' % (k.encode(), v) for k, v in parts.items())]
    return b"{" + b",".join(text for text in texts if text) + b"}"


def nested(a: np.ndarray) -> bytes:
    """An array as nested lists in JSON, some rows at a time: as Python numbers it takes several times more memory."""
    step = max(1, CHUNK_NUMBERS * len(a) // max(1, a.size))
    return in_chunks(a[start : start + step].tolist() for start in range(0, len(a), step))


def ragged(flat: np.ndarray, splits: np.ndarray) -> bytes:
    """Lists of different lengths in JSON; row i is flat[splits[i] : splits[i + 1]]."""
    return in_chunks([flat[a:b].tolist()] for a, b in pairwise(splits.tolist()))


def in_chunks(chunks: Iterable[list[Any]]) -> bytes:
    """A JSON list from pieces of it."""
    return b"[" + b",".join(text for chunk in chunks if (text := pydantic_core.to_json(chunk)[1:-1])) + b"]"


def _as_base64(a: np.ndarray) -> dict[str, Any]:
    return {"data": base64.b64encode(a.tobytes()).decode(), "dtype": a.dtype.name, "shape": list(a.shape)}
