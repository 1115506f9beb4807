"""The command `bae-ray` as a user can type it here."""

import shutil
import sys
from pathlib import Path


def own_command() -> str:
    """`bae-ray` as a shell finds it: by its name, or beside this process's Python."""
    if shutil.which("bae-ray"):
        return "bae-ray"
    beside = Path(sys.executable).with_name("bae-ray")
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)
