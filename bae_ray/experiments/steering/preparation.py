"""All that the experiment reads, checked before a model is loaded: prompts, labels, neutral texts."""

from itertools import product
from statistics import median
from typing import NamedTuple

import pyarrow as pa
from pydantic import ValidationError

from bae_ray.activations import corpus
from bae_ray.activations.config import CorpusConfig, ExtractConfig, TokensConfig
from bae_ray.activations.dataset import read_corpus, tables
from bae_ray.activations.labelled import Labelled, label_ids, read_labelled
from bae_ray.activations.model import ModelSource, check_request, find_model
from bae_ray.activations.prompts import SampledPrompts
from bae_ray.activations.reading.blocks import TEXT
from bae_ray.activations.tokenising import tokenize, tokenizer_of
from bae_ray.autoencoders.architectures import find_architecture
from bae_ray.config import describe
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.extractions import check_extract
from bae_ray.experiments.steering.calibration import Split, split
from bae_ray.experiments.steering.config import SteeringConfig
from bae_ray.training.axes import parse_axis

SECTION = "autoencoder."


class Test(NamedTuple):
    """What a seed steers."""

    split: Split
    prompts: list[list[int]]
    """Token ids of the prompts without demonstrations."""
    answers: list[int]
    """Number of each one's label."""


class Prepared(NamedTuple):
    """What the experiment reads."""

    source: ModelSource
    layers: tuple[int, ...]
    """All layers at which anything steers."""
    site: str
    examples: Labelled
    labels: tuple[tuple[int, ...], ...]
    """Token ids of each label."""
    tests: dict[int, Test]
    """By seed."""
    neutral: list[list[int]]
    """Token ids of neutral texts."""


def prepare(config: SteeringConfig) -> Prepared:
    """Read the corpora and check them. Raises `InvalidInputError`; no model is loaded, only its tokenizer."""
    source = find_model(config.extract.model, config.extract.revision)
    layers = tuple(sorted({config.layer, *config.layers, *(config.extract.layers or ())}))
    _check(config, source, layers)
    found = corpus.resolve(config.prompts, config.input.label_column)
    _refuse_chats(found, config.prompts)
    examples = read_labelled(prompts_of(config, config.prompts, layers), config.input, found, source)
    labels = label_ids(examples.format, tokenizer_of(source))
    tests: dict[int, Test] = {}
    for seed in config.seeds:
        chosen = split(examples.texts, config.test, config.calibration, config.input.k, seed)
        written = [examples.format.write(examples.texts, examples.labels, [], i) for i in chosen.test]
        prompts = _tokens(written, source, None)
        _check_lengths(prompts, chosen.test, max(map(len, labels)) - 1, source)
        _check_demonstrated(config, examples, chosen, seed, source)
        tests[seed] = Test(chosen, prompts, [int(examples.labels[i]) for i in chosen.test])
    return Prepared(source, layers, config.extract.sites[0], examples, labels, tests, _neutral(config, source))


def prompts_of(config: SteeringConfig, texts: CorpusConfig, layers: tuple[int, ...]) -> ExtractConfig:
    """The extraction of the last token of prompts of another corpus, with the same model and workers."""
    fields = {"positions": ("last",), "powers_of_two": None, "tokens": TokensConfig(), "max_tokens": None}
    return config.extract.model_copy(update={**dict(texts), **fields, "layers": layers})


def _check(config: SteeringConfig, source: ModelSource, layers: tuple[int, ...]) -> None:
    extract, sweep = config.extract, config.sweep
    check_extract(extract, positions=("all",))
    if len(extract.sites) != 1:
        raise InvalidInputError(f"extract.sites is {extract.sites}: this job steers at one site. Name one.")
    if extract.layers is None or config.layer not in extract.layers:
        raise InvalidInputError(
            f"layer is {config.layer}, which is not among extract.layers {extract.layers}: add it there."
        )
    check_request(source, layers, extract.sites, ("last",), None)
    if config.input.demonstrations != "sampled" or config.input.k < 1:
        raise InvalidInputError(
            f"input.demonstrations is {config.input.demonstrations} and input.k {config.input.k}: this job takes "
            "sampled ones, 1 at least, so that no query is its own demonstration."
        )
    if sweep.seeds or not sweep.search.is_grid:
        raise InvalidInputError("sweep.seeds and sweep.search: leave them out; the job's own seeds train every run.")
    for name, d_latent in _widths(config, source).items():
        for kept in (config.kept, *config.kept_compared):
            if kept is not None and kept > d_latent:
                raise InvalidInputError(
                    f"{kept} latents are to be kept, but {name} has {d_latent}. Lower kept and kept_compared, or raise "
                    "the expansion."
                )


