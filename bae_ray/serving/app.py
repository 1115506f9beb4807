"""The Ray Serve application: the gateway, which speaks HTTP, in front of the encoders and the language models.

No `from __future__ import annotations` here: Ray reads the builder's annotation to make the config of what
`serve deploy` gives it.
"""

import logging

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from bae_ray.cluster import only_machine
from bae_ray.serving.compute.encoders import deployed, encoders
from bae_ray.serving.compute.texts import texts
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.http.key_file import Keyring
from bae_ray.serving.http.keys import Keys, read_keys
from bae_ray.serving.http.problems import RETRY_AFTER_S
from bae_ray.serving.monitoring.metrics import Counted
from bae_ray.serving.ray_serve.capacity import placed
from bae_ray.serving.ray_serve.loopback import listen_like_ray
from bae_ray.serving.registry.registry import Registry

SPARE = 256
"""Requests that a replica takes beyond its limits, so that it can turn them away itself and say that it lives."""
BEHIND_DRAIN_S = 1.0
"""Seconds that replicas behind a gateway which has stopped are given: nobody waits for what they compute."""

log = logging.getLogger("ray.serve")


class Gateway:
    """A replica that speaks HTTP."""

    def __init__(
        self, config: ServiceConfig, keys: Keys, encoders: DeploymentHandle | str, texts: DeploymentHandle | str
    ) -> None:
        """`encoders`, `texts`: the deployments, or the names of their applications."""
        listen_like_ray()
        self._config, self._keys, self._encoders, self._texts = config, keys, encoders, texts

    def __serve_build_asgi_app__(self) -> ASGIApp:
        from bae_ray.serving.http.api import create_app
        from bae_ray.serving.http.middleware import Manners
        from bae_ray.serving.http.service import Service
        from bae_ray.serving.monitoring.metrics import Metrics
        from bae_ray.serving.ray_serve.placement import Room

        context = serve.get_replica_context()
        metrics = Metrics(context.replica_id.unique_id)
        config, encoders, texts = self._config, _handle(self._encoders), _handle(self._texts)
        own = serve.get_deployment_handle(context.deployment, context.app_name)
        room = Room(texts, config.texts, [(own, config.gateway), (encoders, config.encoders)])
        service = Service(config, encoders, texts, metrics, room, own)
        self._service = service
        service.registry.look()
        keys = Keyring(self._keys, self._config.keys_file)
        keys.watch(metrics.keys)
        return Manners(create_app(service, bool(keys)), keys, self._config.limits, metrics)

    async def counted(self) -> Counted:
        """What this replica has counted."""
        return await self._service.counted()

    async def encoders(self) -> dict[str, int]:
        """How many encoders of the registry are ready, and how many broken."""
        ready = [entry.config is not None for entry in (await self._service.entries()).values()]
        return {"ready": sum(ready), "broken": len(ready) - sum(ready)}


def check(config: ServiceConfig) -> Keys:
    """The keys. Raises `InvalidInputError` for a registry or keys that cannot be read."""
    Registry.of(config)
    return read_keys(config.keys_file)  # here: what is in this process's environment need not be in the replicas'


def build(config: ServiceConfig) -> Application:
    """The application of a config, for `serve.run` and as `import_path` of `serve deploy`.

    Raises `InvalidInputError` before anything starts, where `check` or `placed` does.
    """
    keys = check(config)
    config, notes = placed(config, only_machine())
    for note in notes:
        log.warning(note)
    return _gateway(config, keys, encoders(config), texts(config))


def build_apart(config: ServiceConfig) -> tuple[Application, dict[str, Application]]:
    """The gateway, and by name the applications behind it, of a config that has its places; raises what `check` does.

    Serve stops all of an application at once. Where the gateway is one of its own it can be stopped first, and what it
    has taken on still finds the encoders.
    """
    keys = check(config)
    at_once = config.model_copy(update={"drain_s": BEHIND_DRAIN_S})
    behind = {"bae_ray-encoders": encoders(at_once), "bae_ray-texts": texts(at_once)}
    return _gateway(config, keys, *behind), behind


def _handle(deployment: DeploymentHandle | str) -> DeploymentHandle:
    return serve.get_app_handle(deployment) if isinstance(deployment, str) else deployment


def _gateway(config: ServiceConfig, keys: Keys, encoders: Application | str, texts: Application | str) -> Application:
    if config.keys_file is not None:  # replicas run in other folders
        config = config.model_copy(update={"keys_file": config.keys_file.absolute()})
    limits = config.limits
    most = limits.max_inflight + limits.max_waiting + SPARE
    gateway = deployed(serve.ingress()(Gateway), config.gateway, most, config.drain_s).options(
        name="Gateway",
        max_queued_requests=limits.max_inflight,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
    )
    return gateway.bind(config, keys, encoders, texts)
