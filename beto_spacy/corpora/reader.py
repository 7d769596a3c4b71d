"""Records of public corpora become spaCy documents, and several corpora train one pipeline.

`convert` turns corpus files into a DocBin (`.spacy`) that spaCy's own reader loads too. `make_corpora_reader` is the
reader ``beto_spacy.Corpora.v1``: it mixes several of them, each with its own layers of annotation. A layer that a
corpus doesn't have is *missing* in its documents, never negative: its heads learn nothing from them.

This module parses no format (`beto_spacy.formats.records` does) and corrects no annotation. What can't be represented
is left out and reported as a `Problem`.
"""

import math
import os
import random
import warnings
from collections import Counter
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    NoReturn,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from spacy.attrs import DEP, ENT_IOB, LEMMA, MORPH, POS, TAG
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.vocab import Vocab

from beto_spacy.corpora.augment import without_final_punctuation
from beto_spacy.errors import CorpusError
from beto_spacy.formats.records import (
    OnProblem,
    Problem,
    Record,
    detect_format,
    raise_problem,
    read_labels,
    read_records,
)
from beto_spacy.spanish.tokenizer import blank_pipeline

__all__ = ["ConvertReport", "convert", "group_docs", "load_docs", "make_corpora_reader", "read_docs", "record_to_doc"]

StrPath = Union[str, Path]
#: The layers that a token can have, and the spaCy attribute that says so.
TOKEN_LAYERS = {"tags": "TAG", "pos": "POS", "morphs": "MORPH", "lemmas": "LEMMA", "deps": "DEP", "entities": "ENT_IOB"}


# ------------------------------------------------------------------------------------------- a record, a document


def record_to_doc(
    record: Record, nlp: Language, *, on_problem: Optional[OnProblem] = None, trailing_space: bool = False
) -> Doc:
    """Make a document of a record. Layers that the record doesn't have stay missing.

    record: From `formats.read_records`.
    nlp: Its vocabulary is used, and its tokenizer for records without tokens.
    on_problem: Called with each annotation that fits no tokens; None raises it as FormatError B160. The tokens
        that such an entity touches are left without entity annotation: neither an entity nor outside of one.
    trailing_space: Keep the space that follows the last word in the source, for documents that `group_docs` joins.
        Without it `doc.text == record.text`.
    RETURNS: The document. Questions are in `doc.user_data["questions"]`, their answers in `doc.spans["answers"]`
        (label "answer", span id the question's).
    """
    report = on_problem or raise_problem
    if record.words is None:
        doc = nlp.make_doc(record.text)
        if doc.text != record.text:
            what = f"The tokenizer of '{nlp.lang}' doesn't keep the text of '{record.id}'."
            raise CorpusError("B202", what, "Use a tokenizer that does.", path=record.path, line=record.line)
    else:
        spaces = list(record.spaces or ())
        if not trailing_space:
            spaces[-1] = False
        doc = Doc(
            nlp.vocab,
            words=record.words,
            spaces=spaces,
            tags=record.tags,
            pos=record.pos,
            morphs=record.morphs,
            lemmas=record.lemmas,
            heads=record.heads,
            deps=None if record.deps is None else [dep or None for dep in record.deps],
            sent_starts=None if record.heads is not None else record.sent_starts,
        )
        for token, morph in zip(doc, record.morphs or ()):
            # No features is an analysis of a word, but not of whitespace or of a word that has no analysis at all.
            if not morph and (token.is_space or (record.pos is not None and not token.pos)):
                token.set_morph(None)
    if record.entities is not None:
        _set_entities(doc, record, report)
    if record.cats is not None:
        doc.cats = dict(record.cats)
    if record.questions is not None:
        _set_questions(doc, record, report)
    return doc


def _around(doc: Doc, start: int, end: int) -> str:
    """The text at an offset and the tokens there, for a message."""
    span = doc.char_span(start, end, alignment_mode="expand")
    if span is None:
        return "outside of the text"
    tokens = doc[max(span.start - 1, 0) : span.end + 1]
    return f"{doc.text[start:end]!r} among the tokens {' '.join(repr(token.text) for token in tokens)}"


