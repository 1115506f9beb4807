"""The verbs `bae-ray comsem | judge serve | judge check`."""

import sys
from pathlib import Path

from bae_ray.cli.address import AddressConfig, check_address, is_loopback
from bae_ray.cli.command import Command, Held
from bae_ray.cli.exit_codes import EXIT_SOME_FAILED
from bae_ray.comsem.config import RANDOM, ComSemConfig, JudgeConfig
from bae_ray.comsem.reachability import unreachable
from bae_ray.errors import InvalidInputError, JudgeError
from bae_ray.files import write_text
from bae_ray.locations import Place, shown
from bae_ray.serving.config import DRAIN_S, JudgeServiceConfig
from bae_ray.serving.ray_serve.environment import prepare
from bae_ray.working_copies import reading, working


class ComSemCommand(Command):
    """Let a judge (a language model) name features and score the names. Each answer is cached and paid for once."""

    comsem: Held[ComSemConfig]
    """What to name and score."""
    out: Place
    """Output folder, here or at a URI such as s3://bucket/folder: summary.csv, and for each autoencoder
    features.parquet and features.html."""
    json_features: bool = False
    """Also write a JSON file for each active feature, with its activations in Neuronpedia's format."""
    publish: bool = False
    """Also put the features' cards (names, scores, examples) into the autoencoders' folders, where `bae-ray serve`
    finds them."""
    dry_run: bool = False
    """Only print what the judge would be asked, and what that would cost."""


def comsem(command: ComSemCommand) -> int:
    """Run `bae-ray comsem`."""
    from bae_ray.comsem.name_and_score import dry_run
    from bae_ray.report.comsem_terminal import print_cost

    elsewhere = [source for source in command.comsem.autoencoders if source != RANDOM and not reading(source).is_dir()]
    if command.publish and elsewhere:
        raise InvalidInputError(
            f"--publish writes into the autoencoders' folders, but {elsewhere[0]} is no folder on this machine. "
            "Save it to a folder first (`save_pretrained`), or leave --publish out."
        )
    if command.dry_run:
        print_cost(dry_run(command.comsem, command.out), command.comsem)
        return 0
    with working(command.out, "ComSem"):
        return _comsem(command)


def _comsem(command: ComSemCommand) -> int:
    from bae_ray.comsem.name_and_score import comsem as run
    from bae_ray.comsem.summary import TABLE_FILE
    from bae_ray.report.comsem_terminal import print_summary
    from bae_ray.report.feature_browser import publish_cards, report_features

    outcome = run(command.comsem, command.out, command.record())
    pages = report_features(command.out, command.json_features)
    if command.publish:
        sources = zip(outcome.summary["method"], map(Path, command.comsem.autoencoders), strict=True)
        pages += publish_cards(command.out, {name: source for name, source in sources if source.is_dir()})
    print_summary(outcome)
    for path in (command.out / TABLE_FILE, *pages):
        print(shown(path))
    if outcome.failed:
        print(
            f"failed: {outcome.failed} features or questions of the judge's test have no result, since requests had no "
            "answer; features.parquet says why. The same command asks for them again.",
            file=sys.stderr,
        )
    return EXIT_SOME_FAILED if outcome.failed else 0


class JudgeServeCommand(Command):
    """Serve a language model as a judge, with vLLM, on a GPU or the CPU, until Ctrl-C or SIGTERM."""

    service: Held[JudgeServiceConfig]
    """Which judge."""
    address: Held[AddressConfig]
    """Where to listen."""
    unprotected: bool = False
    """Allow a --host other than the loopback address. The judge asks for no key: anyone who reaches it can use it."""


class JudgeCheckCommand(Command):
    """Test a judge: how often is it right on labelled pairs of a token and a description?"""

    judge: Held[JudgeConfig]
    """Which judge."""
    out: Path | None = None
    """JSON file for the result. None: it is only printed."""


def judge_serve(command: JudgeServeCommand) -> None:
    """Run `bae-ray judge serve`."""
    host, port = command.address.host, command.address.port
    if not command.unprotected and not is_loopback(host):
        raise InvalidInputError(
            f"--host {host} is open to others, and the judge asks for no key. Give --unprotected if everyone who can "
            "reach it may use it."
        )
    check_address(command.address)
    prepare()
    from bae_ray.serving.judge.application import build
    from bae_ray.serving.ray_serve.lifecycle import hosted, serve_until_stopped

    def greeting(url: str) -> str:
        return f"The judge answers: --judge-url {url}/v1 --judge-model {command.service.called}."

    service = hosted(build(command.service), "judge", host, port, None, DRAIN_S)
    serve_until_stopped(service, DRAIN_S, greeting)


def judge_check(command: JudgeCheckCommand) -> int:
    """Run `bae-ray judge check`."""
    import json
    import tempfile

    url, cache = command.judge.judge_url, command.judge.cache
    # Before the imports that take seconds. A cache may hold all answers.
    if not (cache and cache.exists()) and (reason := unreachable(url)):
        raise JudgeError(f"{url} cannot be reached ({reason}). See whether the server is up and --judge-url is right.")
    from bae_ray.comsem.judge_check import JudgeCheck, unmeasured
    from bae_ray.comsem.name_and_score import check
    from bae_ray.comsem.summary import CACHE_FILE, without_nan
    from bae_ray.report.comsem_terminal import check_lines

    def write(checked: JudgeCheck) -> None:
        if command.out is not None:
            record = {"judge": command.judge.judge_model, "url": url, **checked._asdict()}
            write_text(command.out, json.dumps(without_nan(record), indent=2) + "\n")
            print(command.out)

    with tempfile.TemporaryDirectory() as folder:
        try:
            checked, usage = check(command.judge, cache or Path(folder) / CACHE_FILE)
        except JudgeError as error:
            if command.out is not None and not command.out.exists():  # an earlier check stays
                write(unmeasured(str(error)))
            raise
    print(*check_lines(checked, command.judge.judge_model, usage), sep="\n")
    write(checked)
    return EXIT_SOME_FAILED if checked.useless or checked.failed else 0
