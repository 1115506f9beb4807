"""Names that a user may have meant."""

import difflib
from collections.abc import Iterable

MOST = 3


def nearest(given: str, known: Iterable[str]) -> str:
    """A question that names the nearest of the known names, such as " Did you mean layers?"; empty if none is near.

    Case counts for nothing, and a dash is an underscore, as in flags. Of names with sections, as training.lr, the last
    parts are compared.
    """
    last: dict[str, list[str]] = {}
    for name in dict.fromkeys(known):
        last.setdefault(_form(name), []).append(name)
    close = difflib.get_close_matches(_form(given), last, MOST)
    found = [name for match in close for name in last[match]][:MOST]
    return f" Did you mean {' or '.join(found)}?" if found else ""


def _form(name: str) -> str:
    return name.rpartition(".")[2].lower().replace("-", "_")
