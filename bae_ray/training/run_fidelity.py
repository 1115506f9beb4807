"""fidelity.json of a run's folder: what the language model still predicts on the run's reconstruction."""

from typing import Any

from bae_ray.config import Record

FIDELITY_FILE = "fidelity.json"


class RunFidelity(Record):
    """What the language model still predicts with a run's reconstruction in place of its activations.

    Cross-entropies are of the next token, in nats per token, over the tokens of held-out texts that can see what was
    replaced. Ends are those of 95 % intervals, by resampling texts (fidelity/text_bootstrap.py).
    """

    fidelity_texts: int
    fidelity_tokens: int
    ce_clean: float | None
    """Cross-entropy of the unchanged model. All cross-entropies are None if the tokens have no next one."""
    ce_spliced: float | None
    ce_mean: float | None
    """With the mean of the training samples in place of the activations, instead of the reconstruction."""
    ce_zero: float | None
    ce_recovered: float | None
    """(ce_zero - ce_spliced) / (ce_zero - ce_clean), as SAELens and SAEBench have it."""
    ce_recovered_low: float | None
    ce_recovered_high: float | None
    ce_recovered_mean: float | None
    """The same with ce_mean in place of ce_zero: what the reconstruction adds to a constant."""
    ce_recovered_mean_low: float | None
    ce_recovered_mean_high: float | None
    kl: float
    """KL(clean || spliced) of the next token's distributions, in nats per token."""
    kl_low: float
    kl_high: float
    jsd: float
    """Jensen-Shannon divergence of the same, in nats per token; at most log 2."""
    jsd_low: float
    jsd_high: float
    top1_agreement: float
    """Share of tokens after which both have the same most probable next token."""
    top1_agreement_low: float
    top1_agreement_high: float


class FidelityRecord(Record):
    """The file of a run's fidelity."""

    request: dict[str, Any]
    """All that the numbers depend on but the run."""
    columns: RunFidelity
    by_position: list[dict[str, Any]]
    """Means over tokens at a distance of `first` to `last` from the first token that sees a replaced activation."""
