"""The version of the package, which pyproject.toml says once."""

from importlib.metadata import PackageNotFoundError, version

NOT_INSTALLED = "0+unknown"
"""Of a folder of sources that nothing was installed from."""


def _version() -> str:
    try:
        return version("bae-ray")
    except PackageNotFoundError:
        return NOT_INSTALLED


__version__ = _version()
