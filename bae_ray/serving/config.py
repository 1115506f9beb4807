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
    """What one request may ask for. GET of an encoder states it; it is enforced while a request is read."""

    max_body_bytes: int = Field(default=64 * MIB, ge=1024)
    """Largest body of a request, in bytes."""
    max_response_bytes: int = Field(default=256 * MIB, ge=1024)
    """Largest size of an answer's arrays, in bytes. A number in nested JSON counts as the longest of its kind: a float
    as 25 bytes."""
    max_rows: int = Field(default=8192, ge=1)
    """Largest number of rows (vectors) in a request."""
    max_texts: int = Field(default=64, ge=1)
    """Largest number of texts in a request to the language model."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest text, in tokens."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Largest number of tokens that texts/steer writes after a text."""
    max_features: int = Field(default=256, ge=1)
    """Largest number of features that texts/steer adds, clamps or ablates."""
    body_timeout_s: float = Field(default=30, gt=0)
    """Seconds in which a request's body must arrive."""
    min_body_rate: int = Field(default=1024, ge=0)
    """Slowest average speed of an arriving body, in bytes per second, after its first 5 seconds."""
    deadline_s: float = Field(default=60, gt=0)
    """Seconds for the answer, once the body is there."""
    max_inflight: int = Field(default=256, ge=1)
    """Requests that a replica of the gateway works on at a time. Others are asked to retry later."""
    max_waiting: int = Field(default=2048, ge=1)
    """Further requests whose bodies are still arriving."""
    max_inflight_bytes: int = Field(default=1024 * MIB, ge=1024)
    """Memory of all requests of a replica of the gateway together, in bytes: bodies, or the rows read from them, and
    answers."""

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
    """How many replicas (worker processes) a deployment has, and what each takes of the machine."""

    min_replicas: int = Field(default=1, ge=0)
    """Replicas kept while there are no requests."""
    max_replicas: int = Field(default=1, ge=1)
    """Largest number of replicas. Between the two, Ray Serve scales by the number of running requests."""
    target_ongoing: float = Field(default=2, gt=0)
    """Running requests (for encoders: batches) per replica that Ray Serve aims at."""
    num_cpus: float = Field(default=0.25, ge=0)
    """CPUs that Ray reserves for a replica; it may use more or less."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs for a replica, or a fraction of one. Above 0 it computes on the GPU."""

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
    """Running requests per replica that Ray Serve aims at."""


class EncodersConfig(ReplicasConfig):
    """The encoders: each replica holds several and computes with them."""

    num_cpus: float = Field(default=0.5, ge=0)
    """CPUs that Ray reserves for a replica; it may use more or less: see threads."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of torch in a replica without a GPU. None: the machine's cores divided by max_replicas."""
    encoders_per_replica: int = Field(default=8, ge=1)
    """Encoders that a replica keeps in memory. The least recently used one is dropped first."""
    max_weights_bytes: int = Field(default=MAX_WEIGHTS_BYTES, ge=1024)
    """Largest weights of an encoder, in bytes. A larger encoder is reported as broken."""
    batch_rows: int = Field(default=4096, ge=1)
    """Largest number of rows, of one or more requests, that are computed together."""
    concurrent_batches: int = Field(default=2, ge=1)
    """Batches that a gateway sends to a replica at a time: one is computed while the next one travels."""


class TextsConfig(ReplicasConfig):
    """The language models behind texts/encode, texts/steer and texts/fidelity."""

    min_replicas: int = Field(default=0, ge=0)
    """Replicas kept while there are no requests. 0: the first request starts one."""
    models: Mapping[str, str] = Field(default_factory=dict)
    """Folder or hub id of a language model, by the name that runs have for it. Other names are looked up as `bae-ray
    extract --model` does."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the language model."""


class ServiceConfig(Config):
    """The whole service."""

    registry: Place
    """Folder of encoders, here or at a URI such as s3://bucket/folder. Each is a run's folder or one that
    save_pretrained wrote; its name is the encoder's id."""
    follow_links: bool = False
    """Also follow symbolic links that lead out of the registry, of folders of encoders or of files in them."""
    keys_file: Path | None = None
    """File of bearer keys, one per line: KEY [name=NAME] [encoders=GLOB,GLOB] [inflight=N] [per_minute=N]. It is read
    again when it changes. None: the environment variable BAE_RAY_API_KEYS, with semicolons or line ends between keys.
    Without keys, every request is let in."""
    workbench: bool = False
    """Also serve a page at /workbench: maps of the sweep, its features, and the language model to try them on."""
    limits: LimitsConfig = LimitsConfig()
    """Limits of requests."""
    gateway: GatewayConfig = GatewayConfig()
    """Replicas that speak HTTP."""
    encoders: EncodersConfig = EncodersConfig()
    """Replicas that hold encoders."""
    texts: TextsConfig = TextsConfig()
    """Replicas that hold language models."""
    drain_s: float = Field(default=DRAIN_S, gt=0)
    """Seconds that running requests have to finish when the service stops. `bae-ray serve` ends at most 10 s later,
    whatever hangs."""


class JudgeServiceConfig(Config):
    """A language model that judges, behind an API like OpenAI's."""

    model: str = DEFAULT_MODEL
    """The bundled instruct model, a local folder, or a model id on the Hugging Face hub. It needs a chat template."""
    name: str | None = Field(default=None, min_length=1)
    """Its name in requests (--judge-model). None: the model's name. Cached answers of different judges are told apart
    by it."""
    num_gpus: float | None = Field(default=None, ge=0)
    """GPUs of a replica: a fraction of one, or several, among which the model is split. None: 1, or 0 on a cluster
    without GPUs; then it computes on the CPU."""
    num_cpus: float = Field(default=1, ge=0)
    """CPUs that Ray reserves for a replica."""
    node_resource: str | None = Field(default=None, min_length=1)
    """Custom Ray resource of the nodes that replicas may run on. None: judge, if the cluster has it (in cluster.yaml,
    the nodes with vLLM); else any node with enough GPUs and CPUs."""
    replicas: int = Field(default=1, ge=1)
    """Replicas, each with a copy of the model."""
    precision: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Precision of the model."""
    max_tokens: int = Field(default=4096, ge=1024)
    """Largest number of tokens of a request and its answer together; at most what the model takes."""
    max_sequences: int = Field(default=256, ge=1)
    """Largest number of requests that a replica computes together."""
    cpu_cache_gib: int = Field(default=2, ge=1)
    """GiB of memory for the KV cache on a CPU. On a GPU the cache takes what is left."""

    @property
    def called(self) -> str:
        """The name that requests must use."""
        return self.name or (Path(self.model).name if Path(self.model).is_dir() else self.model)
