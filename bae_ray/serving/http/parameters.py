"""The parameters of addresses. Unknown ones are refused: they were meant to change something."""

from difflib import get_close_matches
from typing import Annotated, Literal

from fastapi import Path, Query, Request
from fastapi.routing import APIRoute

from bae_ray.compression import Scheme, TableChoice
from bae_ray.serving.http.arrays import Style
from bae_ray.serving.http.problems import Problem

EncoderId = Annotated[str, Path(description="The encoder's id, as /v1/encoders lists it.", examples=["layer10"])]
TopK = Annotated[int | None, Query(ge=1, description="Keep the so many features of the largest magnitude.")]
Arrays = Annotated[Style, Query(description="How arrays look in a JSON answer.")]
Format = Annotated[
    Literal["packed", "indices", "magnitudes"],
    Query(description="The code as bits, the latents that fire, or how strongly each feature is present (burstiness)."),
]
SchemeOption = Annotated[
    Scheme, Query(description="entropy keeps every bit; indices is the paper's list of the bursty latents (A.5).")
]
Threshold = Annotated[
    float | None, Query(ge=-1, le=0, allow_inf_nan=False, description="indices: least burstiness, log2 |code - prior|.")
]
MOST_LISTED = 1000
Limit = Annotated[int, Query(ge=1, le=MOST_LISTED, description="Encoders of a page, at most.")]
After = Annotated[str, Query(description="An id: only encoders whose ids come after it are listed.")]
Table = Annotated[
    TableChoice,
    Query(
        description="reference: the container refers to the encoder's firing rates. embedded: it holds them, is "
        "safetensors, and its codes can be read without the encoder."
    ),
]
Contents = Annotated[Literal["x", "packed"], Query(description="Activations, or codes as packed bits.")]


async def check_parameters(request: Request) -> None:
    """Raise `invalid` for an unknown or repeated parameter of the query."""
    route: APIRoute = request.scope["route"]
    taken = [field.alias for field in route.dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in taken:
            near = get_close_matches(name.lower(), taken, n=3, cutoff=0.5)
            asked = f" Did you mean {' or '.join(near)}?" if near else ""
            listed = f"It takes {', '.join(taken)}." if taken else "It takes none."
            raise Problem("invalid", f"The query has a parameter that this address does not take.{asked} {listed}")
    for name in taken:
        if given.count(name) > 1:
            raise Problem("invalid", f"{name} is in the query more than once.")
