"""Ports and addresses of this machine."""

import socket

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def url_of(host: str, port: int) -> str:
    """The URL of an address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
