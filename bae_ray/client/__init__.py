"""The client of the encoder service: `Client`, `AsyncClient`, and an error for every way in which a call can fail."""

from bae_ray.client.array_types import Feature as Feature
from bae_ray.client.clients import AsyncClient as AsyncClient
from bae_ray.client.clients import Client as Client
from bae_ray.client.effects import Continuation as Continuation
from bae_ray.client.effects import Steered as Steered
from bae_ray.client.effects import SteeredToken as SteeredToken
from bae_ray.client.service_errors import AuthenticationError as AuthenticationError
from bae_ray.client.service_errors import DeadlineError as DeadlineError
from bae_ray.client.service_errors import InvalidRequestError as InvalidRequestError
from bae_ray.client.service_errors import NotAllowedError as NotAllowedError
from bae_ray.client.service_errors import NotFoundError as NotFoundError
from bae_ray.client.service_errors import OverloadedError as OverloadedError
from bae_ray.client.service_errors import RequestTooLargeError as RequestTooLargeError
from bae_ray.client.service_errors import ServiceError as ServiceError
from bae_ray.client.service_errors import UnavailableError as UnavailableError
from bae_ray.client.service_errors import UnreachableError as UnreachableError
