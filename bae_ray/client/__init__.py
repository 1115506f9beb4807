"""The client of the encoder service: `Client`, `AsyncClient`, and an error for every way in which a call can fail."""

from bae_ray.client.clients import AsyncClient as AsyncClient
from bae_ray.client.clients import Client as Client
from bae_ray.client.errors import AuthenticationError as AuthenticationError
from bae_ray.client.errors import DeadlineError as DeadlineError
from bae_ray.client.errors import InvalidRequestError as InvalidRequestError
from bae_ray.client.errors import NotAllowedError as NotAllowedError
from bae_ray.client.errors import NotFoundError as NotFoundError
from bae_ray.client.errors import OverloadedError as OverloadedError
from bae_ray.client.errors import RequestTooLargeError as RequestTooLargeError
from bae_ray.client.errors import ServiceError as ServiceError
from bae_ray.client.errors import UnavailableError as UnavailableError
from bae_ray.client.errors import UnreachableError as UnreachableError
from bae_ray.client.results import Feature as Feature
