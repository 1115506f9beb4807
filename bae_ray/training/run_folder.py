"""The folder of a run, which is one trained autoencoder.

run.json            the RunConfig that determines it
metrics.jsonl       a line per epoch, or per step
state.safetensors   while it is trained: where to go on after an interruption; after that if it did not converge
config.json, model.safetensors     the autoencoder
tree.safetensors    of a binary one, the tree over its latents
result.json         written last: the measures; a run without it is unfinished
failure.json        in its place where training failed: the reason
continued.json      of a run that went on after its end: how many epochs in all
result-EPOCHS.json  its results before
search.json         settings that a search has drawn for the run
fidelity.json       what the language model still knows on its reconstruction, if that was measured
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from bae_ray.activations.config import Position
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.features import spectral_norm
from bae_ray.analysis.joint_bits import JointBits
from bae_ray.analysis.sampling import EntropyEstimate
from bae_ray.config import Record
from bae_ray.files import read_text, write_text
from bae_ray.training.config import RunConfig
from bae_ray.training.convergence import convergence
from bae_ray.training.measuring import Trained

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
STATE_FILE = "state.safetensors"
RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"
SEARCH_FILE = "search.json"
STOPPED = "Stopped"
"""The `error` of a run that a search has stopped early."""


class RunResult(Record):
    """The measures of one finished run: a row of every table."""

    model: str
    layer: int
    site: str
    position: Position
    n_train: int
    n_val: int
    d_in: int
    d_latent: int
    entropy_bits: float
    """Over all n, as in the paper."""
    entropy_low: float
    """Ends of its 95 % interval (analysis/sampling.py), for infinitely many samples like all n. The autoencoder was
    fitted to n_train of these; new samples may have other bits, see entropy_bits_val."""
    entropy_high: float
    entropy_bias: float
    """By how much the entropy is too low on average, since firing rates are estimated from n samples."""
    subset_n: tuple[int, ...]
    """Sizes of nested random subsets of the samples, and the entropy over each."""
    subset_bits: tuple[float, ...]
    fvu_train: float
    fvu_val: float
    mse_val: float
    cosine_val: float
    """Cosine after centring."""
    l0: float
    """Over all n, as are the next two."""
    dead: float
    dense: float
    spectral_norm: float
    """Spectral norm of the covariance of the dictionary's rows (the paper's Table 1)."""
    seed: int
    run: str
    seconds: float
    tree_bits: float | None = None
    """Entropy of the code over all n under its Chow-Liu tree. This and all below with the ends of its 95 % interval
    (analysis/joint_bits.py says of what); None where the latents are no code, and in earlier results."""
    tree_low: float | None = None
    tree_high: float | None = None
    heldout_bits: float | None = None
    """Mean code length, in bits, of a held-out sample under the tree of the training samples."""
    heldout_low: float | None = None
    heldout_high: float | None = None
    heldout_marginal_bits: float | None = None
    """The same without the tree, each latent by itself."""
    heldout_marginal_low: float | None = None
    heldout_marginal_high: float | None = None
    joint_bits: float | None = None
    """Joint entropy over all n, if whole codes recur often enough to estimate it; else None."""
    joint_low: float | None = None
    joint_high: float | None = None
    distinct: int | None = None
    """Number of different codes among all n."""
    varying: int | None = None
    """Number of latents that fire on some samples but not on all."""
    entropy_bits_val: float | None = None
    """Marginal entropy over the n_val held-out samples alone; this and the next three are None in earlier results."""
    entropy_low_val: float | None = None
    """Ends of its 95 % interval: for the entropy of infinitely many samples like the held-out ones."""
    entropy_high_val: float | None = None
    entropy_bias_val: float | None = None
    """By how much it is too low on average: more than `entropy_bias`, since it has fewer samples."""
    epochs: int | None = None
    """How many were trained. This and the next four are of training/convergence.py, and None in earlier results."""
    converged: bool | None = None
    """Whether loss, bits and FVU changed over the last tenth of the epochs by at most 1 %, .25 bits or .001 of FVU."""
    loss_change: float | None = None
    """How much they changed: the loss as a part of itself; None where there were too few epochs."""
    bits_change: float | None = None
    fvu_change: float | None = None
    gaussian_bits: float | None = None
    """This and all below: measures that need no autoencoder (analysis/rivals.py), of what this one reconstructs, bits
    at `fvu_val` or the FVU that stands beside them. None where a cell has none, and in earlier results."""
    sign_bits: float | None = None
    sign_fvu: float | None = None
    product_bits: float | None = None
    """None without faiss, too."""
    product_fvu: float | None = None
    effective_rank: float | None = None
    participation_ratio: float | None = None
    matrix_entropy_bits: float | None = None
    intrinsic_dimension: float | None = None


class Failure(Record):
    """Why a run has no result."""

    error: str
    """Name of the error's type."""
    message: str
    cell: dict[str, Any]
    settings: dict[str, Any] = Field(default_factory=dict)
    """Values on the grid's axes of a run with invalid settings, which has no config."""
    traceback: str = ""
    """Traceback of an unexpected error. Earlier folders do not have it."""


