"""Answers: from what was computed to what is sent.

Shapes: N rows, F d_latent, G features, K the largest kept.
"""

import base64
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from starlette.responses import Response

from bae_ray.autoencoders import BAEConfig
from bae_ray.serving import schemas as s
from bae_ray.serving.arrays import NESTED_NUMBER_BYTES, Style, write
from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.media import JSON, Media
from bae_ray.serving.operations import Operation, unpack
from bae_ray.serving.problems import Problem
from bae_ray.serving.registry import Entry
from bae_ray.serving.texts import TextActivations

Format = Literal["packed", "indices", "magnitudes"]
FEATURE_BYTES = 48


def info(entry: Entry, limits: LimitsConfig) -> s.EncoderInfo:
    """What is said of an encoder."""
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
        n_features=n_features(entry),
        prior_bits=entry.prior_bits,
        origin=s.EncoderOrigin(**entry.origin._asdict()) if entry.origin else None,
        measures=entry.measures,
        config=config,
        limits=published,
    )


def n_features(entry: Entry) -> int:
    """Rows of the dictionary."""
    assert entry.config is not None
    _, d_latent = entry.config.widths()
    return d_latent // entry.config.bits_per_feature if isinstance(entry.config, BAEConfig) else d_latent


def operation(entry: Entry, format_: Format, top_k: int | None) -> Operation:
    """What to compute for a format. Raises `not_binary` and `invalid`."""
    if top_k is not None:
        if format_ == "packed":
            raise Problem("invalid", "top_k goes with the formats indices and magnitudes.")
        if top_k > (n := n_features(entry)):
            raise Problem("invalid", f"top_k may be {n} at most: so many features this encoder has.")
        return Operation("top_k", top_k)
    if format_ == "magnitudes":
        return Operation("magnitudes")
    if format_ == "packed" and not entry.binary:
        raise Problem("not_binary", "This encoder's latents are real numbers: ask for magnitudes, or for indices.")
    return Operation("pack")


def check_size(entry: Entry, wanted: Operation, n: int, limits: LimitsConfig) -> None:
    """Raise `answer_too_large` before anything is computed; what is written is counted once more then."""
    width = {"magnitudes": 4 * n_features(entry), "top_k": 8 * wanted.top_k}.get(wanted.name, 0)
    if n * width > limits.max_response_bytes:
        raise Problem(
            "answer_too_large",
            f"The answer would take more than {limits.max_response_bytes} bytes. Send fewer rows, or set top_k.",
        )


def encoded(
    made: dict[str, np.ndarray],
    fields: dict[str, Any],
    format_: Format,
    top_k: int | None,
    media: Media,
    style: Style,
    limits: LimitsConfig,
) -> Response:
    """The answer of encode."""
    if format_ == "indices" and top_k is not None:
        made = {"indices": made["indices"]}
    if format_ == "indices" and top_k is None:
        row, index = unpack(made["code"], fields["d_latent"]).nonzero()
        splits = np.searchsorted(row, np.arange(len(made["code"]) + 1)).astype(np.int64)
        if media == JSON and style == "nested":
            if len(index) * NESTED_NUMBER_BYTES > limits.max_response_bytes:
                raise Problem("answer_too_large", "The answer would be too large. Send fewer rows, or set top_k.")
            listed = [part.tolist() for part in np.split(index, splits[1:-1])]
            return Response(write({}, {**fields, "indices": listed}, media, style, 0), media_type=media)
        made = {"indices": index.astype(np.int32), "splits": splits}
    return arrays(made, fields, media, style, limits)


def arrays(
    made: Mapping[str, np.ndarray], fields: Mapping[str, Any], media: Media, style: Style, limits: LimitsConfig
) -> Response:
    """An answer of arrays and other fields."""
    return Response(write(made, fields, media, style, limits.max_response_bytes), media_type=media)


def container(data: bytes, rows: int, entry: Entry, media: Media) -> Response:
    """The answer of compress: the container itself, which is safetensors, or in JSON as base64."""
    if media != JSON:
        return Response(data, media_type=media)
    body = s.CompressAnswer(encoder=entry.id, rows=rows, bytes=len(data), data=base64.b64encode(data).decode())
    return Response(body.model_dump_json(), media_type=media)


def texts(
    found: TextActivations, made: Mapping[str, np.ndarray], entry: Entry, media: Media, limits: LimitsConfig
) -> Response:
    """The answer of texts/encode; in safetensors token_ids [T], spans [T, 2], splits, indices and magnitudes [T, K]."""
    assert entry.origin is not None
    about = {"encoder": entry.id, "model": entry.origin.model, "layer": entry.origin.layer, "site": entry.origin.site}
    if media != JSON:
        tensors = {"token_ids": found.token_ids, "spans": found.spans, "splits": found.splits, **made}
        return arrays(tensors, {**about, "tokens": found.tokens}, media, "nested", limits)
    if made["indices"].size * FEATURE_BYTES > limits.max_response_bytes:
        raise Problem("answer_too_large", "The answer would be too large. Send fewer texts, or a smaller top_k.")
    tokens = [
        {
            "id": token,
            "text": text,
            "start": start,
            "end": end,
            "features": [{"index": i, "magnitude": m} for i, m in zip(indices, magnitudes, strict=True)],
        }
        for token, text, (start, end), indices, magnitudes in zip(
            found.token_ids.tolist(), found.tokens, found.spans.tolist(), made["indices"].tolist(),
            made["magnitudes"].tolist(), strict=True,
        )
    ]  # fmt: skip
    splits = found.splits.tolist()
    listed = [{"tokens": tokens[start:end]} for start, end in pairwise(splits)]
    return Response(write({}, {**about, "texts": listed}, media, "nested", 0), media_type=media)
