"""What errors of the operating system mean to a user, each with the path that it is about and a remedy."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
HANDLES = (errno.EMFILE, errno.ENFILE)
NETWORK = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENOTCONN)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Add this path to errors inside that name no path: a write, for example, knows its file only by a number."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None and str(path) not in str(error):
            error.filename = str(path)
        raise


def explain(error: OSError) -> str:
    """One message: what failed, at which path, and what to do."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, OSError):  # an error of a worker, which Ray has wrapped with its traceback
        return explain(cause)
    told = (str(error).strip() or type(error).__name__).removesuffix(".")
    if error.errno == errno.EADDRINUSE:
        return f"{told}. Another process listens there: end it, or give another port."
    if _is_of_network(error):
        return f"{told}. Check that the other side runs and can be reached, and its address."
    if error.errno is None:  # a library's own, such as one of the network: its message is all there is
        return f"{told}."
    if error.filename is None and error.errno == errno.ENOENT and not _has_folder():
        return "the current folder does not exist any more. Change to one that does."
    return f"{told}. {_remedy(error)}"


def _is_of_network(error: OSError) -> bool:
    """Whether a connection failed, and no file: also the look-up of a name, or the handshake of TLS."""
    import socket
    import ssl

    kinds = (ConnectionError, TimeoutError, socket.gaierror, socket.herror, ssl.SSLError)
    return isinstance(error, kinds) or error.errno in NETWORK


def _remedy(error: OSError) -> str:
    if error.errno in FULL:
        return "Make room there, or give a folder on another disk; what is finished is kept."
    if error.errno in DENIED:
        return "Check who may read and write there."
    if error.errno in HANDLES:
        return "Raise the limit of open files: ulimit -n 65536."
    if isinstance(error, IsADirectoryError):
        return "A file is expected there, not a folder."
    if isinstance(error, NotADirectoryError):
        return "A folder is expected there; part of the path is a file."
    if isinstance(error, FileNotFoundError):
        where = "Check the path" if error.filename is not None else "The system names no path"
        return f"{where}; --debug shows where it happened."
    return "Check the path, its permissions and the free space; --debug shows where it happened."


def _has_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True