def is_finished(runs: Path, run: RunConfig) -> bool:
    """Whether this run's result is there."""
    return (runs / run.id / RESULT_FILE).exists()


def read_failure(runs: Path, run: RunConfig) -> Failure | None:
    """The failure record of the last attempt at this run."""
    file = runs / run.id / FAILURE_FILE
    return Failure.model_validate_json(read_text(file)) if file.exists() else None


def read_result(runs: Path, run: RunConfig) -> RunResult:
    """The result of a finished run."""
    return RunResult.model_validate_json(read_text(runs / run.id / RESULT_FILE))


def write_failure(runs: Path, run: RunConfig, error: str, message: str, traceback: str = "") -> None:
    """Write the failure record of a run."""
    failure = Failure(error=error, message=message, cell=run.cell.model_dump(), traceback=traceback)
    write_text(runs / run.id / FAILURE_FILE, failure.to_json())


def write_result(runs: Path, run: RunConfig, store: ActivationStore, trained: Trained) -> None:
    """Write the autoencoder, then the result, which makes the run finished."""
    trained.autoencoder.save_pretrained(runs / run.id)
    ended = convergence(runs / run.id / METRICS_FILE, trained.all.entropy_bits, trained.train.fvu)
    result = RunResult(
        model=str(store.manifest.request.model["name"]),
        **run.cell.model_dump(),
        n_train=trained.train.n,
        n_val=trained.val.n,
        d_in=trained.autoencoder.d_in,
        d_latent=trained.autoencoder.d_latent,
        entropy_bits=trained.all.entropy_bits,
        entropy_low=trained.entropy.low,
        entropy_high=trained.entropy.high,
        entropy_bias=trained.entropy.bias,
        subset_n=trained.entropy.subset_n,
        subset_bits=trained.entropy.subset_bits,
        fvu_train=trained.train.fvu,
        fvu_val=trained.val.fvu,
        mse_val=trained.val.mse,
        cosine_val=trained.val.cosine_centred,
        l0=trained.all.l0,
        dead=trained.all.dead,
        dense=trained.all.dense,
        spectral_norm=spectral_norm(trained.autoencoder.W_dec.detach()),
        seed=run.training.seed,
        run=run.id,
        seconds=trained.seconds,
        **_joint_columns(trained.joint),
        **_held_out_columns(trained.entropy_val),
        **(ended._asdict() if ended is not None else {}),
        **(trained.rivals._asdict() if trained.rivals else {}),
    )
    write_text(runs / run.id / RESULT_FILE, result.to_json())


def _held_out_columns(found: EntropyEstimate | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {f"entropy_{name}_val": getattr(found, name) for name in ("bits", "low", "high", "bias")}


def _joint_columns(joint: JointBits | None) -> dict[str, Any]:
    if joint is None:
        return {}
    told: dict[str, Any] = {"distinct": joint.distinct, "varying": joint.varying}
    for name in ("tree", "heldout", "heldout_marginal", "joint"):
        if (estimate := getattr(joint, name)) is not None:
            told |= {f"{name}_bits": estimate.bits, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return told
