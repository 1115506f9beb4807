"""The configs of the service."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from bae_ray.activations.config import DEFAULT_MODEL
from bae_ray.config import Config
from bae_ray.locations import Place

MIB = 1 << 20
DRAIN_S = 10.0
MAX_WEIGHTS_BYTES = 8192 * MIB


class LimitsConfig(Config):
    """What one request may ask for; published with every encoder, enforced while the request is read."""

    max_body_bytes: int = Field(default=64 * MIB, ge=1024)
    """Bytes of a request's body."""
    max_response_bytes: int = Field(default=256 * MIB, ge=1024)
    """Bytes of the arrays of an answer. Nested JSON numbers count as the longest of their kind: a float 25 bytes."""
    max_rows: int = Field(default=8192, ge=1)
    """Rows (vectors) of a request."""
    max_texts: int = Field(default=64, ge=1)
    """Texts of a request to the language model."""
    max_tokens: int = Field(default=1024, ge=1)
    """Tokens of one text."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens that texts/steer writes after a text, at most."""
    max_features: int = Field(default=256, ge=1)
    """Features that texts/steer adds, clamps or ablates, at most."""
    body_timeout_s: float = Field(default=30, gt=0)
    """Seconds for a request's body to come in."""
    min_body_rate: int = Field(default=1024, ge=0)
    """Bytes a second at which it has to come in on average, after its first 5 seconds."""
    deadline_s: float = Field(default=60, gt=0)
    """Seconds for the answer after that."""
    max_inflight: int = Field(default=256, ge=1)
    """Requests that a replica of the gateway works on at a time; others are told to come again."""
    max_waiting: int = Field(default=2048, ge=1)
    """Requests whose bodies are still coming in, beside those."""
    max_inflight_bytes: int = Field(default=1024 * MIB, ge=1024)
    """Bytes that they hold together: bodies, or the rows that were read of them, and answers, computed and written."""

    @model_validator(mode="after")
    def _check_bytes(self) -> "LimitsConfig":
        # A body of bytes or half-precision numbers is up to four times as large as float32.
        needed = 4 * self.max_body_bytes + 2 * self.max_response_bytes
        if needed > self.max_inflight_bytes:
            raise ValueError(
                f"max_inflight_bytes is {self.max_inflight_bytes}; a request of max_body_bytes with an answer of "
                f"max_response_bytes holds up to {needed}, and would never be served: expected that or more"
            )
        return self


class ReplicasConfig(Config):
    """How many replicas a deployment has, and what each takes of the machine."""

    min_replicas: int = Field(default=1, ge=0)
    """Replicas kept while nothing is asked; the texts' may be 0, and then start with the first request."""
    max_replicas: int = Field(default=1, ge=1)
    """Replicas at most; between the two Ray Serve scales by the requests that are under way."""
    target_ongoing: float = Field(default=2, gt=0)
    """Requests (of encoders: batches) under way per replica that it scales for."""
    num_cpus: float = Field(default=0.25, ge=0)
    """CPUs that Ray sets aside for a replica; it may use more, and less."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs, or a fraction of one, for a replica; above 0 it computes there."""

    @property
    def needs(self) -> dict[str, float]:
        """What Ray sets aside for a replica, by its word for it."""
        return {"CPU": self.num_cpus, "GPU": self.num_gpus}

    @model_validator(mode="after")
    def _check_replicas(self) -> "ReplicasConfig":
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class GatewayConfig(ReplicasConfig):
    """The gateway: reads, checks and answers HTTP requests."""

    target_ongoing: float = Field(default=64, gt=0)
    """Requests under way per replica that it scales for."""


