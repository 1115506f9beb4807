"""An HTTP server that speaks OpenAI's chat completions, written for the tests: its answers are scripted.

It shares nothing with the client but the protocol.
"""

import hashlib
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

from bae_ray.comsem.judge_check import labelled_pairs


class Reply(NamedTuple):
    """What the server does about one request."""

    text: str | None = ""
    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    body: str | None = None
    """In place of a chat completion."""
    refusal: str | None = None
    p_yes: float | None = None
    """Given as log probabilities where the request asks for them."""
    drop: bool = False
    """Close the connection without a word."""
    delay_s: float = 0
    hold: bool = False
    """Never answer."""


Script = Callable[[dict[str, Any], int], Reply | str]
"""What to do about the body of a request that comes for the n-th time (from 1)."""


class JudgeServer:
    """Runs in threads of this process; a context manager."""

    def __init__(self, script: Script, port: int = 0) -> None:
        self.script = script
        self.asked: Counter[str] = Counter()
        """How often each request came, by its body."""
        self.paid: Counter[str] = Counter()
        """How often it was answered to the end with a chat completion."""
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

            def do_POST(self) -> None:
                server.serve(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that is gone is no news."""

        self._http = Server(("127.0.0.1", port), Handler)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "JudgeServer":
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["content-length"]))
        body = json.loads(raw)
        key = json.dumps(body, sort_keys=True)
        with self.lock:
            self.asked[key] += 1
            times = self.asked[key]
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            found = self.script(body, times)
            reply = Reply(found) if isinstance(found, str) else found
            if reply.hold:
                self.closing.wait()
                return
            time.sleep(reply.delay_s)
            if reply.drop:
                handler.close_connection = True
                handler.connection.close()
                return
            content = (reply.body if reply.body is not None else json.dumps(completion(body, reply))).encode()
            handler.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(content)))
            handler.end_headers()
            with self.lock:
                handler.wfile.write(content)
                if reply.status == 200 and reply.body is None:
                    self.paid[key] += 1
        finally:
            with self.lock:
                self.at_once -= 1


def completion(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """A chat completion as OpenAI's servers give it."""
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": reply.text, "refusal": reply.refusal},
    }
    if body.get("logprobs") and reply.p_yes is not None:
        entries = [("Yes", reply.p_yes), ("No", 1 - reply.p_yes), (" perhaps", 1e-9)]
        top = [{"token": token, "logprob": math.log(max(p, 1e-30))} for token, p in entries]
        said = next((one for one in top if one["token"] == reply.text), top[0])
        choice["logprobs"] = {"content": [{**said, "top_logprobs": top[: body["top_logprobs"]]}]}
    prompt = sum(len(message["content"].split()) for message in body["messages"])
    usage = {"prompt_tokens": prompt, "completion_tokens": len((reply.text or "").split())}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [choice], "usage": usage}  # fmt: skip


def asked_of(body: dict[str, Any]) -> str:
    """What is asked, without the instructions."""
    return body["messages"][-1]["content"]


def is_judgement(body: dict[str, Any]) -> bool:
    return "\nDescription: " in asked_of(body)


def judgement(body: dict[str, Any]) -> tuple[str, str, str]:
    """The token, the context and the description of a question."""
    first, second, _ = asked_of(body).rsplit("\n", 2)
    token, context = re.fullmatch(r"Token: (\".*\") at position \d+ in: (\".*\")", first, re.DOTALL).groups()  # type: ignore[union-attr]
    return json.loads(token), json.loads(context), json.loads(second.removeprefix("Description: "))


def tokens_of(body: dict[str, Any]) -> list[str]:
    """The tokens that an explanation is asked for."""
    return [json.loads(found) for found in re.findall(r"^Token: (\".*?\") at position", asked_of(body), re.MULTILINE)]


KNOWN = {
    (pair.example.token, pair.example.context, text): pair.fits
    for pair in labelled_pairs()
    for text in (pair.description, pair.reworded)
}
"""The answers to the labelled set."""


def perfect(body: dict[str, Any], _times: int) -> Reply:
    """Names a feature by its words, and knows what is right."""
    if not is_judgement(body):
        return Reply("the words " + " ".join(sorted(set(tokens_of(body)))))
    token, context, description = judgement(body)
    yes = KNOWN.get((token, context, description), token in description.removeprefix("the words ").split())
    return Reply("Yes" if yes else "No", p_yes=0.97 if yes else 0.04)


def coin(body: dict[str, Any], times: int) -> Reply:
    """Answers at random, the same question always in the same way."""
    if not is_judgement(body):
        return perfect(body, times)
    yes = hashlib.sha256(asked_of(body).encode()).digest()[0] % 2 == 0
    return Reply("Yes" if yes else "No", p_yes=0.6 if yes else 0.4)


def always_yes(body: dict[str, Any], times: int) -> Reply:
    return Reply("Yes", p_yes=0.99) if is_judgement(body) else perfect(body, times)
