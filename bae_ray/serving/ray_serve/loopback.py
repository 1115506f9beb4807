"""Replicas that listen where their Ray does."""

from functools import partial
from typing import Any

import ray
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica

EVERYWHERE = "[::]"


def listen_like_ray() -> None:
    """Have the server for other deployments, of the replica that this process is, listen where its Ray does.

    To be called by a deployment's constructor: Serve starts that server after it. Serve has it listen on all addresses;
    where Ray itself listens at the loopback address only, as `cluster.connect` starts it, there is nobody else to ask.
    """
    here = ray.util.get_node_ip_address()
    if here.startswith("127."):
        replica.add_port_to_grpc_server = partial(_add_port, here)  # pyright: ignore[reportPrivateImportUsage]


def _add_port(here: str, server: Any, address: str) -> int:
    return add_port_to_grpc_server(server, address.replace(EVERYWHERE, here))