def _set_entities(doc: Doc, record: Record, report: OnProblem) -> None:
    taken: Set[int] = set()
    missing: Set[int] = set()
    spans: List[Span] = []

    def touched(start: int, end: int) -> Iterable[int]:
        span = doc.char_span(start, end, alignment_mode="expand") if 0 <= start < end else None
        return range(span.start, span.end) if span is not None else ()

    # The longest of overlapping entities stays, the first of equally long ones.
    for start, end, label in sorted(record.entities or (), key=lambda entity: (entity[0] - entity[1], entity)):
        span = doc.char_span(start, end, label=label)
        message = ""
        if span is None:
            message = f"the entity doesn't fit the tokens: {_around(doc, start, end)}"
        elif span[0].is_space or span[-1].is_space:
            message = f"the entity starts or ends with whitespace: {_around(doc, start, end)}"
        elif taken.intersection(range(span.start, span.end)):
            message = f"the entity overlaps another one: {_around(doc, start, end)}"
        if message:
            report(Problem(record.path, record.line, record.id, start, end, label, message))
            missing.update(touched(start, end))
        else:
            spans.append(span)
            taken.update(range(span.start, span.end))
    for start, end in record.unknown:
        missing.update(touched(start, end))
    doc.set_ents(spans, missing=[doc[i : i + 1] for i in sorted(missing - taken)], default="outside")


def _set_questions(doc: Doc, record: Record, report: OnProblem) -> None:
    answers: Dict[Tuple[int, int, str], Span] = {}
    for question in record.questions or ():
        name = question["id"]
        for answer in question["answers"]:
            start, end = answer["start"], answer["start"] + len(answer["text"])
            if (start, end, name) in answers:
                continue
            span = doc.char_span(start, end, label="answer", span_id=name)
            if span is None:
                message = f"the answer doesn't fit the tokens: {_around(doc, start, end)}"
                report(Problem(record.path, record.line, name, start, end, "answer", message))
            else:
                answers[start, end, name] = span
    doc.user_data["questions"] = record.questions
    doc.spans["answers"] = list(answers.values())


# ------------------------------------------------------------------------------------------------------- grouping


def group_docs(docs: Iterable[Doc], n_sents: int, *, newdocs: Optional[Iterable[bool]] = None) -> Iterator[Doc]:
    """Join every n consecutive sentences into one document.

    docs: One sentence each, made by `record_to_doc` with `trailing_space`: the texts are put together as they are, and
        a space after the last word of the result is taken off. With n_sents 1 only that is done.
    n_sents: Sentences a document, at most.
    newdocs: For each sentence, whether a document starts there; sentences of two documents aren't joined.
    YIELDS: Documents with all layers, missing ones included. Sentences with dependencies aren't joined to sentences
        without (those would lose their boundaries), nor are any with categories, spans or data, which belong to a
        whole document.
    Raises CorpusError B203 if n_sents is less than 1.
    """
    if n_sents < 1:
        raise CorpusError("B203", f"Documents of {n_sents} sentences can't be made.", "Give n_sents of 1 or more.")
    group: List[Doc] = []
    parsed = False
    starts = iter(newdocs) if newdocs is not None else None
    for doc in docs:
        now = doc.has_annotation("DEP")
        alone = bool(doc.cats or doc.user_data or len(doc.spans))
        new = next(starts) if starts is not None else False
        if group and (len(group) == n_sents or new or alone or now != parsed):
            yield _join(group)
            group = []
        group.append(doc)
        parsed = now
        if alone:
            yield _join(group)
            group = []
    if group:
        yield _join(group)


def _join(docs: List[Doc]) -> Doc:
    doc = docs[0] if len(docs) == 1 else Doc.from_docs(docs, ensure_whitespace=False)
    if len(doc) and doc[-1].whitespace_:
        spaces = doc.to_array(["SPACY"])
        spaces[-1] = 0
        doc.from_array(["SPACY"], spaces)
    return doc


# ----------------------------------------------------------------------------------------------------- conversion


