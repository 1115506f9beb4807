"""A quick check whether a server listens at an address, before long work and many attempts."""

import queue
import socket
import threading
import urllib.parse
import urllib.request

WITHIN_S = 2.0
"""Longer than a name look-up or a handshake that succeeds takes."""


def unreachable(url: str, within_s: float = WITHIN_S) -> str:
    """Why no server can answer at an address; empty where one listens, or where that is not known in time."""
    address = urllib.parse.urlsplit(url)
    host = address.hostname or ""
    if urllib.request.getproxies().get(address.scheme) and not urllib.request.proxy_bypass(host):
        return ""  # the proxy knows
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
    except ValueError as error:
        return str(error)
    found: queue.SimpleQueue[str] = queue.SimpleQueue()
    # In a thread that nobody waits for: a look-up of a name cannot be given up.
    threading.Thread(target=lambda: found.put(_connect(host, port, within_s)), daemon=True).start()
    try:
        return found.get(timeout=within_s)
    except queue.Empty:
        return ""


def _connect(host: str, port: int, within_s: float) -> str:
    try:
        socket.create_connection((host, port), within_s).close()
    except TimeoutError:
        return ""  # a busy server may take longer, and attempts are bounded
    except (OSError, UnicodeError) as error:
        what = f"the name {host} cannot be looked up" if isinstance(error, socket.gaierror | UnicodeError) else ""
        return f"{what or f'port {port} of {host}'}: {getattr(error, 'strerror', None) or error}"
    return ""
