"""Loading a pipeline, and what it says of a text, for a reader or as CoNLL-U."""

from pathlib import Path
from typing import Iterable, Iterator, Sequence, Tuple, Union

from spacy.language import Language
from spacy.tokens import Doc

from beto_spacy.corpora.conllu_writer import doc_to_conllu
from beto_spacy.formats.running_text import expand, read_documents

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
