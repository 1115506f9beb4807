"""The verb `bae-ray comsem`."""

import sys
from pathlib import Path

from bae_ray.cli.command import Command, Held
from bae_ray.cli.exit_codes import EXIT_SOME_FAILED
from bae_ray.comsem.config import RANDOM, ComSemConfig
from bae_ray.errors import InvalidInputError


class ComSemCommand(Command):
    """Name the features of autoencoders and score the names with a judge. Every answer is kept and paid for once."""

    comsem: Held[ComSemConfig]
    """What to name and score."""
    out: Path
    """Folder of the results: summary.csv, and per autoencoder features.parquet and features.html."""
    json_features: bool = False
    """Also write a JSON file per active feature, its activations in Neuronpedia's form."""
    publish: bool = False
    """Also put the cards into the autoencoders' folders, where `bae-ray serve` finds them."""
    dry_run: bool = False
    """Only print what would be asked, and what that would cost."""


def comsem(command: ComSemCommand) -> int:
    """Run `bae-ray comsem`."""
    from bae_ray.comsem.name_and_score import comsem as run
    from bae_ray.comsem.name_and_score import dry_run
    from bae_ray.comsem.summary import TABLE_FILE
    from bae_ray.report.card_file import publish_cards
    from bae_ray.report.comsem_terminal import print_cost, print_summary
    from bae_ray.report.feature_browser import report_features

    elsewhere = [source for source in command.comsem.autoencoders if source != RANDOM and not Path(source).is_dir()]
    if command.publish and elsewhere:
        raise InvalidInputError(
            f"--publish writes into the autoencoders' folders, and {elsewhere[0]} is none on this machine. Save it to "
            "a folder first (`save_pretrained`), or leave --publish out."
        )
    if command.dry_run:
        print_cost(dry_run(command.comsem, command.out), command.comsem)
        return 0
    outcome = run(command.comsem, command.out, command.record())
    pages = report_features(command.out, command.json_features)
    if command.publish:
        sources = zip(outcome.summary["method"], map(Path, command.comsem.autoencoders), strict=True)
        pages += publish_cards(command.out, {name: source for name, source in sources if source.is_dir()})
    print_summary(outcome)
    for path in (command.out / TABLE_FILE, *pages):
        print(path)
    if outcome.failed:
        print(
            f"failed: {outcome.failed} features or questions of the judge's test have no result, since requests had no "
            "answer; features.parquet says why. The same command asks for them again.",
            file=sys.stderr,
        )
    return EXIT_SOME_FAILED if outcome.failed else 0
