"""Run an application of Ray Serve at an address of this machine until it is stopped."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from ray import serve
from ray.serve import Application

from bae_ray.cluster import connect
from bae_ray.errors import InvalidInputError, ServiceError
from bae_ray.serving.ray_serve.ports import url_of
from bae_ray.serving.ray_serve.watchdog import KILLING_S, MARGIN_S, end_now

LATE_S = 2.0
"""Serve gives up requests a little later than it was told to."""

log = logging.getLogger("ray.serve")


@contextmanager
def hosted(
    application: Application,
    name: str,
    host: str,
    port: int,
    timeout_s: float | None,
    drain_s: float,
    behind: Mapping[str, Application] | None = None,
) -> Iterator[str]:
    """Start an application; the URL it answers at. At the end, requests under way are finished first.

    `timeout_s`: how long a request may take before Serve's proxy gives it up. `drain_s`: how long one under way may
    take once the application is to stop. `behind`: applications by name that this one calls; they start before it and
    stop after it. Raises `InvalidInputError` if this Ray cluster serves something already, and `ServiceError` if the
    application does not start.
    """
    connect()
    if serve.status().proxies:
        raise InvalidInputError(
            "this Ray cluster already runs Ray Serve, at another address. Add the application to it with "
            "`serve deploy` and its file in serve/, or unset RAY_ADDRESS."
        )
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": host, "port": port, "request_timeout_s": timeout_s},
            logging_config={"log_level": "ERROR"},
        )
        try:
            for other, asked in (behind or {}).items():
                serve.run(asked, name=other, route_prefix=None)
            serve.run(application, name=name, route_prefix="/")
        except RuntimeError as error:
            raise ServiceError(f"{name} did not start: {error}") from error
        yield url_of(host, port)
        _delete(name, drain_s)
    finally:
        serve.shutdown()


def _delete(name: str, drain_s: float) -> None:
    """Stop an application once its requests are finished; `serve.shutdown` does not wait for them."""
    serve.delete(name, _blocking=False)
    end = time.monotonic() + drain_s + LATE_S
    while name in serve.status().applications:
        if time.monotonic() >= end:
            log.warning(f"{name} has requests under way that do not end; they are given up.")
            return
        time.sleep(0.1)


def serve_until_stopped(service: AbstractContextManager[str], drain_s: float, greeting: Callable[[str], str]) -> None:
    """Run a service, as `hosted` starts it, until Ctrl-C or SIGTERM. `greeting(url)` is printed once it is up.

    The first signal lets it finish what is under way, its own start included, for `drain_s`; `MARGIN_S` later the
    process has ended, whatever hangs. A second signal ends it at once.
    """
    connect()  # which takes SIGTERM for itself
    stopped = threading.Event()
    last_s = drain_s + MARGIN_S - KILLING_S
    watchdog = threading.Timer(last_s, end_now, ["the service did not stop in time; it is killed."])
    watchdog.daemon = True

    def stop(*_: object) -> None:
        if stopped.is_set():
            end_now("it ends at once.")
        stopped.set()
        watchdog.start()
        # Not by print: the signal may have come in the middle of one.
        os.write(1, f"stopping: requests under way have {drain_s:g} s; once more, and it ends at once.\n".encode())

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with service as url:
        print(greeting(url), "Ctrl-C ends it.", flush=True)
        stopped.wait()