@dataclass
class ConvertReport:
    """What a conversion saw. `str(report)` is for people.

    sources, dest: The files.
    documents, sentences, tokens: How many were written; sentences only where their boundaries are annotated.
    layers: For each layer how many tokens have it (entities: annotated, also as being none), for cats how many
        documents, for questions how many.
    labels: For each layer with labels, how often each one was seen.
    problems: What was left out.
    limit_problems: How many of them the text lists.
    left_out: Records that didn't look like whole sentences, where only such were asked for.
    """

    sources: List[str]
    dest: str
    documents: int = 0
    sentences: int = 0
    tokens: int = 0
    layers: Dict[str, int] = field(default_factory=dict)
    labels: Dict[str, Dict[str, int]] = field(default_factory=dict)
    problems: List[Problem] = field(default_factory=list)
    limit_problems: int = 10
    left_out: int = 0

    def __str__(self) -> str:
        lines = [f"{', '.join(self.sources)} -> {self.dest}"]
        sentences = f"{self.sentences} sentences" if self.sentences else "no sentence boundaries"
        lines.append(f"{self.documents} documents, {sentences}, {self.tokens} tokens")
        if self.left_out:
            lines.append(f"{self.left_out} records don't look like whole sentences and were left out")
        for layer, count in self.layers.items():
            if layer == "questions":
                lines.append(f"questions: {count}")
                continue
            whole, unit = (self.documents, "documents") if layer == "cats" else (self.tokens, "tokens")
            line = f"{layer}: {100 * count / whole:.1f} % of the {unit}" if count else f"{layer}: missing"
            labels = self.labels.get(layer) if count else None
            if labels:
                shown = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
                more = f" and {len(shown) - 30} more" if len(shown) > 30 else ""
                line += "; " + ", ".join(f"{label} {n}" for label, n in shown[:30]) + more
            lines.append(line)
        if self.problems:
            lines.append(f"{len(self.problems)} annotations were left out:")
            lines += [f"  {problem}" for problem in self.problems[: self.limit_problems]]
            if len(self.problems) > self.limit_problems:
                lines.append(f"  and {len(self.problems) - self.limit_problems} more")
        return "\n".join(lines)


def convert(
    source: Union[StrPath, Sequence[StrPath]],
    dest: StrPath,
    *,
    format: Optional[str] = None,
    n_sents: Optional[int] = None,
    slice: Optional[str] = None,
    lang: str = "es",
    encoding: str = "utf-8",
    strict: bool = False,
    limit_problems: int = 10,
    final_punctuation: bool = True,
    sentences: bool = False,
    **options: Any,
) -> ConvertReport:
    """Turn corpus files into one DocBin. The same input gives the same bytes.

    source: One path or several, whose records follow one another.
    dest: The `.spacy` file. It is replaced only by a complete one, and untouched if anything fails.
    format: A key of `formats.FORMATS`; None detects it, for each source.
    n_sents: Sentences a document; None means 10 for CoNLL-U, CESS-ESP and with ``sentences``, 1 for everything else.
        Where corpora of entities are joined, it's left open whether a sentence starts after or before a line that
        doesn't look like one, such as a headline.
    slice: Which records to take, before sentences are joined: "start:stop[:step]" as in Python, or with a "!" before
        it all the others.
    lang: Language whose tokenizer splits texts that have no tokens.
    encoding: Of the sources.
    strict: Raise if any annotation would be left out.
    limit_problems: How many problems the report's text lists; the report holds all.
    final_punctuation: Keep the marks that end sentences; without them the corpus tests what depends on them.
    sentences: Only teach where sentences start: keep no other annotation, and only sentences that look whole (three
        tokens, a final mark at the end, none that belongs to something before at the beginning). Corpora of entities
        cut headlines, datelines and their dashes off as sentences; where one was left out, a document ends.
    options: Of the format, see `formats.read_records`.
    RETURNS: The report.
    Raises FormatError for sources that don't follow their format; CorpusError B201 (no source), B203, B204 (slice),
        B205 (nothing to write), B206 (strict), B207 (can't be written), B208 (language).
    """
    paths = [Path(source)] if isinstance(source, (str, Path)) else [Path(path) for path in source]
    if not paths:
        raise CorpusError("B201", "There is no source.", "Give one file or more.")
    dest = Path(dest)
    if dest.is_dir():
        raise CorpusError("B207", "This is a folder.", "Name a file that ends in .spacy.", path=dest)
    if dest.suffix != ".spacy":
        raise CorpusError("B207", "The result is a file that ends in .spacy.", "Name it so.", path=dest)
    bounds = _parse_slice(slice)
    formats, n_sents = _settle(paths, format, n_sents, options, sentences)
    nlp = _blank(lang)
    report = ConvertReport([str(path) for path in paths], str(dest), limit_problems=limit_problems)
    records = _read_sources(paths, formats, encoding, report.problems.append, options)
    if bounds is not None:
        picked = range(len(records))[bounds[0]]
        chosen = set(range(len(records))) - set(picked) if bounds[1] else set(picked)
        kept = {records[i].id for i in chosen} if report.problems else set()
        # A document may start at a sentence that isn't taken.
        for i in range(len(records) - 1):
            if i not in chosen and records[i].newdoc:
                records[i + 1].newdoc = True
        questions = {q["id"] for i in chosen for q in records[i].questions or ()} if report.problems else set()
        report.problems[:] = [problem for problem in report.problems if problem.id in kept | questions]
        records = [records[i] for i in sorted(chosen)]
    if not records:
        what = "There is nothing to write" + (f": the slice {slice} takes no record." if slice else ".")
        raise CorpusError("B205", what, "Check the source and the slice.", path=paths[0])
    if sentences:
        whole = _only_sentences(records)
        report.left_out = len(records) - len(whole)
        if not whole:
            what = f"There is nothing to write: none of {len(records)} records looks like a whole sentence."
            raise CorpusError("B205", what, "Check the source, or convert without sentences.", path=paths[0])
        records = whole
    elif n_sents > 1 and not {"conllu", "cess"} & set(formats):
        _leave_doubtful_starts(records)
    report.sentences = sum(map(bool, chain.from_iterable(record.sent_starts or () for record in records)))
    bin = DocBin(store_user_data=any(record.questions is not None for record in records))
    for doc in _make_docs(records, nlp, n_sents, report.problems.append):
        doc = doc if final_punctuation else without_final_punctuation(doc)
        _count(doc, report)
        bin.add(doc)
    if strict and report.problems:
        listed = "; ".join(map(str, report.problems[:limit_problems]))
        what = f"{len(report.problems)} annotations would be left out: {listed}."
        raise CorpusError("B206", what, "Correct them, or convert without strict.", path=paths[0])
    _write(dest, bin.to_bytes())
    return report


