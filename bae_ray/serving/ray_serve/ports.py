"""Addresses of this machine to listen at."""

import socket

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port of the loopback address at which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def url_of(host: str, port: int) -> str:
    """What a client is given."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
