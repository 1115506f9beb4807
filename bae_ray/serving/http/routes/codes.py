"""Activations to codes, and back."""

from fastapi import APIRouter, Request, Response

from bae_ray.serving.http import responses, sizes
from bae_ray.serving.http import schemas as s
from bae_ray.serving.http.coded_bodies import coded_rows
from bae_ray.serving.http.openapi import errors, produces, takes
from bae_ray.serving.http.parameters import Arrays, EncoderId, Format, TopK
from bae_ray.serving.http.request import EncoderRequest, aside
from bae_ray.serving.http.service import Service


def codes(service: Service) -> APIRouter:
    """The routes encode and decode."""
    router = APIRouter(tags=["encoders"])

    @router.post("/v1/encoders/{encoder_id}/encode", **takes(s.EncodeBody), **produces(s.EncodeAnswer, *errors()))
    async def encode(
        request: Request, encoder_id: EncoderId, format: Format = "packed", top_k: TopK = None,  # noqa: A002
        arrays: Arrays = "nested",
    ) -> Response:  # fmt: skip
        """Encode activations. In safetensors, the body's tensor is `x`, and the answer's are named as in JSON."""
        incoming = await EncoderRequest.of(service, request, encoder_id)
        operation = responses.operation(incoming.entry, format, top_k)
        x = await incoming.vectors()
        fires = operation.name == "pack" and format == "indices"
        planned = sizes.planned(incoming.entry, operation, len(x))
        if format == "indices" and not fires:
            planned = {"indices": planned["indices"]}
        incoming.expect(planned, "base64" if fires else arrays)
        made = await service.compute(incoming.entry, operation, x)
        fields = {"d_latent": incoming.d_latent, "format": format, **({"top_k": top_k} if top_k is not None else {})}
        if fires:
            code = made["code"]
            listed = sizes.listed(code)
            incoming.expect(listed, arrays)
            call = (
                responses.indices,
                code,
                incoming.d_latent,
                {"encoder": incoming.entry.id, **fields},
                incoming.answer,
                arrays,
            )
            return await aside(incoming.answer, sizes.held(listed) + 8 * code.size, *call)
        made = {name: made[name] for name in planned}
        return await incoming.arrays(made, arrays, fields)

    @router.post("/v1/encoders/{encoder_id}/decode", **takes(s.DecodeBody), **produces(s.DecodeAnswer, *errors()))
    async def decode(request: Request, encoder_id: EncoderId, arrays: Arrays = "nested") -> Response:
        """Reconstruct activations from packed codes, from the indices of the latents that fire, or from latents."""
        incoming = await EncoderRequest.of(service, request, encoder_id)
        operation, rows = await incoming.parsed(coded_rows, incoming.entry, incoming.limits)
        incoming.keep(rows.nbytes, len(rows))
        incoming.expect(sizes.planned(incoming.entry, operation, len(rows)), arrays)
        made = await service.compute(incoming.entry, operation, rows)
        return await incoming.arrays(made, arrays)

    return router