def _widths(config: SteeringConfig, source: ModelSource) -> dict[str, int]:
    """Latents of each architecture of the sweep. Raises `InvalidInputError` for one that does not fit, or is twice."""
    given = config.sweep.autoencoder.model_dump()
    found: dict[str, int] = {}
    for points in product(*map(parse_axis, config.sweep.axes)):
        settings = {setting.field: setting.value for point in points for setting in point}
        chosen = {name.removeprefix(SECTION): value for name, value in settings.items() if name.startswith(SECTION)}
        architecture = find_architecture(str(chosen.get("architecture", given["architecture"])))
        if architecture.reconstructs != "input":
            raise InvalidInputError(
                f"a {architecture.label} reads one cell and reconstructs another: this job needs the same cell."
            )
        if architecture.name in found:
            raise InvalidInputError(
                f"the sweep has several settings of {architecture.name}: this job takes one run of each architecture "
                "per layer and seed. Leave the other axes out, or let them go together with the architecture."
            )
        fields = {name: value for name, value in given.items() if name in architecture.config.model_fields}
        fields["architecture"] = architecture.name
        try:
            filled = architecture.config.model_validate({**fields, **chosen, "d_in": source.hidden_size})
        except ValidationError as error:
            raise InvalidInputError(describe(error, architecture.config)) from error
        found[architecture.name] = filled.widths()[1]
    return found


def _check_lengths(prompts: list[list[int]], numbers: list[int], more: int, source: ModelSource) -> None:
    longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
    tokens = len(prompts[longest]) + more
    if source.max_positions is not None and tokens > source.max_positions:
        raise InvalidInputError(
            f"the prompt of example {numbers[longest]} has {tokens} tokens with its label; the model takes "
            f"{source.max_positions}, {source.limited_by}. Give a corpus of shorter texts."
        )


def _check_demonstrated(
    config: SteeringConfig, examples: Labelled, chosen: Split, seed: int, source: ModelSource
) -> None:
    """Raise `InvalidInputError` where most prompts with demonstrations are too long; an extraction leaves those out."""
    texts, labels = [examples.texts[i] for i in chosen.pool], examples.labels[chosen.pool]
    drawer = SampledPrompts(texts, config.input.k, seed)
    drawn = [drawer.draw(i) for i in range(config.calibration)]
    written = [examples.format.write(texts, labels, one.demonstrations, one.query) for one in drawn]
    lengths = [len(ids) for ids in _tokens(written, source, None)]
    too_long = sum(source.max_positions is not None and length > source.max_positions for length in lengths)
    if 2 * too_long > len(lengths):
        raise InvalidInputError(
            f"{too_long} of {len(lengths)} prompts of {config.input.k} demonstrations are too long: the model takes "
            f"{source.max_positions} tokens, {source.limited_by}, and half have {int(median(lengths))} or more. "
            "Ask for fewer demonstrations (input.k), or give a corpus of shorter texts."
        )


def _neutral(config: SteeringConfig, source: ModelSource) -> list[list[int]]:
    found = corpus.resolve(config.neutral)
    _refuse_chats(found, config.neutral)
    extract, texts = prompts_of(config, config.neutral, (0,)), list[str]()
    for table in tables(read_corpus(found, extract), extract):
        texts += [text for text in table[TEXT].to_pylist() if text]
        if config.neutral.max_texts is not None and len(texts) >= config.neutral.max_texts:
            break
    limits = [limit for limit in (config.neutral_tokens, source.max_positions) if limit is not None]
    ids = [row for row in _tokens(texts[: config.neutral.max_texts], source, min(limits)) if row]
    if not ids:
        raise InvalidInputError(f"corpus '{config.neutral.corpus}' has no text: expected neutral texts. Give another.")
    return ids


def _tokens(texts: list[str], source: ModelSource, read: int | None) -> list[list[int]]:
    table = pa.table({"prompt": pa.array(texts, pa.string())})
    return tokenize(table, "prompt", source, read, added=False)["token_ids"].to_pylist()


def _refuse_chats(found: corpus.LocalFiles | corpus.HubDataset, texts: CorpusConfig) -> None:
    if isinstance(found, corpus.LocalFiles) and found.columns.chat:
        raise InvalidInputError(
            f"column '{texts.text_column}' of corpus '{texts.corpus}' holds lists of messages; this job takes texts."
        )
