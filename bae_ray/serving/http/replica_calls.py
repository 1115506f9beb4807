"""Calls of the replicas that compute: repeated if one died, cancelled if the client has gone; errors as problems."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayActorError, RayError, RaySystemError, TaskCancelledError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle

from bae_ray.errors import (
    BaeRayError,
    CompressionError,
    ContainerTooLargeError,
    NotFiniteError,
    OutOfMemoryError,
)
from bae_ray.serving.compute.batching import LostBatchError
from bae_ray.serving.compute.interface import ChangedError
from bae_ray.serving.http.problems import Problem

log = logging.getLogger("ray.serve")
GONE = (RayActorError, RaySystemError, ReplicaUnavailableError, DeploymentUnavailableError)
"""Errors of calls whose replica died."""
TRIES = 2
CORRUPT = "The data is no container of this encoder's codes, or a damaged one. Compress the activations anew."
DOING_S = 1.0
STARTING = "still being placed or started"


async def tried(call: Callable[[], Any]) -> Any:
    """Call a deployment, and once more if its replica died: every computation here may be repeated.

    If the client goes away, the call is cancelled: what has not begun in the replica never will.
    """
    for left in reversed(range(TRIES)):
        response = call()
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except GONE:
            if not left:
                raise
    raise AssertionError


async def doing(handle: DeploymentHandle) -> str:
    """What a replica of a deployment is doing; if none answers, it is still starting."""
    try:
        async with asyncio.timeout(DOING_S):
            return await handle.doing.remote()
    except (TimeoutError, RayError, *GONE):
        return STARTING


def message(error: BaeRayError | OSError) -> str:
    """The error's message, without Ray's trace around it."""
    return str(getattr(error, "cause", None) or error)


@contextmanager
def errors_as_problems(encoder_id: str) -> Iterator[None]:
    """Around a call: raise its errors as problems, all but `CheckpointError`."""
    try:
        yield
    except BackPressureError as error:
        raise Problem("overloaded", "The encoders have more to do than they can do now.") from error
    except ContainerTooLargeError as error:
        raise Problem("answer_too_large", "The answer would be too large. Send fewer rows.") from error
    except CompressionError as error:
        raise Problem("corrupt", CORRUPT) from error
    except NotFiniteError as error:  # what the body's own check cannot see
        detail = "Numbers are too large for this encoder's scale and weights, or its model. Send smaller ones."
        raise Problem("not_finite", detail) from error
    except (ChangedError, LostBatchError, TaskCancelledError, RequestCancelledError, *GONE) as error:
        raise Problem("unavailable", "The replica that computed this went away. Send the request again.") from error
    except OutOfMemoryError as error:
        raise Problem(
            "unavailable", "There is too little memory for this now. Ask for less at once, or later."
        ) from error
    except OSError as error:  # of the disk, or the network behind it; the files may be as good as before
        log.error(f"encoder {encoder_id}: a file cannot be read: {message(error)}")
        raise Problem("unavailable", "A file that this needs cannot be read now. Send the request again.") from error
