"""A request under way: what the log and the metrics need to know."""

from bae_ray.serving.http.keys import Caller
from bae_ray.serving.http.limits import HeldMemory


class Exchange:
    """A request under way."""

    def __init__(self, request_id: str, method: str, caller: Caller, held: HeldMemory) -> None:
        self.id, self.method, self.caller, self.held = request_id, method, caller, held
        self.source = caller.name
        """Whose share of the waiting requests it uses: the key's, or without keys the address's."""
        self.encoder: str | None = None
        self.version: str | None = None
        self.rows = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 499  # nginx's status for a client that went away
        self.code: str | None = None
        self._is_counted = False

    def enter(self) -> None:
        """Count the request as worked on, once. Raises `overloaded`."""
        if not self._is_counted:
            self.held.load.enter()
            self._is_counted = True

    def leave(self) -> None:
        """Count the request out, and release its memory."""
        self.held.give_back()
        if self._is_counted:
            self.held.load.leave()
