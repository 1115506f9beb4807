"""The gateway's replica: it speaks HTTP, in front of the replicas that compute."""

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.http.keys import KeyFile, Keys
from bae_ray.serving.monitoring.counts import Counted
from bae_ray.serving.ray_serve.deployment import listen_like_ray
from bae_ray.serving.registry.entry import count


class Gateway:
    """A replica of the gateway."""

    def __init__(
        self, config: ServiceConfig, keys: Keys, encoders: DeploymentHandle | str, texts: DeploymentHandle | str
    ) -> None:
        """`encoders`, `texts`: the deployments, or the names of their applications."""
        listen_like_ray()
        self._config, self._keys, self._encoders, self._texts = config, keys, encoders, texts

    def __serve_build_asgi_app__(self) -> ASGIApp:
        from bae_ray.serving.http.api import create_app
        from bae_ray.serving.http.middleware import RequestMiddleware
        from bae_ray.serving.http.service import Service
        from bae_ray.serving.monitoring.counts import Metrics
        from bae_ray.serving.ray_serve.placement import Placement

        context = serve.get_replica_context()
        metrics = Metrics(context.replica_id.unique_id)
        config, encoders, texts = self._config, _handle(self._encoders), _handle(self._texts)
        own = serve.get_deployment_handle(context.deployment, context.app_name)
        placement = Placement(texts, config.texts, [(own, config.gateway), (encoders, config.encoders)])
        service = Service(config, encoders, texts, metrics, placement, own)
        self._service = service
        service.registry.look()
        keys = KeyFile(self._keys, self._config.keys_file)
        keys.watch(metrics.keys)
        return RequestMiddleware(create_app(service, bool(keys), config.workbench), keys, self._config.limits, metrics)

    async def counted(self) -> Counted:
        """The metrics of this replica."""
        return await self._service.counted()

    async def encoders(self) -> dict[str, int]:
        """How many encoders of the registry are ready, and how many broken."""
        return count((await self._service.entries()).values())


def _handle(deployment: DeploymentHandle | str) -> DeploymentHandle:
    return serve.get_app_handle(deployment) if isinstance(deployment, str) else deployment
