"""Other packages, to measure and test against: each in a virtual environment of its own, made once.

Their requirements often contradict bae_ray's, so they are never installed beside it.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from bae_ray.activations.bundled import cache_folder


def environment(name: str, requirements: list[str]) -> Path:
    """The Python of a virtual environment with `requirements` and with the torch that bae_ray itself runs on.

    It lies in the cache folder under `name` and a hash of what is installed, and is made on the first call, which
    takes minutes; processes that ask for it at the same time wait for one another. Raises
    `subprocess.CalledProcessError` where pip fails, and leaves nothing behind then that a later call would take.
    """
    torch = f"torch=={version('torch')}"
    digest = hashlib.sha256("\n".join([sys.version, torch, *requirements]).encode()).hexdigest()[:8]
    folder = cache_folder() / "peers" / f"{name}-{digest}"
    python, finished = folder / "bin" / "python", folder / "installed.txt"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if finished.exists():
            return python
        print(f"Installing {', '.join(requirements)} into {folder}, once (minutes) ...", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        try:
            _install(python, torch)
        except subprocess.CalledProcessError:
            build = torch.partition("+")[2] or "cpu"  # such a build may be on torch's own index only
            _install(python, "--extra-index-url", f"https://download.pytorch.org/whl/{build}", torch)
        _install(python, torch, *requirements)
        finished.write_text("\n".join([torch, *requirements]) + "\n", encoding="utf-8")
    return python


def _install(python: Path, *what: str) -> None:
    _run(str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *what)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - fixed commands
