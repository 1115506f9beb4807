"""Activations to containers of the codec, and back."""

from fastapi import APIRouter, Request, Response

from bae_ray.serving.compute.interface import Operation
from bae_ray.serving.http import responses, sizes
from bae_ray.serving.http import schemas as s
from bae_ray.serving.http.bodies import container_of
from bae_ray.serving.http.media_types import BYTES, MEDIA
from bae_ray.serving.http.openapi import errors, produces, takes
from bae_ray.serving.http.parameters import Arrays, Contents, EncoderId, SchemeOption, Table, Threshold
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.request import EncoderRequest, aside
from bae_ray.serving.http.service import Service


def compressed(service: Service) -> APIRouter:
    """The routes compress and decompress."""
    router = APIRouter(tags=["compression"])

    @router.post("/v1/encoders/{encoder_id}/compress", **takes(s.EncodeBody),
                 **produces(s.CompressAnswer, *errors(), codec=True))  # fmt: skip
    async def compress(
        request: Request, encoder_id: EncoderId, scheme: SchemeOption = "entropy", threshold: Threshold = None,
        table: Table = "reference",
    ) -> Response:  # fmt: skip
        """Activations as a container of the codec: the answer itself, or in JSON as base64.

        It is safetensors with `table=embedded`, else bytes of its own format (application/octet-stream); `Accept:
        application/x-safetensors` asks for either.
        """
        incoming = await EncoderRequest.of(service, request, encoder_id)
        if not incoming.entry.binary:
            raise Problem("not_binary", "This encoder's latents are real numbers: only codes can be compressed.")
        if threshold is not None and scheme != "indices":
            raise Problem("invalid", "threshold goes with the scheme indices.")
        if threshold is not None and incoming.entry.lacks_prior:
            raise Problem("no_prior", "This encoder came without firing rates, by which a threshold is measured.")
        x = await incoming.vectors()
        data = await service.call(incoming.entry, "compress", x, scheme, threshold, table)
        incoming.expect_bytes(sizes.written_bytes(len(data), incoming.answer))
        return await aside(
            incoming.answer, len(data), responses.container, data, len(x), incoming.entry, incoming.answer
        )

    @router.post(
        "/v1/encoders/{encoder_id}/decompress",
        **takes(s.DecompressBody, codec=True),
        **produces(s.DecompressAnswer, *errors("corrupt")),
    )
    async def decompress(
        request: Request,
        encoder_id: EncoderId,
        format: Contents = "x",  # noqa: A002
        arrays: Arrays = "nested",
    ) -> Response:
        """The activations in a container, or its codes."""
        incoming = await EncoderRequest.of(service, request, encoder_id)
        if not incoming.entry.binary:
            raise Problem("not_binary", "This encoder's latents are real numbers: it has made no container.")
        data, rows = await incoming.parsed(container_of, incoming.d_latent, incoming.limits, taken=(*MEDIA, BYTES))
        incoming.keep(len(data), rows)
        packed = format == "packed"
        incoming.expect(sizes.planned(incoming.entry, Operation("pack" if packed else "decode"), rows), arrays)
        made = await service.call(incoming.entry, "decompress", data, packed)
        return await incoming.arrays(made, arrays)

    return router
