"""Whether the service runs, whether it is ready, and what it has counted."""

from fastapi import APIRouter, Response

from bae_ray.serving.http import schemas as s
from bae_ray.serving.http.media_types import JSON
from bae_ray.serving.http.openapi import produces
from bae_ray.serving.http.service import Service
from bae_ray.serving.monitoring.scrape import CONTENT_TYPE


def health(service: Service) -> APIRouter:
    """The routes livez, readyz and metrics."""
    router = APIRouter(tags=["operations"])

    @router.get("/livez", response_model=s.Alive)
    async def livez() -> s.Alive:
        """Whether the gateway runs. Needs no key."""
        return s.Alive()

    @router.get("/readyz", **produces(s.Alive, "not_ready"))
    async def readyz() -> Response:
        """Whether encoders can be asked. Needs no key."""
        await service.check_ready()
        return Response(s.Alive().model_dump_json(), media_type=JSON)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def get_metrics() -> Response:
        """Counts of all replicas, in Prometheus' format, whichever of the gateway's is asked. Needs no key."""
        return Response(await service.scrape.page(await service.entries()), media_type=CONTENT_TYPE)

    return router
