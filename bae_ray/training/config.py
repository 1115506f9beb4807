"""Settings of a training, and the config that identifies a run."""

from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, model_validator

from bae_ray.activations.config import Position
from bae_ray.autoencoders.architectures import AutoencoderConfig
from bae_ray.autoencoders.config import BAEConfig, EntropyForm, Reduction
from bae_ray.config import Config, content_hash


def _is(default: object) -> Callable[[object], bool]:
    """Fields that came later are left out of the dump where they are as ever, so that runs keep their names."""
    return lambda value: value == default


class TrainingConfig(Config):
    """How to train one autoencoder; the defaults are the paper's (section 3)."""

    recipe: Literal["paper", "scaled"] = Field(default="paper", exclude_if=_is("paper"))
    """paper: the fields as they are. scaled: those below that are left at their defaults get values that go with the
    width, by which the binary autoencoder finds the bits that are there (training/recipe.py, docs/recipe.md)."""
    epochs: int = Field(default=2000, ge=1)
    """Passes over the training split."""
    batch_size: int = Field(default=512, ge=2)
    """Samples per step. A split smaller than this is one batch; a last, smaller batch of an epoch is dropped."""
    lr: float = Field(default=5e-4, gt=0)
    """Learning rate of Adam."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's first momentum factor."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's second momentum factor."""
    lr_warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps, at the start, over which the learning rate rises linearly from 0."""
    lr_decay: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps, at the end, over which the learning rate falls linearly to 0."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient of all weights together; a longer one is scaled down. Left out: no limit."""
    reconstruction: Reduction = "mean"
    """mean: squared error averaged over d, which the paper's loss weights go with; sum: summed, as Eq. 3 prints it."""
    entropy_form: EntropyForm = "bernoulli"
    """bernoulli: -p log2 p - (1-p) log2(1-p); printed: -p log2 p alone, as Eq. 4 prints it."""
    entropy_weight: float = Field(default=1e-7, ge=0)
    """bae: weight of the marginal entropy in bits (alpha_e of Eq. 4)."""
    covariance_weight: float = Field(default=1e-7, ge=0)
    """bae: weight of the covariance penalty (alpha_c of Eq. 4)."""
    l1_weight: float = Field(default=1e-7, ge=0)
    """relu, gated, transcoder, gated_sae: weight of the L1 penalty (alpha of Eq. 9, 14, 16)."""
    l1_reduction: Reduction = "sum"
    """sum: the L1 norm summed over the batch, as in the paper; mean: averaged over it."""
    l0_weight: float = Field(default=1e-4, ge=0)
    """jumprelu: weight of the L0 penalty, the mean number of latents that fire per sample."""
    entropy_warmup: float = Field(default=0.25, ge=0)
    """How long, from the start, the entropy term is left out (500 of 2000 epochs in the paper)."""
    covariance_warmup: float = Field(default=0.0, ge=0)
    """How long the covariance term is left out."""
    l1_warmup: float = Field(default=0.0, ge=0)
    """How long the L1 term is left out."""
    l0_warmup: float = Field(default=0.0, ge=0)
    """How long the L0 term is left out."""
    warmup_unit: Literal["fraction", "epochs"] = "fraction"
    """Unit of the four above: a fraction of the epochs, or epochs."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the samples held out of training."""
    normalize: Literal["rms", "none"] = "rms"
    """rms: centre each cell and scale it to unit RMS, so that the loss weights mean the same in each. none: as the
    paper, which trains on the activations as they are."""
    initial: Literal["uniform", "components"] = Field(default="uniform", exclude_if=_is("uniform"))
    """Weights that training starts from. uniform: within +-1/sqrt(fan in), as in the paper. components: bae's
    latents are thresholds of the data's independent components (FastICA), as many as are worth the entropy weight;
    the others are off."""
    merge_every: int | None = Field(default=None, ge=1, exclude_if=_is(None))
    """bae: number of epochs after which latents that are copies or opposites of another become one with it. Left out:
    copies stay, as in the paper."""
    decoder_norm: Literal["free", "unit"] = "free"
    """unit: the rows of the dictionary are kept at length 1."""
    revive_every: int | None = Field(default=None, ge=1)
    """Number of epochs after which latents that fire on no sample are restarted at badly reconstructed samples.
    Left out: dead latents stay as they are, as in the paper."""
    patience: int | None = Field(default=None, ge=1)
    """Stop when the held-out objective has not fallen for this many epochs after the warm-ups; go back to its lowest.
    Left out: all epochs are trained."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products. tf32: faster on recent GPUs, no effect on a CPU. bf16: autocast; weights stay
    fp32."""
    compile: bool = False
    """Compile the training step with torch.compile; needs a C++ compiler."""
    graph: Literal["auto", "off"] = Field(default="auto", exclude=True)
    """auto: on a GPU, the steps are captured as a CUDA graph, several times faster, with the same numbers to rounding.
    off: they are not. Part of no run's name."""
    log: Literal["epoch", "step"] = "epoch"
    """A line of metrics per epoch (means over its steps) or per step."""
    seed: int = 0
    """Seed of the split, the initial weights and the order of the samples."""

    @model_validator(mode="after")
    def _check_schedules(self) -> Self:
        for name in ("entropy_warmup", "covariance_warmup", "l1_warmup", "l0_warmup"):
            value = getattr(self, name)
            if self.warmup_unit == "fraction" and value > 1:
                raise ValueError(f"{name} is {value}: a fraction is at most 1 (or set warmup_unit to epochs)")
        if self.lr_warmup + self.lr_decay > 1:
            raise ValueError(
                f"lr_warmup {self.lr_warmup} and lr_decay {self.lr_decay} overlap: together they are at most 1"
            )
        return self


class CellConfig(Config):
    """One cell of an activation store."""

    layer: int
    """Layer: index into hidden_states."""
    position: Position
    """Token index in the text, or last or all."""
    site: str = "residual"
    """Place in the layer: residual, mlp_in or mlp_out."""


Place = tuple[CellConfig, CellConfig | None]
"""A cell that is encoded, and the one that is reconstructed if that is another."""


class RunConfig(Config):
    """Everything that determines one trained autoencoder; its hash names the run."""

    cell: CellConfig
    """The cell whose activations are encoded."""
    target: CellConfig | None = None
    """transcoder: the cell whose activations are reconstructed."""
    data: str
    """Fingerprint of the activations in the store."""
    autoencoder: AutoencoderConfig = BAEConfig()
    """The architecture."""
    training: TrainingConfig = TrainingConfig()
    """The training."""

    @property
    def place(self) -> Place:
        """The cells that it takes activations from."""
        return self.cell, self.target

    @property
    def id(self) -> str:
        """Name of the run's directory: a hash of this config."""
        return content_hash(self.model_dump(mode="json"))