def load_docs(path: StrPath, nlp: Language, *, on_problem: Optional[OnProblem] = None) -> List[Doc]:
    """Documents of a corpus in spaCy's format or in any that `convert` knows, as `convert` would make them.

    path: A `.spacy` file, or a folder that has some (see `read_docs`); any other file, and a folder of brat, are read
        on the fly with the defaults of `convert`: format detected, UTF-8, ten sentences of CoNLL-U a document.
    nlp: Its vocabulary is used, and its tokenizer for texts without tokens.
    on_problem: Called with each annotation that is left out; None raises the first as FormatError B160.
    Raises CorpusError B210 to B212 for `.spacy` files; FormatError for other sources that don't follow their format, or
        whose format can't be told.
    """
    path = Path(path)
    if path.suffix == ".spacy" or not path.exists() or (path.is_dir() and not _is_brat(path)):
        return list(read_docs(path, nlp.vocab))
    formats, n_sents = _settle([path], None, None, {})
    report = on_problem or raise_problem
    return list(_make_docs(_read_sources([path], formats, "utf-8", report, {}), nlp, n_sents, report))


def _is_brat(folder: Path) -> bool:
    return next(folder.rglob("*.spacy"), None) is None and next(folder.rglob("*.ann"), None) is not None


def _settle(
    paths: List[Path], format: Optional[str], n_sents: Optional[int], options: Dict[str, Any], sentences: bool = False
) -> Tuple[List[str], int]:
    """The format of each source, and the sentences a document. Raises CorpusError B203."""
    if format is None and not options.get("labels_path"):
        formats = [detect_format(path) for path in paths]
    else:
        formats = [format or "lines"] * len(paths)
    if n_sents is None:
        n_sents = 10 if sentences or set(formats) <= {"conllu", "cess"} else 1
    if n_sents > 1 and set(formats) - {"conllu", "cess", "iob"}:
        what = f"The format {'/'.join(sorted(set(formats)))} has whole texts; only sentences can be joined."
        raise CorpusError("B203", what, "Leave out what asks for sentences.")
    elif n_sents < 1:
        raise CorpusError("B203", f"Documents of {n_sents} sentences can't be made.", "Give n_sents of 1 or more.")
    return formats, n_sents


def _make_docs(records: List[Record], nlp: Language, n_sents: int, on_problem: OnProblem) -> Iterator[Doc]:
    docs = (record_to_doc(record, nlp, on_problem=on_problem, trailing_space=True) for record in records)
    return group_docs(docs, n_sents, newdocs=[record.newdoc for record in records])


