"""The encoder service as an application of Ray Serve: the gateway, in front of encoders and language models.

No `from __future__ import annotations` here: Ray reads the builder's annotation to make the config from the `args` of
`serve deploy`.
"""

import logging

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from bae_ray.cluster import only_machine
from bae_ray.serving.compute.encoders import encoders
from bae_ray.serving.compute.texts import texts
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.gateway import Gateway
from bae_ray.serving.http.keys import Keys, read_keys
from bae_ray.serving.http.problems import RETRY_AFTER_S
from bae_ray.serving.ray_serve.deployment import deployed
from bae_ray.serving.ray_serve.fit_check import placed
from bae_ray.serving.registry.registry import Registry

SPARE = 256
"""Requests that a replica accepts beyond its limits, to refuse them itself and to answer health checks."""
BEHIND_DRAIN_S = 1.0
"""Drain time of the replicas behind a gateway that has stopped: nobody waits for their results."""

log = logging.getLogger("ray.serve")


def check(config: ServiceConfig) -> Keys:
    """The keys. Raises `InvalidInputError` if the registry or the keys cannot be read."""
    Registry.of(config)
    return read_keys(config.keys_file)  # here: what is in this process's environment need not be in the replicas'


def build(config: ServiceConfig) -> Application:
    """The application of a config, for `serve.run` and as `import_path` of `serve deploy`.

    Raises `InvalidInputError`, as `check` and `placed` do, before anything starts.
    """
    keys = check(config)
    config, notes = placed(config, only_machine())
    for note in notes:
        log.warning(note)
    return _gateway(config, keys, encoders(config), texts(config))


def build_apart(config: ServiceConfig) -> tuple[Application, dict[str, Application]]:
    """The gateway, and by name the applications behind it. The config has to fit the machine: see `placed`.

    Serve stops a whole application at once. With a gateway of its own, the gateway stops first, and its last requests
    still find the encoders. Raises what `check` does.
    """
    keys = check(config)
    at_once = config.model_copy(update={"drain_s": BEHIND_DRAIN_S})
    behind = {"bae_ray-encoders": encoders(at_once), "bae_ray-texts": texts(at_once)}
    return _gateway(config, keys, *behind), behind


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
