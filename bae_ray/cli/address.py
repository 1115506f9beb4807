"""The address at which a service listens."""

import ipaddress
import socket

from pydantic import Field

from bae_ray.config import Config
from bae_ray.errors import InvalidInputError


class AddressConfig(Config):
    """Where to listen."""

    host: str = "127.0.0.1"
    """Address to listen on. Any address but the loopback one lets other machines in."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""


def check_address(address: AddressConfig) -> None:
    """Raise `InvalidInputError` if the address cannot be listened at."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise InvalidInputError(
                f"cannot listen on {address.host}:{address.port}: {error.strerror}. Give another --port or --host."
            ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