#: What ends a sentence, also as the end of a longer token; and what belongs to something before it.
_ENDS = tuple('.?!"…”»)')
_CONTINUES = frozenset("-–—.),;:")


def _looks_whole(record: Record) -> bool:
    words = record.words or []
    return len(words) >= 3 and words[0] not in _CONTINUES and words[-1].endswith(_ENDS)


def _leave_doubtful_starts(records: Iterable[Record]) -> None:
    """Leave open whether a sentence starts beside a line of a corpus that is a heading, a dateline or half of one."""
    whole = True
    for record in records:
        before, whole = whole, _looks_whole(record)
        if record.sent_starts and not record.newdoc and not (before and whole):
            record.sent_starts[0] = None


def _only_sentences(records: Iterable[Record]) -> List[Record]:
    """The records that look like whole sentences, with their boundaries only; before others, documents end."""
    kept, apart = [], False
    for record in records:
        words = record.words or []
        if not _looks_whole(record):
            apart = True
            continue
        starts = [i == 0 for i in range(len(words))]
        where = (record.id, record.path, record.line, record.text)
        kept.append(Record(*where, words, record.spaces, sent_starts=starts, newdoc=record.newdoc or apart))
        apart = False
    return kept


def _blank(lang: str) -> Language:
    try:
        return blank_pipeline(lang)
    except ImportError:
        raise CorpusError("B208", f"spaCy has no language '{lang}'.", "Give a code such as es.") from None


def _parse_slice(text: Optional[str]) -> Optional[Tuple[Any, bool]]:
    """ "!1:5" -> (the slice 1:5, True for all others)."""
    if not text:
        return None
    inverted = text.startswith("!")
    parts = text[inverted:].split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
        if not 2 <= len(parts) <= 3 or (len(parts) == 3 and numbers[2] is not None and numbers[2] < 1):
            raise ValueError
    except ValueError:
        fix = "Write start:stop or start:stop:step (a step of 1 or more); a ! before it takes all the others."
        raise CorpusError("B204", f"'{text}' is not a slice.", fix) from None
    return _slice(*numbers), inverted


_slice = slice  # `convert` has an argument of this name


def _read_sources(
    paths: List[Path], formats: List[str], encoding: str, on_problem: OnProblem, options: Dict[str, Any]
) -> List[Record]:
    shared: List[Dict[str, Any]] = [options] * len(paths)
    if len(paths) > 1 and options.get("labels") is None:
        each = [read_labels(path, format=name, encoding=encoding, **options) for path, name in zip(paths, formats)]
        labels = sorted({label for found in each for label in found or ()})
        # None is a format without categories, which takes no labels.
        shared = [options if found is None or not labels else {**options, "labels": labels} for found in each]
    records: List[Record] = []
    for path, name, given in zip(paths, formats, shared):
        start = len(records)
        records.extend(read_records(path, format=name, encoding=encoding, on_problem=on_problem, **given))
        records[start].newdoc = True
    return records


def _count(doc: Doc, report: ConvertReport) -> None:
    report.documents += 1
    report.tokens += len(doc)
    array = doc.to_array(list(TOKEN_LAYERS.values()))
    for column, layer in enumerate(TOKEN_LAYERS):
        report.layers[layer] = report.layers.get(layer, 0) + int((array[:, column] != 0).sum())
    for layer in ("tags", "pos", "deps", "entities", "cats"):
        report.labels.setdefault(layer, {})
    seen = {
        "tags": (token.tag_ for token in doc if token.tag),
        "pos": (token.pos_ for token in doc if token.pos),
        "deps": (token.dep_ for token in doc if token.dep),
        "entities": (ent.label_ for ent in doc.ents),
        "cats": (label for label, score in doc.cats.items() if score),
    }
    for layer, labels in seen.items():
        counts = report.labels[layer]
        for label, n in Counter(labels).items():
            counts[label] = counts.get(label, 0) + n
    report.layers["cats"] = report.layers.get("cats", 0) + bool(doc.cats)
    if "questions" in doc.user_data:
        report.layers["questions"] = report.layers.get("questions", 0) + len(doc.user_data["questions"])


