"""An S3 server of this machine's (moto, over HTTP), and a proxy before it that refuses, or is slow, for a while."""

import http.client
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pyarrow import fs

USER, PASSWORD = "tester", "hushhush"
REFUSAL = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class Server:
    """An S3 server, what it has been asked, and the file system that it offers."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self._address, self._log = port, f"127.0.0.1:{port}", log
        self.files = fs.S3FileSystem(
            access_key=USER, secret_key=PASSWORD, scheme="http", endpoint_override=self._address,
            allow_bucket_creation=True,
        )  # fmt: skip

    def uri(self, path: str, port: int | None = None) -> str:
        """The URI of a path, with credentials."""
        return self.bare_uri(path, port).replace("s3://", f"s3://{USER}:{PASSWORD}@")

    def bare_uri(self, path: str, port: int | None = None) -> str:
        """The URI of a path for those who have credentials in their environment; `port`: of a proxy."""
        return f"s3://{path}?scheme=http&endpoint_override=127.0.0.1:{port or self.port}"

    def requests(self, methods: str, path: str) -> list[str]:
        """The paths of the requests so far that have one of these methods and begin so."""
        log = re.sub(r"\x1b\[\d+m", "", self._log.read_text())
        return re.findall(rf'"(?:{methods}) /({re.escape(path)}[^ ?]*)', log)

    def read(self, path: str) -> bytes:
        """The content of an object."""
        with self.files.open_input_stream(path) as stream:
            return stream.read()

    def write(self, path: str, content: bytes) -> None:
        """Write an object."""
        with self.files.open_output_stream(path) as stream:
            stream.write(content)

    def names(self, under: str) -> list[str]:
        """Paths of the objects below a path, relative to it."""
        found = self.files.get_file_info(fs.FileSelector(under, recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{under}/") for info in found if info.type == fs.FileType.File)


@contextmanager
def s3_server(log: Path, bucket: str = "bucket") -> Iterator[Server]:
    """moto as a process of its own, spoken to over HTTP, with an empty bucket; `log`: file of its requests."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the S3 server does not start"
            time.sleep(0.1)
        server = Server(port, log)
        server.files.create_dir(bucket)
        yield server
    finally:
        process.kill()
        process.wait()


class Proxy:
    """Passes requests on to a server; until `refuse_until` it answers 503, and it waits `wait_s` before each answer."""

    def __init__(self, server: Server) -> None:  # noqa: C901 - a class inside
        self.refuse_until, self.wait_s, self.refused = 0.0, 0.0, 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

            def _pass_on(self) -> None:
                body = self._body()
                if time.monotonic() < proxy.refuse_until:
                    proxy.refused += 1
                    return self._answer(503, [("Content-Type", "application/xml")], REFUSAL)
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                time.sleep(proxy.wait_s)
                self._answer(answer.status, answer.getheaders(), content)
                connection.close()
                return None

            def _body(self) -> bytes:
                if (self.headers.get("Transfer-Encoding") or "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts: list[bytes] = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                told = {name.lower(): value for name, value in headers}
                length = told.get("content-length") if self.command == "HEAD" and status == 200 else str(len(content))
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - the library's names

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def refuse_for(self, seconds: float) -> None:
        """Answer 503 for so long."""
        self.refuse_until = time.monotonic() + seconds

    def close(self) -> None:
        """Listen no more."""
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A bucket for each module."""
    with s3_server(tmp_path_factory.mktemp("s3") / "requests.log") as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own: what an earlier one has copied is not there."""
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
