"""The verbs `bae-ray comsem` and `bae-ray judge check`."""

import sys
from pathlib import Path

from bae_ray.cli.parsing import EXIT_SOME_FAILED
from bae_ray.comsem.config import ComSemConfig, JudgeConfig
from bae_ray.files import write_text


class ComSemCommand(ComSemConfig):
    """Name the features of autoencoders and score the names with a judge; what was answered is never asked again."""

    out: Path
    """Folder of the results: summary.csv, and per autoencoder features.parquet and features.html."""
    json_features: bool = False
    """Also write a JSON file per active feature, its activations in Neuronpedia's form."""
    dry_run: bool = False
    """Only print what would be asked, and what that would cost."""


class JudgeCheckCommand(JudgeConfig):
    """Put a judge to the test: how often it is right on labelled pairs of token and description."""

    out: Path | None = None
    """File of the result, as JSON."""


def comsem(command: ComSemCommand) -> int:
    """Run `bae-ray comsem`."""
    from bae_ray.comsem.layout import TABLE_FILE
    from bae_ray.comsem.pipeline import comsem as run
    from bae_ray.comsem.pipeline import dry_run
    from bae_ray.report.comsem import print_plan, print_summary
    from bae_ray.report.features import report_features

    if command.dry_run:
        print_plan(dry_run(command, command.out), command)
        return 0
    outcome = run(command, command.out)
    pages = report_features(command.out, command.json_features)
    print_summary(outcome)
    for path in (command.out / TABLE_FILE, *pages):
        print(path)
    if outcome.failed:
        print(
            f"failed: {outcome.failed} features have no result, since requests had no answer; features.parquet says "
            "why. The same command asks for them again.",
            file=sys.stderr,
        )
    return EXIT_SOME_FAILED if outcome.failed else 0


def judge_check(command: JudgeCheckCommand) -> int:
    """Run `bae-ray judge check`."""
    import json
    import tempfile

    from bae_ray.comsem.layout import CACHE_FILE, without_nan
    from bae_ray.comsem.pipeline import check
    from bae_ray.report.comsem import print_check

    with tempfile.TemporaryDirectory() as folder:
        checked, usage = check(command, command.cache or Path(folder) / CACHE_FILE)
    print_check(checked, command.judge_model, usage)
    if command.out is not None:
        record = {"judge": command.judge_model, "url": command.judge_url, **checked._asdict()}
        write_text(command.out, json.dumps(without_nan(record), indent=2) + "\n")
        print(command.out)
    return EXIT_SOME_FAILED if checked.useless else 0
