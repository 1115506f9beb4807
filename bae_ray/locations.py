"""Locations that are not on this machine, as paths that stand for them, so that all else needs to know paths alone.

`s3://bucket/runs?region=eu` is `CACHE/bae_ray-locations/s3@region=eu/bucket/runs` on every machine. What is written
there by `bae_ray.files` is in the bucket first; what is read there was brought from it. A path says of itself where it
belongs, so any process can tell. It holds no credentials: each machine has them in its environment.
"""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import BeforeValidator, PlainSerializer

from bae_ray.disk import cache_folder
from bae_ray.errors import InvalidInputError

SHOWN_OPTIONS = (
    "allow_bucket_creation", "allow_bucket_deletion", "blob_storage_authority", "blob_storage_scheme",
    "dfs_storage_authority", "dfs_storage_scheme", "enable_tls", "endpoint_override", "force_virtual_addressing",
    "project_id", "region", "replication", "retry_limit_seconds", "scheme", "tls_ca_dir_path", "tls_ca_file_path",
    "tls_verify_certificates",
)  # fmt: skip
"""Options in a URI's query that tell where and how, and no secret."""

COPIES = "bae_ray-locations"
"""The folder of the cache under which paths stand for what is elsewhere."""
NO_HOST = "@"
URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://?")
"""Also where a path was made of it, which has lost a slash."""


def without_credentials(location: str) -> str:
    """A location as it may be shown and written down.

    A URI loses its user and password, and of its options all that are not known to hold no secret.
    """
    if "://" not in location:
        return location
    parts = urlsplit(location)
    options = [(name, value) for name, value in parse_qsl(parts.query) if name in SHOWN_OPTIONS]
    query = urlencode(options, safe=":/")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment="").geturl()


def without_options(location: str) -> str:
    """A URI without its query; a path as it is."""
    return location.partition("?")[0] if URI.match(location) else location


def local_path(location: str | Path) -> Path:
    """The path for a location: of this machine's as it is, of a URI the one that stands for it.

    Raises `InvalidInputError` for a URI with credentials or options that may be secret, since it is written down.
    """
    begun = URI.match(text := str(location))
    if begun is None:
        return Path(location)
    uri = f"{begun[1]}://{text[begun.end() :]}"
    if begun[1] == "file":
        return Path("/") / urlsplit(uri).path.lstrip("/")
    if (told := without_credentials(uri)).partition("?")[0] != uri.partition("?")[0]:
        raise InvalidInputError(
            f"{told} is given with a user or a password, which lists of processes and configs would show. Leave them "
            "out, and set them in the environment of every machine, such as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY."
        )
    parts = urlsplit(uri)
    options = parse_qsl(parts.query, keep_blank_values=True)
    if unknown := [name for name, _ in options if name not in SHOWN_OPTIONS]:
        raise InvalidInputError(
            f"{told} is given with the option {unknown[0]}, which may be a secret; expected only "
            f"{', '.join(SHOWN_OPTIONS)}. Set others in the environment."
        )
    if ".." in Path(parts.path).parts:
        raise InvalidInputError(f"{told} has '..' in its path: give the path without it.")
    system = quote(f"{parts.scheme}@{urlencode(options, safe=':')}", safe="@=&:")
    return cache_folder().absolute() / COPIES / system / (parts.netloc or NO_HOST) / parts.path.strip("/")


def location_of(path: Path) -> str | None:
    """The URI that a path stands for; None for a path of this machine's."""
    _, marked, rest = str(path).partition(f"/{COPIES}/")
    if not marked:
        return None
    system, _, place = rest.partition("/")
    scheme, _, options = unquote(system).partition("@")
    host, slash, inner = place.partition("/")
    return f"{scheme}://{'' if host == NO_HOST else host}{slash}{inner}" + (f"?{options}" if options else "")


def shown(path: Path) -> str:
    """A path, or what it stands for without its options, as messages have it."""
    return str(path) if (location := location_of(path)) is None else location.partition("?")[0]


def with_locations(text: str) -> str:
    """A text with the locations in place of the paths that stand for them."""
    root = re.escape(f"{cache_folder().absolute() / COPIES}/")
    return re.sub(rf"{root}[^\s'\"]+", lambda found: shown(Path(found[0])), text)


def _written(path: Path) -> str:
    return location_of(path) or str(path)


def _named(location: str) -> str:
    return str(local_path(location)) if isinstance(location, str) and URI.match(location) else location


Place = Annotated[Path, BeforeValidator(local_path), PlainSerializer(_written, when_used="json")]
"""A path, or a URI in its place: the field holds the path that stands for it, and the URI is written down."""
PlaceName = Annotated[
    str, BeforeValidator(_named), PlainSerializer(lambda name: location_of(Path(name)) or name, when_used="json")
]
"""The same where what is given may be something else, such as an id on a hub."""
