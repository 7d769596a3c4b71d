"""Loading a pipeline, and what it says of a text, for a reader or as CoNLL-U."""

from pathlib import Path
from typing import Iterable, Iterator, Optional, Sequence, Tuple, Union

import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.vocab import Vocab
from thinc.api import require_cpu

from .conllu import doc_to_conllu
from .errors import EncoderError, ProjectError
from .texts import expand, read_documents


def use_device(gpu: int) -> None:
    """Have what is loaded from now on run on a GPU, or on the CPU: -1. Raises ProjectError if the GPU can't be used."""
    if gpu < 0:
        require_cpu()
        return
    try:
        spacy.require_gpu(gpu)
    except Exception as error:
        raise ProjectError(
            "B512",
            f"GPU {gpu} can't be used ({error}).",
            "Install the extra for your CUDA, such as pip install 'beto-spacy[cuda12x]', or take the CPU: -1.",
        ) from error


def load_pipeline(model: Union[str, Path], *, gpu: int = -1, vocab: Optional[Vocab] = None) -> Language:
    """Load a trained pipeline by package name or folder, on the CPU or a GPU.

    model: A package such as ``es_beto_trf``, or a folder.
    gpu: Number of the GPU; -1 for the CPU.
    vocab: Of another pipeline, to have documents in common; by default its own.
    Raises ProjectError if it isn't there, or if the GPU isn't.
    """
    use_device(gpu)
    if not Path(model).is_dir() and not spacy.util.is_package(str(model)):
        raise ProjectError(
            "B513",
            f"There is no pipeline '{model}': neither a folder nor an installed package.",
            "Check the path, or install the package's wheel.",
        )
    try:
        return spacy.load(model, vocab=True if vocab is None else vocab)
    except EncoderError:
        raise
    except Exception as error:  # a broken folder, config or package fails with whatever its loading code raises
        raise ProjectError(
            "B514",
            f"The pipeline can't be loaded ({type(error).__name__}: {error}).",
            "Give a folder that nlp.to_disk wrote, complete, or an installed package.",
            path=model,
        ) from error


def check_pipeline_place(dest: Union[str, Path], source: Union[str, Path]) -> None:
    """Raise ProjectError if what is where a pipeline is to be written is none, or is or has the one that it's made of.

    dest: The folder to write; a pipeline that is there will be replaced.
    source: The pipeline that is read, a folder or a package.
    """
    dest, source = Path(dest).resolve(), Path(source).resolve()
    if dest == source or dest in source.parents:
        raise ProjectError("B566", f"'{dest}' is the pipeline that is read, or has it in it.", "Name another folder.")
    if dest.exists() and not (dest / "meta.json").is_file():
        raise ProjectError("B566", f"'{dest}' is there and is no pipeline.", "Name another folder, or remove it first.")


#: What stands for whitespace that would break a line or a column.
_SIGNS = str.maketrans({"\n": "\u23ce", "\r": "\u240d", "\t": "\u21e5"})


def _visible(text: str) -> str:
    return text.translate(_SIGNS)


def render_doc(doc: Doc) -> str:
    """Lay out what a pipeline says of a text: a row a token, then sentences, entities and categories."""
    columns = ["token", "lemma", "pos", "tag", "morph", "dep", "head"]
    rows = [
        [
            _visible(t.text),
            _visible(t.lemma_),
            t.pos_,
            t.tag_,
            str(t.morph),
            t.dep_,
            _visible(t.head.text) if t.has_dep() else "",
        ]
        for t in doc
    ]
    table = [columns, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table]
    if doc.has_annotation("SENT_START"):
        lines.append(f"sentences: {sum(1 for _ in doc.sents)}")
    lines.append("entities: " + (", ".join(f"{_visible(e.text)} ({e.label_})" for e in doc.ents) or "none"))
    if doc.cats:
        ranked = sorted(doc.cats.items(), key=lambda item: -item[1])
        lines.append("categories: " + ", ".join(f"{label} {score:.2f}" for label, score in ranked))
    return "\n".join(lines)


def annotate_conllu(nlp: Language, texts: Sequence[Union[str, Path]], *, expand_words: bool = True) -> Iterator[str]:
    """Annotate running text, as CoNLL-U.

    nlp: The pipeline.
    texts: Files as `texts.read_documents` reads them: a paragraph a line, a blank line between documents; or patterns.
    expand_words: Write contractions and verbs with enclitics as multiword tokens; see `conllu.doc_to_conllu`.
    Yields the sentences of each paragraph; ``sent_id`` has the numbers of document, paragraph and sentence. Raises
    FormatError for texts that can't be read.
    """

    def paragraphs() -> Iterable[Tuple[str, str]]:
        for number, document in enumerate(read_documents(expand(texts)), start=1):
            for part, paragraph in enumerate(document, start=1):
                yield paragraph, f"{number}.{part}."

    for doc, prefix in nlp.pipe(paragraphs(), as_tuples=True):
        yield doc_to_conllu(doc, prefix=prefix, expand=expand_words)
