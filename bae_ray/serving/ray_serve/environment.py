"""Settings of Ray Serve in environment variables.

The processes that Ray starts read them: set them before connecting to Ray. On a cluster, every `ray start` needs them.
"""

import os

PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY_CALLBACK = "bae_ray.serving.proxy:middlewares"
"""Where Serve's proxy gets its middlewares."""
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
"""Log to files only; otherwise Ray prints a line for each encoder here as well."""


def prepare(haproxy: bool = False, quiet: bool = False) -> None:
    """Set the variables that are not set yet."""
    chosen = {**ALWAYS, **(HAPROXY if haproxy else {}), **(QUIET if quiet else {})}
    for name, value in {PROXY_VARIABLE: PROXY_CALLBACK, **chosen}.items():
        os.environ.setdefault(name, value)
