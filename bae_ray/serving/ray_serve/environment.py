"""Settings of Ray Serve that are variables of the environment.

They are read by the processes that Ray starts, which have them from this one: set them before it connects to Ray. On a
cluster, `ray start` on every node needs them.
"""

import os

PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY_CALLBACK = "bae_ray.serving.proxy:middlewares"
"""What Serve's proxy asks for middlewares."""
ALWAYS = {
    # A proxy that died is found by three checks, one after the other, and the port is closed meanwhile.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    # On a busy machine the next one starts slowly; Serve's 5 s would kill it before it is up, again and again.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # HAProxy is told at once which replica stops
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",  # of a client that sends nothing: an hour, else
}
QUIET_VARIABLE = "RAY_SERVE_LOG_TO_STDERR"
QUIET = {QUIET_VARIABLE: "0"}
"""The log is in its files alone; else Ray prints it here as well, a line for each encoder."""


def prepare(haproxy: bool = False, quiet: bool = False) -> None:
    """Set what is not set already."""
    chosen = {**ALWAYS, **(HAPROXY if haproxy else {}), **(QUIET if quiet else {})}
    for name, value in {PROXY_VARIABLE: PROXY_CALLBACK, **chosen}.items():
        os.environ.setdefault(name, value)