def _write(dest: Path, data: bytes) -> None:
    """Write a file whole or not at all; a link stays one, and its file is written. Raises CorpusError B207."""
    name, dest = dest, Path(os.path.realpath(dest))
    part = dest.with_name(f".{dest.name}.{os.getpid()}.part")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, dest)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except (FileExistsError, NotADirectoryError):
        what = f"The file can't be written: {name.parent} is no folder."
        raise CorpusError("B207", what, "Give another path.", path=name) from None
    except OSError as error:
        what = f"The file can't be written: {error.strerror or error}."
        raise CorpusError("B207", what, "Check space, permissions and path.", path=name) from None


# -------------------------------------------------------------------------------------------------------- reading


def _spacy_files(path: Path) -> List[Path]:
    """The .spacy files of a path, sorted. Raises CorpusError B210 or B211."""
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*.spacy")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not files:
            what = "The folder has no .spacy files."
            raise CorpusError("B211", what, "Make them with beto-spacy convert.", path=path)
        return files
    if not path.exists():
        raise CorpusError("B210", "There is no such corpus.", "Check the path, or run beto-spacy convert.", path=path)
    return [path]


def _load(file: Path) -> DocBin:
    def bad(reason: str) -> NoReturn:
        fix = "Convert the corpus again; .spacy files of spaCy 3 are read."
        raise CorpusError("B212", f"This is not a DocBin that can be read ({reason}).", fix, path=file) from None

    try:
        data = file.read_bytes()
    except OSError as error:
        what = f"The file can't be read: {error.strerror or error}."
        raise CorpusError("B210", what, "Check path and permissions.", path=file) from None
    if not data:
        raise CorpusError("B211", "The file is empty.", "Convert the corpus again.", path=file)
    try:
        # Whatever is wrong inside comes as errors of zlib, msgpack or numpy: all mean the same to the user.
        bin = DocBin().from_bytes(data)
        lengths = {len(part) for part in (bin.tokens, bin.spaces, bin.cats, bin.span_groups, bin.flags)}
    except Exception as error:
        bad(f"{type(error).__name__}: {str(error)[:100]}")
    if len(lengths) > 1:
        bad("its parts have different lengths")
    if not len(bin):
        raise CorpusError("B211", "There are no documents in this file.", "Convert the corpus again.", path=file)
    return bin


def _docs(bin: DocBin, vocab: Vocab, file: Path) -> Iterator[Doc]:
    docs = bin.get_docs(vocab)
    while True:
        try:
            doc = next(docs, None)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error)[:100]}"
            what = f"A document can't be read ({reason})."
            raise CorpusError("B212", what, "Convert the corpus again.", path=file) from None
        if doc is None:
            return
        yield doc


def read_docs(path: StrPath, vocab: Vocab) -> Iterator[Doc]:
    """Documents of a `.spacy` file, or of all such files in a folder, sorted by name.

    Raises CorpusError B210 (missing path), B211 (nothing there), B212 (not a DocBin).
    """
    for file in _spacy_files(Path(path)):
        yield from _docs(_load(file), vocab, file)


#: What tokens are annotated with in a `.spacy` file. (A text's first token always starts a sentence.)
_LAYERS = frozenset([TAG, POS, MORPH, LEMMA, DEP, ENT_IOB])


class _Corpus(NamedTuple):
    name: str
    path: Path
    weight: float


