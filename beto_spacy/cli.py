"""The command line: each command a few lines over a plain function of the package.

Heavy imports stay inside the commands, so that ``beto-spacy --help`` answers at once. A problem that the user can act
on is one message on standard error and exit code 1.
"""

import sys
from pathlib import Path
from typing import Any, Optional, Tuple

import click

from . import __version__
from .errors import BetoError

SENTENCE = "Dale, mandámelo a Montevideo: la selección de Uruguay ganó otra vez y María está muy contenta. 😊"


class _Group(click.Group):
    """Prints our errors without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BetoError as error:
            click.secho(str(error), fg="red", err=True)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="beto-spacy")
def main() -> None:
    """spaCy pipelines on BETO, the Spanish BERT: corpora in, trained and packaged pipelines out."""


@main.command("build-encoder")
@click.argument("texts", nargs=-1, type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--vocabulary", type=click.Path(path_type=Path), help="A vocab.txt to take instead of training one.")
@click.option("--vocabulary-size", default=8_000, show_default=True, help="Wordpieces of a vocabulary that is trained.")
@click.option("--layers", default=3, show_default=True)
@click.option("--width", default=128, show_default=True, help="Of the hidden states.")
@click.option("--heads", default=4, show_default=True, help="Attention heads.")
@click.option("--max-length", default=512, show_default=True, help="The longest sequence, in wordpieces.")
@click.option("--seed", default=0, show_default=True)
def build_encoder_command(texts: Tuple[Path, ...], dest: Path, **options: Any) -> None:
    """Build a small BERT with random weights in DEST, its vocabulary trained on TEXTS.

    TEXTS are plain text (.txt, .xz, .gz; a paragraph a line) or corpora in any format that 'convert' reads or writes.
    """
    from .pretrain import build_encoder

    click.echo(f"Encoder: {build_encoder(texts, dest, **options)}")


@main.command("assets")
@click.argument("project", default=".", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--mirror", default="", help="A folder to copy the assets from, instead of downloading them.")
def assets_command(project: Path, mirror: str) -> None:
    """Bring the assets of PROJECT (a folder with a project.yml) to their places, and check them."""
    from .project import fetch_assets

    click.echo(f"{len(fetch_assets(project, mirror=mirror or None))} assets are in place.")


@main.command("package")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--version", default="0.0.0", show_default=True, help="Version of the package.")
def package_command(model: Path, output: Path, version: str) -> None:
    """Build the wheel of the trained pipeline MODEL in the folder OUTPUT, named es_beto_trf."""
    from .project import build_package

    click.echo(f"Wheel: {build_package(model, output, version=version)}")


@main.command("smoke")
@click.argument("wheel", type=click.Path(path_type=Path))
@click.option("--text", default=SENTENCE, help="What to annotate.")
@click.option("--isolated", is_flag=True, help="Install all requirements too, from the package index.")
def smoke_command(wheel: Path, text: str, isolated: bool) -> None:
    """Install WHEEL (or the newest es_beto_trf in that folder) in a new virtual environment, and annotate a text."""
    from .project import smoke_test

    seen = smoke_test(wheel, text, isolated=isolated)
    click.echo(f"es_beto_trf {seen['version']} works in a new environment: {', '.join(seen['pipeline'])}.")


@main.command("install")
@click.argument("wheel", type=click.Path(path_type=Path))
def install_command(wheel: Path) -> None:
    """Install WHEEL (or the newest es_beto_trf in that folder) in this environment."""
    from .project import install_wheel

    click.echo(f"Installed: {install_wheel(wheel)}")


@main.command("show")
@click.argument("model")
@click.argument("text", default=SENTENCE)
@click.option("--gpu", default=-1, show_default=True, help="Number of the GPU; -1 for the CPU.")
def show_command(model: str, text: str, gpu: int) -> None:
    """Annotate TEXT with MODEL (a package or a folder) and print what it says."""
    from .annotate import load_pipeline, render_doc

    click.echo(render_doc(load_pipeline(model, gpu=gpu)(text)))


@main.command("benchmark")
@click.argument("encoder")
@click.argument("texts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--limit", default=60, show_default=True, help="Texts at most.")
@click.option("--runs", default=5, show_default=True, help="Alternated runs of each pipeline.")
@click.option("--heads/--no-heads", default=True, show_default=True, help="Measure with heads, or the encoder alone.")
@click.option("--batch-wordpieces", default=512, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def benchmark_command(
    encoder: str, texts: Tuple[Path, ...], limit: int, runs: int, heads: bool, batch_wordpieces: int, output: Optional[Path]
) -> None:
    """Compare words a second with spacy-transformers' own component on the same weights, ENCODER, over TEXTS."""
    from .benchmark import compare, read_lines, render_comparison, write_comparison

    result = compare(
        encoder, read_lines(texts, limit=limit), runs=runs, heads=heads, batch_wordpieces=batch_wordpieces
    )
    click.echo(render_comparison(result))
    write_comparison(result, output)
