"""The client's calls without a service: what it makes of answers that follow an encoder's replacement."""

from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from bae_ray.client import flows
from bae_ray.errors import InvalidInputError

LIMITS = {"max_body_bytes": 1 << 20, "max_rows": 2, "max_response_bytes": 1 << 20}
X = np.zeros((3, 4), np.float32)


def description(latents: int) -> dict[str, Any]:
    return {"id": "e", "status": "ready", "d_latent": latents, "binary": True, "limits": LIMITS}


def answered(flow: Any, latents: list[int], described: int) -> tuple[Any, int]:
    """What a flow returns where the encoder of each answer has so many latents, all of them firing; requests sent."""
    sent, answers = 0, iter(latents)
    call = next(flow)
    while True:
        if call.method == "GET":
            response = httpx.Response(200, json=description(described))
        else:
            sent += 1
            rows, width = (2 if sent % 2 else 1), next(answers)
            code = np.packbits(np.ones((rows, width), bool), axis=1)
            response = httpx.Response(200, content=save({"code": code}, {"d_latent": str(width)}))
        try:
            call = flow.send(response)
        except StopIteration as returned:
            return returned.value, sent


@pytest.mark.parametrize(
    ("latents", "sent"),
    [([44, 44], 2), ([48, 48, 48, 48], 4), ([44, 48, 48, 48], 4)],
    ids=["as known", "replaced before", "replaced between two parts"],
)
def test_no_latent_is_lost_where_an_id_is_taken_by_a_wider_encoder(latents: list[int], sent: int):
    known = {"e": description(44)}
    code, requests = answered(flows.encode(known, "e", X, False, "numpy"), latents, latents[-1])
    assert code.shape == (3, latents[-1])
    assert code.all()
    assert (requests, known["e"]["d_latent"]) == (sent, latents[-1])


def test_an_encoder_that_never_stays_the_same_is_said():
    with pytest.raises(InvalidInputError, match="encoder e is being replaced"):
        answered(flows.encode({"e": description(44)}, "e", X, False, "numpy"), [48, 44] * 3, 44)