def make_corpora_reader(
    paths: Optional[Union[str, Path, List[Union[str, Path]]]],
    *,
    max_length: int = 0,
    limit: int = 0,
    gold_preproc: bool = False,
    weights: Optional[Dict[str, float]] = None,
    temperature: float = 1.0,
    categories_weight: Optional[float] = None,
    most_sentences: int = 0,
    augmenter: Optional[Callable[[Language, Example], Iterable[Example]]] = None,
) -> Callable[[Language], Iterable[Example]]:
    """Build ``beto_spacy.Corpora.v1``: several corpora as one stream, mixed evenly.

    Each corpus is spread over the whole stream in proportion to its size, in a fixed order, so that every stretch of
    it has all layers. A layer that a corpus lacks is missing in its examples.

    paths: A path, several as a list, or several in a string with commas; each a `.spacy` file or a folder of them,
        every file of which is a corpus of its own.
    max_length: Longest document in tokens; 0 for no limit. A longer one is split at its ends of sentences. What is
        too long even so, or has no sentences, is left out, and one warning says how much that was.
    limit: Examples at most; 0 for all.
    gold_preproc: Give the corpus' own tokens and single sentences to the pipeline.
    weights: How often a corpus is seen in one pass, by its path as in `paths`: 2 twice, 0.5 every second document.
        That of a folder holds for each of its files.
    temperature: Above 1, small corpora are repeated: a corpus of n tokens takes a share of the stream in proportion to
        n ** (1 / temperature), and the largest one is seen once (Devlin et al. 2019, on languages). 1 repeats nothing.
        `weights` multiply what it gives.
    categories_weight: How often a corpus is seen in one pass whose texts have categories and no layer of tokens, in
        place of what the temperature gives. A category is one label a text, which is learned, and then learned by
        heart, in fewer passes than the labels of all its words. None makes no difference.
    most_sentences: Cut each document into runs of 1 to so many sentences, at random but the same each time, so that
        short and long documents are learned alike; 0 leaves documents whole.
    augmenter: Makes other examples of each, such as ``beto_spacy.drop_final_punctuation.v1``; for training.
    RETURNS: A function from the pipeline to the examples.
    Raises CorpusError B210 to B212 for the files, B213 (no paths), B214 (weights or limits), B215 (temperature).
    """
    corpora = _heat(_parse_paths(paths, weights), temperature, categories_weight)
    if max_length < 0 or limit < 0 or most_sentences < 0:
        what = "max_length, limit and most_sentences can't be negative."
        raise CorpusError("B214", what, "Give 0 for no limit.")
    warned = []

    def read(nlp: Language) -> Iterator[Example]:
        left_out, count = 0, 0
        chance = random.Random(0)
        for doc in _interleave(corpora, nlp.vocab):
            if not doc.text.strip():
                continue
            cut = _runs(doc, most_sentences, chance) if most_sentences else [doc]
            for piece in (piece for run in cut for piece in _pieces(run, max_length, gold_preproc)):
                if piece is None:
                    left_out += 1
                    continue
                example = _example(nlp, piece, gold_preproc)
                yield from [example] if augmenter is None else augmenter(nlp, example)
                count += 1
                if limit and count >= limit:
                    break
            if limit and count >= limit:
                break
        if left_out and not warned:
            warned.append(left_out)
            names = ", ".join(dict.fromkeys(corpus.name for corpus in corpora))
            warnings.warn(
                f"{left_out} documents or sentences of {names} are longer than max_length ({max_length} tokens) and "
                "were left out. Give a larger max_length, or 0 for no limit.",
                stacklevel=2,
            )

    return read


def _parse_paths(
    paths: Optional[Union[str, Path, List[Union[str, Path]]]], weights: Optional[Dict[str, float]]
) -> List[_Corpus]:
    if isinstance(paths, str):
        paths = [part.strip() for part in paths.split(",") if part.strip()]
    elif isinstance(paths, Path):
        paths = [paths]
    if not paths:
        fix = "Set paths.train and paths.dev, in the config or as --paths.train corpus/train."
        raise CorpusError("B213", "The reader of corpora has no paths.", fix)
    names = [str(path) for path in paths]
    weights = dict(weights or {})
    unknown = sorted(set(weights) - set(names))
    if unknown:
        fix = f"The paths are: {', '.join(names)}."
        raise CorpusError("B214", f"There is a weight for {', '.join(unknown)}, which is not among the paths.", fix)
    for name, weight in weights.items():
        _check_weight(weight, name)
    return [_Corpus(name, file, weights.get(name, 1.0)) for name in names for file in _spacy_files(Path(name))]


def corpus_files(paths: Optional[Union[str, Path, List[Union[str, Path]]]]) -> List[Path]:
    """The `.spacy` files of corpora, by their paths as `make_corpora_reader` takes them; see there for errors."""
    return [corpus.path for corpus in _parse_paths(paths, None)]


def _check_weight(weight: float, name: str) -> None:
    if not (math.isfinite(weight) and weight > 0):
        raise CorpusError("B214", f"The weight {weight} of {name} is not a positive number.", "Correct it.")