class EncodersConfig(ReplicasConfig):
    """The encoders: each replica holds several and computes with them."""

    num_cpus: float = Field(default=0.5, ge=0)
    """CPUs that Ray sets aside for a replica; it may use more, and less: see threads."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of torch in a replica without a GPU. Left out: the machine's cores over max_replicas."""
    encoders_per_replica: int = Field(default=8, ge=1)
    """Encoders kept in memory; the least recently used goes first."""
    max_weights_bytes: int = Field(default=MAX_WEIGHTS_BYTES, ge=1024)
    """Bytes of an encoder's weights; one with more is broken."""
    batch_rows: int = Field(default=4096, ge=1)
    """Rows of different requests that are computed together."""
    concurrent_batches: int = Field(default=2, ge=1)
    """Batches that a gateway has under way per replica at most: one is computed while the next is on its way."""


class TextsConfig(ReplicasConfig):
    """The language models behind texts/encode, texts/steer and texts/fidelity."""

    min_replicas: int = Field(default=0, ge=0)
    """Replicas kept while nothing is asked; 0: one starts with the first request."""
    models: Mapping[str, str] = Field(default_factory=dict)
    """Folder or hub id of a language model, by the name that runs know it under. Names that are left out are looked up
    as `bae-ray extract --model` does."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Numbers of the language model."""


class ServiceConfig(Config):
    """The whole service."""

    registry: Place
    """Folder of encoders, here or at a URI such as s3://bucket/folder: each a run directory or a folder written by
    save_pretrained, named by its id."""
    follow_links: bool = False
    """Follow links in the registry that lead out of it: folders of encoders, or files in them. Left out: those that
    stay in it."""
    keys_file: Path | None = None
    """File of bearer keys, one a line: KEY [name=NAME] [encoders=GLOB,GLOB] [inflight=N] [per_minute=N]. It is read
    again when it changes. Left out: the environment variable BAE_RAY_API_KEYS, in which lines may also be separated by
    semicolons; without any, every request is let in."""
    workbench: bool = False
    """Serve a page at /workbench, too: maps of the sweep, its features, and the language model to try them on."""
    limits: LimitsConfig = LimitsConfig()
    """Limits of a request."""
    gateway: GatewayConfig = GatewayConfig()
    """Replicas that speak HTTP."""
    encoders: EncodersConfig = EncodersConfig()
    """Replicas that hold encoders."""
    texts: TextsConfig = TextsConfig()
    """Replicas that hold language models."""
    drain_s: float = Field(default=DRAIN_S, gt=0)
    """Seconds that requests under way are given when the service stops. `bae-ray serve` has ended 10 s later, whatever
    hangs."""


class JudgeServiceConfig(Config):
    """A language model that judges, behind an API as OpenAI's."""

    model: str = DEFAULT_MODEL
    """The bundled instruct model, a local folder, or a model id on the Hugging Face hub. It needs a chat template."""
    name: str | None = Field(default=None, min_length=1)
    """What requests call it (--judge-model). Left out: as the model is called, so that answers are told from those of
    another one."""
    num_gpus: float | None = Field(default=None, ge=0)
    """GPUs of a replica: a fraction of one, or several, among which the model is split. Left out: 1, and none on a
    cluster without any; then it computes on the CPU."""
    num_cpus: float = Field(default=1, ge=0)
    """CPUs that Ray sets aside for a replica."""
    node_resource: str | None = Field(default=None, min_length=1)
    """A custom resource of the nodes that replicas may be on. Left out: judge, where the cluster has it, as
    cluster.yaml's nodes with vLLM; else any node that has the GPUs and CPUs."""
    replicas: int = Field(default=1, ge=1)
    """Replicas, each with a copy of the model."""
    precision: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Numbers of the model."""
    max_tokens: int = Field(default=4096, ge=1024)
    """Tokens of a request and its answer; at most what the model takes."""
    max_sequences: int = Field(default=256, ge=1)
    """Requests that a replica computes together."""
    cpu_cache_gib: int = Field(default=2, ge=1)
    """Memory for keys and values of tokens seen, on the CPU. On a GPU it takes what is left."""

    @property
    def called(self) -> str:
        """The name that requests have to give."""
        return self.name or (Path(self.model).name if Path(self.model).is_dir() else self.model)
