"""What replicas count, in Prometheus' terms: every series names the replica that it is of.

Ids of encoders and names of models are those of the registry, never what a request asks for: an unknown id has no
series.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Metric, disable_created_metrics

disable_created_metrics()  # a second series for each, which nobody reads


class Counted(NamedTuple):
    """The metrics of one replica."""

    replica: str
    metrics: list[Metric]


class Counts:
    """The metrics of a replica."""

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self._registry = CollectorRegistry()

    def collected(self) -> Counted:
        """All metrics, to be sent to the gateway's replica that answers /metrics."""
        return Counted(self.replica, list(self._registry.collect()))

    def labelled(self, *labels: str) -> dict[str, Any]:
        """The arguments that metrics of this replica share."""
        return {"labelnames": ["replica", *labels], "registry": self._registry}


def merged(counted: Iterable[Counted], encoders: Mapping[str, Any]) -> list[Metric]:
    """The series of all replicas under one head each; without those of encoders that are in the registry no more."""
    families: dict[str, Metric] = {}
    for metric in (metric for each in counted for metric in each.metrics):
        family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
        family.samples += [
            sample for sample in metric.samples if not (named := sample.labels.get("encoder")) or named in encoders
        ]
    return list(families.values())
