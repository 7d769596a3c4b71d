"""The command line: each command a few lines over a plain function of the package.

Heavy imports stay inside the commands, so that ``beto-spacy --help`` answers at once. A problem that the user can act
on is one message on standard error and exit code 1.
"""

import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import click

from beto_spacy import __version__
from beto_spacy.errors import BetoError

SENTENCE = "Dale, mandámelo a Montevideo: la selección de Uruguay ganó otra vez y María está muy contenta. 😊"


class _Group(click.Group):
    """Prints our errors without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BetoError as error:
            problem = error
        except OSError as error:  # what no function foresaw of files and disks
            what = f"{error.strerror or error}."
            problem = BetoError("B001", what, "Check the path, the rights to it and the space.", path=error.filename)
        click.secho(str(problem), fg="red", err=True)
        sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="beto-spacy")
def main() -> None:
    """spaCy pipelines on BETO, the Spanish BERT: corpora in, trained and packaged pipelines out."""


@main.command("convert")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--format", help="conllu, cess, iob, brat, jsonl, csv, tsv, lines or squad; detected if not given.")
@click.option(
    "--n-sents", type=int, help="Sentences a document; by default 10 for CoNLL-U and with --sentences, else 1."
)
@click.option("--slice", help="Take some records only: start:stop[:step], or !start:stop[:step] for all the others.")
@click.option("--no-final-punctuation", is_flag=True, help="Leave out the marks that end sentences.")
@click.option("--sentences", is_flag=True, help="Keep only where sentences start, and only sentences that look whole.")
@click.option("--encoding", default="utf-8", show_default=True)
@click.option("--lang", default="es", show_default=True, help="Whose tokenizer splits texts that have no tokens.")
@click.option("--strict", is_flag=True, help="Fail on anything that would only be reported.")
@click.option(
    "--repair", is_flag=True, default=None, help="Accept entity tags that don't follow their scheme (I- after O)."
)
@click.option("--tag-column", help="Columns: the one with the tags, counted from 0, or 'none'.")
@click.option("--keep-subtokens", is_flag=True, help="CoNLL-U: keep the words of contractions and enclitics apart.")
@click.option("--text-column", help="CSV and TSV: name or number of the column.")
@click.option("--label-column", help="CSV and TSV: name or number of the column.")
@click.option("--id-column", help="CSV and TSV: name or number of the column.")
@click.option(
    "--header", type=click.Choice(["auto", "yes", "no"]), help="CSV and TSV: whether the first line has names."
)
@click.option("--label-separator", help="CSV and TSV: what separates several labels of a text.")
@click.option("--quoting", type=click.Choice(["auto", "double", "none"]), help='CSV and TSV: what the sign " does.')
@click.option("--labels", help="Categories: the only labels there are, separated by commas.")
@click.option(
    "--labels-path", type=click.Path(path_type=Path), help="Categories: a file with a label a line beside the texts."
)
@click.option("--label-names", help="Categories: names of labels that are numbers, separated by commas.")
def convert_command(sources: Tuple[Path, ...], dest: Path, slice: Optional[str], **options: Any) -> None:
    """Turn SOURCES, corpora in a public format, into the spaCy file DEST, and say what was seen.

    CoNLL-U, CoNLL-2002/IOB/IOBES columns, brat, categories in JSONL, CSV, TSV or parallel files, SQuAD JSON.
    """
    from beto_spacy.corpora.reader import convert

    options["final_punctuation"] = not options.pop("no_final_punctuation")
    if options.pop("keep_subtokens"):
        options["merge_subtokens"] = False
    for name in ("labels", "label_names"):
        if options[name] is not None:
            options[name] = [part.strip() for part in options[name].split(",")]
    options = {name: value for name, value in options.items() if value is not None}
    column = options.get("tag_column", "")
    if column == "none":
        options["tag_column"] = None
    elif column.lstrip("-").isdigit():
        options["tag_column"] = int(column)
    click.echo(convert(sources, dest, slice=slice, **options))


@main.command("evaluate")
@click.argument("model")
@click.argument("corpora", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The folder for the report.")
@click.option("--plots/--no-plots", default=None, help="Draw plots, or not; by default if matplotlib is there.")
@click.option("--gpu", default=-1, show_default=True, help="Number of the GPU; -1 for the CPU.")
@click.option("--batch-size", type=int, help="Documents a batch; by default the pipeline's own.")
@click.option("--runs", default=3, show_default=True, help="Timed runs over each corpus; 0 to measure no speed.")
@click.option("--gold-tokens", is_flag=True, help="Annotate the corpus' own tokens instead of its text.")
@click.option("--title", help="Heading of the report.")
def evaluate_command(model: str, corpora: Tuple[Path, ...], output: Path, gpu: int, runs: int, **options: Any) -> None:
    """Score MODEL (a package or a folder) on CORPORA: report.json, report.md and plots in a folder.

    CORPORA are .spacy files, folders of them, or any format that 'convert' knows without being told.
    """
    from beto_spacy.evaluation.run import evaluate_model, render_summary

    report = evaluate_model(model, corpora, output, gpu_id=gpu, n_words_per_second_runs=runs, **options)
    click.echo(render_summary(report))
    click.echo(f"Report: {output / 'report.md'}")


@main.command("conll18")
@click.argument("model")
@click.argument("gold", type=click.Path(path_type=Path))
@click.option("--gpu", default=-1, show_default=True, help="Number of the GPU; -1 for the CPU.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON.")
def conll18_command(model: str, gold: Path, gpu: int, output: Optional[Path]) -> None:
    """Score MODEL on the raw text of the treebank GOLD (CoNLL-U) as the CoNLL 2018 shared task does."""
    from beto_spacy.evaluation.run import evaluate_raw, render_raw
    from beto_spacy.files import write_json

    scores = evaluate_raw(model, gold, gpu_id=gpu)
    click.echo(render_raw(scores))
    if output is not None:
        write_json(scores, output)


@main.command("annotate")
@click.argument("model")
@click.argument("texts", nargs=-1, required=True)
@click.option("--format", "format_", type=click.Choice(["conllu"]), default="conllu", show_default=True)
@click.option("--expand/--merged", default=True, show_default=True, help="Take contractions and enclitics apart.")
@click.option("--gpu", default=-1, show_default=True, help="Number of the GPU; -1 for the CPU.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write; by default it's printed."
)
def annotate_command(
    model: str, texts: Tuple[str, ...], format_: str, expand: bool, gpu: int, output: Optional[Path]
) -> None:
    """Annotate TEXTS with MODEL: running text (.txt, .xz, .gz), a paragraph a line, a blank line between documents."""
    from beto_spacy.apps.annotate import annotate_conllu
    from beto_spacy.files import new_file
    from beto_spacy.pipeline.loading import load_pipeline

    annotated = annotate_conllu(load_pipeline(model, gpu=gpu), texts, expand_words=expand)
    if output is None:
        for part in annotated:
            click.echo(part, nl=False)
        return
    with new_file(output) as beside, open(beside, "w", encoding="utf8") as out:
        out.writelines(annotated)
    click.echo(f"Annotation: {output}")


@main.command("calibrate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("corpora", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="The folder to save it in, instead of MODEL.")
@click.option("--gpu", default=-1, show_default=True, help="Number of the GPU; -1 for the CPU.")
def calibrate_command(model: Path, corpora: Tuple[Path, ...], output: Optional[Path], gpu: int) -> None:
    """Calibrate the probabilities of the pipeline in the folder MODEL on the development corpora CORPORA."""
    from beto_spacy.training.calibrate import calibrate_model

    for name, chosen in calibrate_model(model, corpora, output=output, gpu=gpu).items():
        thresholds = "".join(f", {label} from {t:.3f}" for label, t in chosen.get("thresholds", {}).items())
        click.echo(f"{name}: temperature {chosen['temperature']:.3f}{thresholds}")


@main.command("build-encoder")
@click.argument("texts", nargs=-1, type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--vocabulary", type=click.Path(path_type=Path), help="A vocab.txt to take instead of training one.")
@click.option("--vocabulary-size", default=8_000, show_default=True, help="Wordpieces of a vocabulary that is trained.")
@click.option("--layers", default=3, show_default=True)
@click.option("--width", default=128, show_default=True, help="Of the hidden states.")
@click.option("--heads", default=4, show_default=True, help="Attention heads.")
@click.option("--max-length", default=512, show_default=True, help="The longest sequence, in wordpieces.")
@click.option(
    "--like",
    help="An encoder whose kind, size and vocabulary are taken instead: a folder, beto-mini, a hub name.",
)
@click.option("--seed", default=0, show_default=True)
def build_encoder_command(texts: Tuple[Path, ...], dest: Path, **options: Any) -> None:
    """Build a small BERT with random weights in DEST, its vocabulary trained on TEXTS.

    TEXTS are plain text (.txt, .xz, .gz; a paragraph a line) or corpora in any format that 'convert' reads or writes.
    """
    from beto_spacy.training.vocabulary import build_encoder

    click.echo(f"Encoder: {build_encoder(texts, dest, **options)}")


@main.command("clean-texts")
@click.argument("sources", nargs=-1, required=True)
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--share", default=1.0, show_default=True, help="The largest part of all words that a register may have.")
@click.option("--held-out-words", default=20_000, show_default=True, help="Words of each register put aside.")
@click.option("--seed", default=0, show_default=True)
def clean_texts_command(sources: Tuple[str, ...], dest: Path, **options: Any) -> None:
    """Clean running text for pretraining, even out its registers, and put some of each aside.

    SOURCES are registers and their files, such as news=a.txt.xz,b.txt.xz. Boilerplate and near-duplicates are left out.
    """
    from beto_spacy.formats.running_text import clean_texts, parse_source, render_report

    click.echo(render_report(clean_texts([parse_source(source) for source in sources], dest, **options)))


@main.command("pretrain", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("what", type=click.Path(path_type=Path))
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
@click.option("--evaluate", is_flag=True, help="Measure the encoder WHAT on the held-out texts REST.")
@click.option("--throughput", is_flag=True, help="Measure its speed beside a bare loop's; REST are overrides only.")
@click.option("--restart", is_flag=True, help="Forget the checkpoints of an earlier run.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write what was measured as JSON.")
def pretrain_command(
    what: Path, rest: Tuple[str, ...], evaluate: bool, throughput: bool, restart: bool, output: Optional[Path]
) -> None:
    """Pretrain an encoder on running text: masked words, and next sentences by option.

    \b
    beto-spacy pretrain CONFIG DEST [--section.field VALUE]...
    beto-spacy pretrain --evaluate ENCODER TEXTS...
    beto-spacy pretrain --throughput CONFIG [--section.field VALUE]...

    CONFIG is configs/pretrain.cfg; its fields are overridden by options such as --training.steps 1000. A run that was
    stopped goes on when it's called again.
    """
    from beto_spacy.encoders.masked import evaluate_encoder, render_evaluation
    from beto_spacy.files import write_json
    from beto_spacy.training.pretrain import measure_throughput_from_config, pretrain_from_config, render_throughput

    paths, overrides = _split_overrides(rest)
    if evaluate:
        if not paths or overrides:
            raise click.UsageError("Name the held-out texts, and nothing to override.")
        result: Any = evaluate_encoder(str(what), paths)
        click.echo(render_evaluation(result))
    elif throughput:
        result = measure_throughput_from_config(what, overrides=overrides)
        click.echo(render_throughput(result))
    else:
        if len(paths) != 1:
            raise click.UsageError(f"Name one folder for the encoder, not {len(paths)}.")
        result = pretrain_from_config(what, paths[0], overrides=overrides, restart=restart)
        click.echo(f"Encoder: {paths[0]}, {result['steps']:,} steps, {result['n_tokens']:,} wordpieces")
    if output is not None:
        write_json(result, output)


@main.command("add-wordpieces")
@click.argument("encoder")
@click.argument("dest", type=click.Path(path_type=Path))
@click.argument("pieces", nargs=-1)
def add_wordpieces_command(encoder: str, dest: Path, pieces: Tuple[str, ...]) -> None:
    """Give ENCODER new wordpieces, PIECES or else the usual emoji, and write it to DEST, to be trained further."""
    from beto_spacy.encoders.masked import EMOJI, add_wordpieces

    click.echo(f"Encoder: {dest}, {add_wordpieces(encoder, dest, pieces or EMOJI)} wordpieces added")


@main.command("unknown")
@click.argument("encoder")
@click.argument("corpora", nargs=-1, required=True)
@click.option("--most", default=20, show_default=True, help="Characters to list.")
def unknown_command(encoder: str, corpora: Tuple[str, ...], most: int) -> None:
    """List the commonest characters of CORPORA, .spacy files, that the vocabulary of ENCODER lacks."""
    from beto_spacy.training.unknown import find_unknown, render_unknown

    click.echo(render_unknown(find_unknown(encoder, list(corpora)), most=most))


def _split_overrides(arguments: Tuple[str, ...]) -> Tuple[List[str], Dict[str, Any]]:
    """Part ``--section.field VALUE`` and ``--section.field=VALUE`` from the rest; values are JSON, or else text."""
    rest: List[str] = []
    found: Dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            rest.append(word)
            continue
        name, sign, value = word.partition("=")
        if "." not in name or not (sign or words):
            raise click.UsageError(f"'{name}' is no override: write --section.field VALUE.")
        value = value if sign else words.pop(0)
        try:
            found[name[2:]] = json.loads(value)
        except ValueError:
            found[name[2:]] = value
    return rest, found


class _Auto(click.ParamType):
    """A number, or ``auto`` for what suits."""

    name = "number|auto"

    def __init__(self, kind: Callable[[str], Any]):
        self.kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value == "auto":
            return None
        try:
            return self.kind(value)
        except ValueError:
            self.fail(f"'{value}' is neither a number nor 'auto'.", param, ctx)


@main.command("train", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The folder for the trained pipeline.")
@click.option("--passes", type=_Auto(float), default="auto", help="Passes over the training corpora.")
@click.option("--updates", type=_Auto(int), default="auto", help="The number of updates, instead of passes.")
@click.option("--evaluations", default=8, show_default=True, help="How often the development corpora are scored.")
@click.option("--learn-rate", type=_Auto(float), default="auto", help="By default what suits the encoder's width.")
@click.option(
    "--add-wordpieces",
    default="none",
    show_default=True,
    help="Signs that the encoder gets wordpieces for, with spaces between; 'auto' for those of the corpora.",
)
@click.option("--gpu", default=-1, show_default=True, help="Number of the GPU; -1 for the CPU.")
def train_command(config: Path, rest: Tuple[str, ...], **options: Any) -> None:
    """Train a pipeline as CONFIG says; updates, warm-up and learning rate follow from corpora and encoder.

    Fields of the config are overridden as --section.field VALUE.
    """
    from beto_spacy.training.train import train

    paths, overrides = _split_overrides(rest)
    if paths:
        raise click.UsageError(f"'{paths[0]}' is no override: write --section.field VALUE.")
    pieces = options.pop("add_wordpieces")
    options["add_wordpieces"] = {"auto": "auto", "none": []}.get(pieces, pieces.split())
    for name, value in train(config, overrides=overrides, **options).items():
        click.echo(f"{name} = {value}")


@main.command("compare", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("corpora", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--variant", "variants", multiple=True, required=True, help="name:section.field=value;section.field=value"
)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The folder for the scores.")
@click.option("--calibrate", multiple=True, help="A development corpus to calibrate on before the scoring.")
@click.option("--gpu", default=-1, show_default=True, help="Number of the GPU; -1 for the CPU.")
def compare_command(
    config: Path, corpora: Tuple[str, ...], variants: Tuple[str, ...], seeds: str, **options: Any
) -> None:
    """Train variants of CONFIG with several seeds, score them on CORPORA, and tabulate the difference.

    What all variants override is given as --section.field VALUE. A comparison that was stopped goes on where it was.
    """
    from beto_spacy.training.compare import compare_trainings, parse_variant, render_comparison

    paths, overrides = _split_overrides(corpora)
    named = dict(map(parse_variant, variants))
    if len(named) < len(variants):
        raise click.UsageError("Two variants have the same name.")
    if not all(seed.strip().isdigit() for seed in seeds.split(",")):
        raise click.UsageError(f"'{seeds}' are no seeds: write whole numbers, separated by commas.")
    comparison = compare_trainings(
        config,
        named,
        paths,
        seeds=[int(seed) for seed in seeds.split(",")],
        overrides=overrides,
        **options,
    )
    click.echo(render_comparison(comparison))


@main.command("quantize")
@click.argument("model")
@click.argument("dest", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True)
@click.option("--max-loss", default=0.3, show_default=True, help="Points that any score may lose.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON.")
def quantize_command(model: str, dest: Path, sources: Tuple[str, ...], max_loss: float, output: Optional[Path]) -> None:
    """Write MODEL with its encoder in 8-bit integers to DEST, after measuring on SOURCES what that costs.

    SOURCES are corpora as 'convert' reads or writes them, or running text (.txt, .xz, .gz). Wants the extra 'onnx'.
    """
    from beto_spacy.deploy.quantize import quantize_model, render_quantized
    from beto_spacy.files import write_json

    result = quantize_model(model, dest, sources, max_loss=max_loss, say=lambda line: click.echo(line, err=True))
    click.echo(render_quantized(result))
    if output is not None:
        write_json(result, output)


@main.command("distill", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("teacher")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("dest", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--corpus", "corpora", multiple=True, help="An annotated corpus to score both on.")
@click.option("--gpu", default=-1, show_default=True, help="Number of the GPU; -1 for the CPU.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON.")
def distill_command(
    teacher: str, config: Path, dest: Tuple[str, ...], corpora: Tuple[str, ...], gpu: int, output: Optional[Path]
) -> None:
    """Train a smaller pipeline on unlabelled text to annotate as TEACHER does, and write it to DEST.

    \b
    beto-spacy distill TEACHER CONFIG DEST [--section.field VALUE]...

    CONFIG is configs/distill.cfg; its fields are overridden by options such as --student.layers 3.
    """
    from beto_spacy.files import write_json
    from beto_spacy.training.distill import distill_from_config, render_distilled

    places, overrides = _split_overrides(dest)
    if len(places) != 1:
        raise click.UsageError(f"Name one folder for the student, not {len(places)}.")
    result = distill_from_config(
        teacher,
        config,
        places[0],
        overrides=overrides,
        corpora=corpora,
        gpu=gpu,
        say=lambda line: click.echo(line, err=True),
    )
    click.echo(render_distilled(result))
    if output is not None:
        write_json(result, output)


@main.command("assets")
@click.argument("project", default=".", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--mirror", default="", help="A folder to copy the assets from, instead of downloading them.")
@click.option("--extra", multiple=True, metavar="DEST", help="Bring this asset only, which is marked as extra.")
def assets_command(project: Path, mirror: str, extra: Tuple[str, ...]) -> None:
    """Bring the assets of PROJECT (a folder with a project.yml) to their places, and check them."""
    from beto_spacy.deploy.project import fetch_assets

    click.echo(f"{len(fetch_assets(project, mirror=mirror or None, extra=extra))} assets are in place.")


@main.command("package")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--version", default="0.0.0", show_default=True, help="Version of the package.")
def package_command(model: Path, output: Path, version: str) -> None:
    """Build the wheel of the trained pipeline MODEL in the folder OUTPUT, named es_beto_trf."""
    from beto_spacy.deploy.project import build_package

    click.echo(f"Wheel: {build_package(model, output, version=version)}")


@main.command("smoke")
@click.argument("wheel", type=click.Path(path_type=Path))
@click.option("--text", default=SENTENCE, help="What to annotate.")
@click.option("--isolated", is_flag=True, help="Install all requirements too, from the package index.")
def smoke_command(wheel: Path, text: str, isolated: bool) -> None:
    """Install WHEEL (or the newest es_beto_trf in that folder) in a new virtual environment, and annotate a text."""
    from beto_spacy.deploy.project import smoke_test

    seen = smoke_test(wheel, text, isolated=isolated)
    click.echo(f"es_beto_trf {seen['version']} works in a new environment: {', '.join(seen['pipeline'])}.")


@main.command("install")
@click.argument("wheel", type=click.Path(path_type=Path))
def install_command(wheel: Path) -> None:
    """Install WHEEL (or the newest es_beto_trf in that folder) in this environment."""
    from beto_spacy.deploy.project import install_wheel

    click.echo(f"Installed: {install_wheel(wheel)}")


@main.command("show")
@click.argument("model")
@click.argument("text", default=SENTENCE)
@click.option("--gpu", default=-1, show_default=True, help="Number of the GPU; -1 for the CPU.")
def show_command(model: str, text: str, gpu: int) -> None:
    """Annotate TEXT with MODEL (a package or a folder) and print what it says."""
    from beto_spacy.apps.annotate import render_doc
    from beto_spacy.pipeline.loading import load_pipeline

    click.echo(render_doc(load_pipeline(model, gpu=gpu)(text)))


@main.command("benchmark", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("encoder")
@click.argument("texts", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    default=("short", "paragraphs", "book"),
    show_default=True,
    help="Kinds of text: short, paragraphs, book (one document), mixed.",
)
@click.option("--limit", default=60, show_default=True, help="Texts of each kind at most.")
@click.option("--book", default=100_000, show_default=True, help="Characters of the book.")
@click.option("--runs", default=5, show_default=True, help="Alternated runs of each pipeline.")
@click.option("--heads/--no-heads", default=True, show_default=True, help="Measure with heads, or the encoder alone.")
@click.option("--batch-wordpieces", type=int, help="Of our encoder; by default what suits the device.")
@click.option("--batch-size", default=256, show_default=True, help="Documents that the pipelines buffer.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    default=("fp32",),
    show_default=True,
    help="Of our encoder: fp32, int8 (CPU), bf16, fp16 (GPU); several are measured beside one another.",
)
@click.option("--gpu-id", default=-1, show_default=True, help="The GPU; -1 for the CPU.")
@click.option("--peer", "peers", multiple=True, help="A trained pipeline to measure too, by package or folder.")
@click.option("--speed/--no-speed", default=True, show_default=True, help="Measure words a second.")
@click.option(
    "--footprint/--no-footprint", default=True, show_default=True, help="Measure size, loading and peak memory."
)
@click.option(
    "--growth",
    multiple=True,
    help="Measure how time and memory grow up to kind=size: short=200000 documents, or paragraphs=20000000 characters.",
)
@click.option("--zone", default=0, help="Documents of each of spaCy's memory zones in --growth; 0 for none.")
@click.option("--training", type=click.Path(path_type=Path), help="Measure updates of this training config.")
@click.option("--corpus", type=click.Path(path_type=Path), help="What to train on: .spacy files.")
@click.option("--updates", default=10, show_default=True, help="Timed updates of a training.")
@click.option("--plots/--no-plots", default=None, help="Draw plots, or not; by default if matplotlib is there.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="A folder for JSON, Markdown and plots; or a .json file."
)
def benchmark_command(
    encoder: str,
    texts: Tuple[str, ...],
    growth: Tuple[str, ...],
    plots: Optional[bool],
    output: Optional[Path],
    **options: Any,
) -> None:
    """Compare speed, memory and size with spacy-transformers' own component on the same weights, ENCODER, over TEXTS.

    Fields of the config of --training are overridden as --section.field VALUE.
    """
    from beto_spacy.benchmark.report import check_output, render_benchmark, write_benchmark
    from beto_spacy.benchmark.speed import benchmark
    from beto_spacy.benchmark.texts import parse_growth

    paths, overrides = _split_overrides(texts)
    if not paths or (overrides and options["training"] is None):
        raise click.UsageError("Name the texts, and override fields only with --training.")
    if output is not None:
        check_output(output, plots)
    options["growth"] = [parse_growth(one) for one in growth]
    result = benchmark(encoder, paths, overrides=overrides, **options)
    click.echo(render_benchmark(result))
    if output is not None:
        write_benchmark(result, output, plots=plots)
