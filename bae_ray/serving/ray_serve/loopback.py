"""Let replicas listen only where their Ray does."""

from functools import partial
from typing import Any

import ray
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica

EVERYWHERE = "[::]"


def listen_like_ray() -> None:
    """Let this replica's server for other deployments listen where its Ray does.

    Call it in a deployment's constructor: Serve starts the server after that, on all addresses. If Ray itself listens
    at the loopback address only, as `cluster.connect` starts it, nobody else has to reach it.
    """
    here = ray.util.get_node_ip_address()
    if here.startswith("127."):
        replica.add_port_to_grpc_server = partial(_add_port, here)  # pyright: ignore[reportPrivateImportUsage]


def _add_port(here: str, server: Any, address: str) -> int:
    return add_port_to_grpc_server(server, address.replace(EVERYWHERE, here))
