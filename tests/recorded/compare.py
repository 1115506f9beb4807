"""What differs between an observation that was recorded and one of today."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

VOLATILE = "on the same machine"
"""Marks a value that another CPU or other versions of libraries may change: it is compared on the same ones only."""
LIBRARIES = ("numpy", "pyarrow", "tokenizers", "torch", "transformers")


def made_with() -> dict[str, str]:
    """What last digits and other packages' files depend on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {"cpu": cpu.partition(": ")[2], "machine": platform.machine(), **{name: version(name) for name in LIBRARIES}}


def volatile(value: Any) -> dict[str, Any]:
    """The value, marked."""
    return {VOLATILE: value}


def differences(recorded: Any, observed: Any, same_machine: bool, where: str = "") -> list[str]:
    """A line for each place at which they differ.

    Floats may differ in their last digits: they come of logarithms, which no standard rounds. Values that are marked
    as volatile are compared on the same machine with the same libraries only.
    """
    if isinstance(recorded, dict) and isinstance(observed, dict):
        if VOLATILE in recorded and not same_machine:
            return []
        found = [f"{where}/{name}: is gone" for name in recorded if name not in observed]
        found += [f"{where}/{name}: is new" for name in observed if name not in recorded]
        for name in recorded:
            if name in observed:
                found += differences(recorded[name], observed[name], same_machine, f"{where}/{name}")
        return found
    if isinstance(recorded, list) and isinstance(observed, list) and len(recorded) == len(observed):
        pairs = enumerate(zip(recorded, observed, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, same_machine, f"{where}/{i}")]
    if isinstance(recorded, float) and isinstance(observed, float):
        return (
            [] if abs(recorded - observed) <= 1e-5 * max(1, abs(recorded)) else [f"{where}: {recorded} -> {observed}"]
        )
    if type(recorded) is not type(observed) or recorded != observed:
        return [f"{where}: {_short(recorded)} -> {_short(observed)}"]
    return []


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 300 else f"{text[:300]} ... ({len(text)} characters)"
