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
    """paper: the fields as they are. scaled: fields below that are at their defaults get values that depend on the
    width d, with which the binary autoencoder finds the true number of bits (docs/recipe.md)."""
    epochs: int = Field(default=2000, ge=1)
    """Passes over the training split."""
    batch_size: int = Field(default=512, ge=2)
    """Samples per step. A training split smaller than this is one batch. The last batch of an epoch is dropped if it is
    smaller."""
    lr: float = Field(default=5e-4, gt=0)
    """Learning rate of Adam."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's beta1: decay rate of the mean of the gradients."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's beta2: decay rate of the mean of the squared gradients."""
    lr_warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps, at the start, over which the learning rate rises linearly from 0."""
    lr_decay: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps, at the end, over which the learning rate falls linearly to 0."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient of all weights together; a larger gradient is scaled down. None: no limit."""
    reconstruction: Reduction = "mean"
    """mean: squared error averaged over d, which the paper's loss weights are for. sum: summed over d, as Eq. 3 prints
    it."""
    entropy_form: EntropyForm = "bernoulli"
    """Entropy of a latent with firing rate p. bernoulli: -p log2 p - (1-p) log2(1-p). printed: -p log2 p alone, as Eq.
    4 prints it."""
    entropy_weight: float = Field(default=1e-7, ge=0)
    """bae: weight of the marginal entropy in bits (alpha_e of Eq. 4)."""
    covariance_weight: float = Field(default=1e-7, ge=0)
    """bae: weight of the covariance penalty (alpha_c of Eq. 4)."""
    l1_weight: float = Field(default=1e-7, ge=0)
    """relu, gated, transcoder, gated_sae: weight of the L1 penalty (alpha of Eq. 9, 14, 16)."""
    l1_reduction: Reduction = "sum"
    """sum: the L1 norm is summed over the batch, as in the paper. mean: it is averaged."""
    l0_weight: float = Field(default=1e-4, ge=0)
    """jumprelu: weight of the L0 penalty, the mean number of latents that fire per sample."""
    entropy_warmup: float = Field(default=0.25, ge=0)
    """Time from the start without the entropy term (500 of 2000 epochs in the paper)."""
    covariance_warmup: float = Field(default=0.0, ge=0)
    """Time from the start without the covariance term."""
    l1_warmup: float = Field(default=0.0, ge=0)
    """Time from the start without the L1 term."""
    l0_warmup: float = Field(default=0.0, ge=0)
    """Time from the start without the L0 term."""
    warmup_unit: Literal["fraction", "epochs"] = "fraction"
    """Unit of these four warm-ups: a fraction of the epochs, or epochs."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the samples held out of training."""
    normalize: Literal["rms", "none"] = "rms"
    """rms: centre each cell and scale it to unit RMS (root mean square), so that loss weights mean the same in every
    cell. none: train on the activations as they are, as the paper does."""
    initial: Literal["uniform", "components"] = Field(default="uniform", exclude_if=_is("uniform"))
    """Weights at the start. uniform: within +-1/sqrt(fan in), as in the paper. components (bae only): latents start as
    thresholds on the data's independent components (FastICA), as many as are worth their entropy cost; the other
    latents start off."""
    merge_every: int | None = Field(default=None, ge=1, exclude_if=_is(None))
    """bae: number of epochs after which latents that copy another latent or its opposite are merged with it. None:
    copies stay, as in the paper."""
    decoder_norm: Literal["free", "unit"] = "free"
    """unit: keep the rows of the dictionary (W_dec) at length 1. free: do not."""
    revive_every: int | None = Field(default=None, ge=1)
    """Number of epochs after which dead latents, which fire on no sample, are restarted at badly reconstructed samples.
    None: they stay dead, as in the paper."""
    patience: int | None = Field(default=None, ge=1)
    """Stop when the held-out objective has not fallen for this many epochs after the warm-ups, and keep the weights of
    the lowest. None: train all epochs."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products. tf32: faster on recent GPUs, no effect on a CPU. bf16: by autocast; weights stay
    fp32."""
    compile: bool = False
    """Compile the training step with torch.compile. Needs a C++ compiler."""
    graph: Literal["auto", "off"] = Field(default="auto", exclude=True)
    """auto: on a GPU, run the steps as a CUDA graph: several times faster, the same numbers up to rounding. off: do
    not. Does not change a run's name."""
    log: Literal["epoch", "step"] = "epoch"
    """Write a line of metrics per epoch (means over its steps), or per step."""
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