def _heat(corpora: List[_Corpus], temperature: float, categories_weight: Optional[float]) -> List[_Corpus]:
    """Weight corpora by a temperature and what they are annotated with, see `make_corpora_reader`."""
    if not (math.isfinite(temperature) and temperature >= 1):
        fix = "Give 1 to repeat no corpus, or a number above 1 to repeat small ones."
        raise CorpusError("B215", f"Corpora can't be drawn at a temperature of {temperature}.", fix)
    if categories_weight is not None:
        _check_weight(categories_weight, "corpora of categories")
    if temperature == 1 and categories_weight is None:
        return corpora
    bins = [_load(corpus.path) for corpus in corpora]
    sizes = [sum(map(len, bin.tokens)) for bin in bins]
    largest = max(sizes)
    factors = [
        categories_weight
        if categories_weight is not None and _has_categories_only(bin)
        else (largest / max(size, 1)) ** (1 - 1 / temperature)
        for bin, size in zip(bins, sizes)
    ]
    return [corpus._replace(weight=corpus.weight * factor) for corpus, factor in zip(corpora, factors)]


def _has_categories_only(bin: DocBin) -> bool:
    columns = [i for i, attr in enumerate(bin.attrs) if attr in _LAYERS]
    return any(bin.cats) and not any(tokens[:, columns].any() for tokens in bin.tokens)


def count_words(
    paths: Optional[Union[str, Path, List[Union[str, Path]]]],
    *,
    weights: Optional[Dict[str, float]] = None,
    temperature: float = 1.0,
    categories_weight: Optional[float] = None,
) -> int:
    """Count the tokens of a pass over corpora as `make_corpora_reader` mixes them; see there for arguments, errors."""
    corpora = _heat(_parse_paths(paths, weights), temperature, categories_weight)
    return round(sum(corpus.weight * sum(map(len, _load(corpus.path).tokens)) for corpus in corpora))


def _interleave(corpora: List[_Corpus], vocab: Vocab) -> Iterator[Doc]:
    """Documents of all corpora: the k-th of n stands at (k + 0.5) / n of the stream."""

    def stream(number: int, corpus: _Corpus) -> Iterator[Tuple[float, int, int, Doc]]:
        bin = _load(corpus.path)
        size = len(bin)
        whole = int(corpus.weight)
        rest = corpus.weight - whole
        extra = sum(_due(i, rest) for i in range(size))
        total = size * whole + extra
        shown = 0
        for turn in range(whole + (extra > 0)):
            for i, doc in enumerate(_docs(bin, vocab, corpus.path)):
                if turn < whole or _due(i, rest):
                    yield ((shown + 0.5) / total, number, shown, doc)
                    shown += 1

    for _, _, _, doc in merge(*(stream(number, corpus) for number, corpus in enumerate(corpora))):
        yield doc


def _due(i: int, share: float) -> bool:
    """Whether the i-th of many is among an evenly spread share of them, the first included."""
    return math.ceil((i + 1) * share - 1e-9) > math.ceil(i * share - 1e-9)


def _runs(doc: Doc, most: int, chance: random.Random) -> Iterator[Doc]:
    """Cut a document into runs of 1 to ``most`` of its sentences; one without sentences stays whole."""
    ends = [sent.end for sent in doc.sents] if doc.has_annotation("SENT_START") else []
    if len(ends) < 2:
        yield doc
        return
    start = first = 0
    while first < len(ends):
        first += chance.randint(1, most)
        end = ends[min(first, len(ends)) - 1]
        yield doc if (start, end) == (0, len(doc)) else _cut(doc, start, end)
        start = end


def _pieces(doc: Doc, max_length: int, single: bool) -> Iterator[Optional[Doc]]:
    """The document, or runs of its sentences that aren't too long, or None for what is."""
    split = doc.has_annotation("SENT_START") and (single or (max_length and len(doc) > max_length))
    if not split:
        yield None if max_length and len(doc) > max_length else doc
        return
    start = end = 0
    for sent in doc.sents:
        if end > start and (single or sent.end - start > max_length):
            yield _cut(doc, start, end)
            start = end
        end = sent.end
        if max_length and end - start > max_length:
            yield None
            start = end
    if end > start:
        yield _cut(doc, start, end)


def _cut(doc: Doc, start: int, end: int) -> Doc:
    piece = doc[start:end].as_doc()
    piece.cats = dict(doc.cats)
    return piece


def _example(nlp: Language, reference: Doc, gold_preproc: bool) -> Example:
    if gold_preproc or reference.has_unknown_spaces:
        words = [token.text for token in reference]
        return Example(Doc(nlp.vocab, words=words, spaces=[bool(token.whitespace_) for token in reference]), reference)
    return Example(nlp.make_doc(reference.text), reference)
