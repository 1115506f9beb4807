"""Errors of calls of the service.

ServiceError
├── UnreachableError       no answer: a wrong address, a service that is down, a connection that broke
├── InvalidRequestError    400, 406, 408, 415, 422: what was sent cannot be worked with
├── AuthenticationError    401
├── NotAllowedError        403
├── NotFoundError          404
├── RequestTooLargeError   413
├── OverloadedError        429, after all retries
├── UnavailableError       503, after all retries
└── DeadlineError          504
"""

from typing import Any

import httpx

from bae_ray.errors import BaeRayError


class ServiceError(BaeRayError):
    """A call failed. `status`, `code` and `request_id` are the answer's (RFC 9457); None if there was no answer."""

    def __init__(
        self, message: str, status: int | None = None, code: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.request_id = status, code, request_id


class UnreachableError(ServiceError):
    """The service gave no answer."""


class InvalidRequestError(ServiceError):
    """The request is invalid; `code` says why."""


class AuthenticationError(ServiceError):
    """The bearer key is missing or unknown."""


class NotAllowedError(ServiceError):
    """The key is not for this encoder."""


class NotFoundError(ServiceError):
    """There is no such encoder, feature or address."""


class RequestTooLargeError(ServiceError):
    """A single row or text exceeds the service's limits."""


class OverloadedError(ServiceError):
    """The service is overloaded, even after all retries."""


class UnavailableError(ServiceError):
    """The encoder is unavailable, even after all retries."""


class DeadlineError(ServiceError):
    """The computation exceeded the service's deadline."""


_BY_STATUS: dict[int, type[ServiceError]] = {
    401: AuthenticationError,
    403: NotAllowedError,
    404: NotFoundError,
    413: RequestTooLargeError,
    429: OverloadedError,
    503: UnavailableError,
    504: DeadlineError,
}


def error_of(response: httpx.Response) -> ServiceError:
    """The error that an answer reports."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):  # from something between here and the service
        problem = {"detail": response.reason_phrase}
    known = {"request_id": response.headers.get("x-request-id")}
    return told_error({**known, **problem, "status": response.status_code})


def told_error(problem: dict[str, Any]) -> ServiceError:
    """The error of problem details (RFC 9457) with their status."""
    status, code, request_id = problem["status"], problem.get("code"), problem.get("request_id")
    kind = _BY_STATUS.get(status)
    if kind is None:
        kind = InvalidRequestError if status < 500 else ServiceError
    message = f"{problem.get('detail') or problem.get('title')} ({status} {code}, request {request_id})"
    return kind(message, status, code, request_id)
