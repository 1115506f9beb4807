"""The Ray Serve application: the gateway, which speaks HTTP, in front of the encoders and the language models.

No `from __future__ import annotations` here: Ray reads the builder's annotation to make the config of what
`serve deploy` gives it.
"""

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.encoders import deployed, encoders
from bae_ray.serving.keys import Keys, read_keys
from bae_ray.serving.problems import RETRY_AFTER_S
from bae_ray.serving.registry import Registry
from bae_ray.serving.texts import texts

HEALTH_CHECKS = 32
"""Requests that a replica takes beyond those it works on, so that it can say that it lives when it is full."""


BEHIND_DRAIN_S = 1.0
"""Seconds that replicas behind a gateway which has stopped are given: nobody waits for what they compute."""


class Gateway:
    """A replica that speaks HTTP."""

    def __init__(
        self, config: ServiceConfig, keys: Keys, encoders: DeploymentHandle | str, texts: DeploymentHandle | str
    ) -> None:
        """`encoders`, `texts`: the deployments, or the names of their applications."""
        self._config, self._keys, self._encoders, self._texts = config, keys, encoders, texts

    def __serve_build_asgi_app__(self) -> ASGIApp:
        from bae_ray.serving.api import create_app
        from bae_ray.serving.manners import Manners
        from bae_ray.serving.metrics import Metrics
        from bae_ray.serving.service import Service

        metrics = Metrics(serve.get_replica_context().replica_id.unique_id)
        service = Service(self._config, _handle(self._encoders), _handle(self._texts), metrics)
        service.registry.look()
        return Manners(create_app(service, bool(self._keys)), self._keys, self._config.limits, metrics)


def build(config: ServiceConfig) -> Application:
    """The application of a config, for `serve.run` and as `import_path` of `serve deploy`.

    Raises `InvalidInputError` for a registry or keys that cannot be read, before anything starts.
    """
    return _gateway(config, encoders(config), texts(config))


def build_apart(config: ServiceConfig) -> tuple[Application, dict[str, Application]]:
    """The gateway, and by name the applications behind it; raises what `build` does.

    Serve stops all of an application at once. Where the gateway is one of its own it can be stopped first, and what it
    has taken on still finds the encoders.
    """
    at_once = config.model_copy(update={"drain_s": BEHIND_DRAIN_S})
    behind = {"bae_ray-encoders": encoders(at_once), "bae_ray-texts": texts(at_once)}
    return _gateway(config, *behind), behind


def _handle(deployment: DeploymentHandle | str) -> DeploymentHandle:
    return serve.get_app_handle(deployment) if isinstance(deployment, str) else deployment


def _gateway(config: ServiceConfig, encoders: Application | str, texts: Application | str) -> Application:
    Registry.of(config)
    keys = read_keys(config.keys_file)  # here: what is in this process's environment need not be in the replicas'
    most = config.limits.max_inflight
    gateway = deployed(serve.ingress()(Gateway), config.gateway, most + HEALTH_CHECKS, config.drain_s).options(
        name="Gateway",
        max_queued_requests=most,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
    )
    return gateway.bind(config, keys, encoders, texts)
