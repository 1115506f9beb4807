"""The parameters of an address: one that a route does not have is refused, since it was meant to change something."""

from difflib import get_close_matches

from fastapi import Request
from fastapi.routing import APIRoute

from bae_ray.serving.http.problems import Problem


async def check_parameters(request: Request) -> None:
    """Raise `invalid` for a parameter of the query that the route does not take, or that is there more than once."""
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
