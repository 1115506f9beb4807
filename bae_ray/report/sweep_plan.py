"""What a sweep would do, on the terminal."""

from rich.console import Console

from bae_ray.report.terminal import list_of
from bae_ray.training.resource_estimate import DryRun


def print_plan(plan: DryRun) -> None:
    """Print how much a sweep would do, for how long, and how large its results would be."""
    device = f"{plan.gpus_per_trial:.3g} GPU" if plan.gpus_per_trial else "CPU"
    hours = plan.estimate.device_hours
    rows = {
        "runs": f"{plan.runs} ({plan.finished} finished, {plan.estimate.runs} to train in {plan.estimate.packs} packs)",
        "illegal": str(len(plan.illegal)),
        "measured": f"{plan.measured.seconds_per_step * 1e3:.1f} ms per step of the largest pack on {device}, "
        f"{plan.measured.peak_bytes / 1e9:.2f} GB of memory",
        "trainings": f"{hours:.2f} {'GPU' if plan.gpus_per_trial else 'worker'}-hours",
        "wall time": f"about {hours / plan.workers:.2f} h on {plan.workers} workers",
        "disk": f"{plan.estimate.disk_bytes / 1e9:.2f} GB",
    }
    console = Console()
    console.print(list_of("Nothing is trained: what the sweep would do", rows))
    for reason in plan.illegal:
        console.print(f"illegal: {reason}", markup=False, highlight=False)
