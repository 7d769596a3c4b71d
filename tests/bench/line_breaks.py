"""What a line break should be for `beto_senter`: sentence starts found under each setting of `line_breaks`, by layout.

The layouts are made of the sentences of annotated corpora: text wrapped at several widths, one sentence a line,
headings, paragraphs, and lists of the entities that a corpus has. The first sentence of a document isn't counted. Not a
test: run it as a script.

    python tests/bench/line_breaks.py training/model-best corpus/dev/syntax.spacy corpus/dev/entities.spacy
"""

import argparse
import json
import textwrap
from pathlib import Path

import spacy
from spacy.tokens import DocBin

from beto_spacy.pipeline.loading import load_pipeline

SETTINGS = ("space", "hint", "boundary")
WIDTHS = (30, 40, 60, 72, 80)
#: Sentences of a document, and words of a heading at most.
SENTENCES, HEADING = 10, 10
#: Items of a list.
ITEMS = 8


class Layout:
    """Text that is laid out piece by piece, and where its sentences start."""

    def __init__(self):
        self.text, self.starts = "", []

    def add(self, sentences, *, width=None, before="\n"):
        """Add lines of running text, wrapped to a width."""
        sentences = [" ".join(sentence.split()) for sentence in sentences]
        self.text += before if self.text else ""
        offset = len(self.text)
        for sentence in sentences:
            self.starts.append(offset)
            offset += len(sentence) + 1
        whole = " ".join(sentences)
        # A line break takes the place of a space, so the offsets stay.
        self.text += textwrap.fill(whole, width, break_long_words=False, break_on_hyphens=False) if width else whole
        return self


def layouts(sentences, names):
    """Name and make the layouts of the sentences of a document, and of the entities in it."""
    short = [sentence.rstrip(".") for sentence in sentences if len(sentence.split()) <= HEADING]
    yield "one line", Layout().add(sentences)
    for width in WIDTHS:
        yield f"wrapped at {width}", Layout().add(sentences, width=width)
    long_line = Layout().add(sentences[:2])
    yield "wrapped at 72 below a long line", long_line.add(sentences[2:], width=72, before="\n\n")
    by_line, paragraphs = Layout(), Layout()
    for sentence in sentences:
        by_line.add([sentence])
    yield "a sentence a line", by_line
    for i in range(0, len(sentences), 3):
        paragraphs.add(sentences[i : i + 3], width=72, before="\n\n")
    yield "paragraphs, an empty line between, wrapped at 72", paragraphs
    paragraphs = Layout()
    for i in range(0, len(sentences), 3):
        paragraphs.add(sentences[i : i + 3], width=72)
    yield "paragraphs, no line between, wrapped at 72", paragraphs
    if short:
        yield "a heading and one long line", Layout().add(short[:1]).add(sentences)
        yield "a heading, wrapped at 72", Layout().add(short[:1]).add(sentences, width=72)
    for i in range(0, len(names) - ITEMS, ITEMS):
        items, lower, after = Layout().add(["Lista:"]), Layout().add(["Lista:"]), Layout().add(sentences[:3], width=72)
        for name in names[i : i + ITEMS]:
            items.add([name])
            lower.add([name.lower()])
            after.add([name])
        yield "a list of names", items
        yield "a list in small letters", lower
        yield "a list below wrapped text", after


def documents(path, vocab):
    """Sentences and names of each document of a corpus; documents of one sentence are joined."""
    sentences, names = [], []
    for doc in DocBin().from_disk(path).get_docs(vocab):
        found = [sent.text for sent in doc.sents]
        if sentences and len(sentences) + len(found) > SENTENCES:
            yield sentences, names
            sentences, names = [], []
        # Of a corpus that annotates none, only what ends as a sentence does is one.
        sentences += found if len(found) > 1 else [text for text in found if text.endswith((".", "?", "!", "…"))]
        names += [" ".join(entity.text.split()) for entity in doc.ents]
    yield sentences, names


def measure(nlp, texts):
    """Count gold, found and common sentence starts under each setting."""
    senter = next(pipe for _, pipe in nlp.pipeline if "line_breaks" in getattr(pipe, "settings", {}))
    encoder = nlp.get_pipe("transformer")
    docs = list(encoder.pipe(map(nlp.make_doc, [layout.text for layout in texts]), batch_size=64))
    counts = {}
    for setting in SETTINGS:
        senter.settings["line_breaks"] = setting
        gold, found, common = 0, 0, 0
        for doc, begins, layout in zip(docs, senter.predict(docs), texts):
            expected = set(layout.starts[1:])
            given = {doc[i].idx for i in begins.nonzero()[0].tolist()[1:]}
            gold, found, common = gold + len(expected), found + len(given), common + len(expected & given)
        counts[setting] = gold, found, common
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="The folder of a trained pipeline with a beto_senter")
    parser.add_argument(
        "corpora", type=Path, nargs="+", help="Corpora (.spacy) with sentences, or a sentence a document"
    )
    parser.add_argument("--limit", type=int, default=40, help="Documents of each corpus")
    parser.add_argument("--output", type=Path, help="A JSON file")
    arguments = parser.parse_args()
    nlp = load_pipeline(arguments.model)
    results = {}
    for path in arguments.corpora:
        texts = {}
        for number, (sentences, names) in enumerate(documents(path, spacy.blank("es").vocab)):
            if number == arguments.limit:
                break
            if len(sentences) < 3:
                continue
            for name, layout in layouts(sentences, names):
                texts.setdefault(name, []).append(layout)
        for name, group in texts.items():
            row = results.setdefault(path.stem, {})[name] = {}
            for setting, (gold, found, common) in measure(nlp, group).items():
                row["starts"] = gold
                row[setting] = {
                    "precision": round(100 * common / max(1, found), 1),
                    "recall": round(100 * common / gold, 1),
                }
            cells = [f"{row[setting]['precision']:5.1f} {row[setting]['recall']:5.1f}" for setting in SETTINGS]
            print(f"{path.stem:10} {name:50} {row['starts']:5}   {'   '.join(cells)}", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
