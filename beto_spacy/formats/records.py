"""Public corpus formats, read into plain records with their line numbers.

Reads CoNLL-U, CoNLL-2002/2003 columns, brat standoff (a folder, a pair of files or a tar archive), categories in JSONL,
CSV, TSV or parallel files of lines, and SQuAD JSON. Every error says the file and the line. What can't be represented
but need not stop a conversion (an entity in two pieces, an answer at a wrong offset) goes to a callback as a
`Problem`; the default callback raises it.

This module knows nothing of spaCy and imports only the standard library: `beto_spacy.corpora.reader` makes documents of
the records. It doesn't tokenize, doesn't correct annotation and doesn't write anything. A file is held in memory once;
records are made one at a time.
"""

import inspect
import json
import lzma
import re
import tarfile
import zlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, NoReturn, Optional, Sequence, Tuple, Union

from beto_spacy.errors import FormatError
from beto_spacy.formats.cess import UNKNOWN, Analysis, as_ancora, surface

__all__ = ["FORMATS", "Problem", "Record", "detect_format", "read_labels", "read_records", "readable_spaces"]

Entity = Tuple[int, int, str]
StrPath = Union[str, Path]

#: The formats by name, each with one line of description.
FORMATS: Dict[str, str] = {
    "conllu": "CoNLL-U: words, tags, features, lemmas, dependencies; entities in MISC (NE=B-PER)",
    "cess": "CESS-ESP in CoNLL-U: tags of EAGLES become parts of speech and features as in UD Spanish AnCora; no heads",
    "iob": "CoNLL-2002/2003 columns: a token a line, entity tag last (BIO, IOB1, BIOES, BILOU)",
    "brat": "brat standoff: .txt and .ann side by side, in a folder or a tar archive",
    "jsonl": "one JSON object a line: text, and label, labels or cats",
    "csv": "comma-separated cells: text and label",
    "tsv": "tab-separated cells: text and label",
    "lines": "a text a line, and its label in the same line of another file (labels_path)",
    "squad": "SQuAD JSON, v1.1 or v2: paragraphs with questions and answers",
}

UPOS = frozenset("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())


@dataclass
class Record:
    """One sentence, document or paragraph of a corpus. A layer that the source doesn't have is None.

    id: Name of the sentence or document, from the source or made of the file's name and a number.
    path: The file, and inside an archive the member.
    line: Where the record starts, counted from 1.
    text: The exact text.
    words, spaces: Tokens, and whether a space follows each; None in untokenized formats. Whitespace other than one
        space between two words is a token of its own, as in spaCy. The last space says whether one would follow if
        the text went on; it is not part of `text`.
    tags, pos, morphs, lemmas, deps: One string a word; "" where this word has none.
    heads: Index of each word's head in `words`, its own for a root; None where this word has none.
    sent_starts: Whether a sentence starts at each word; None if it isn't known.
    entities: (start, end, label) in characters of `text`; an empty list is annotated and has none.
    unknown: (start, end) in characters: stretches where it isn't known whether there is an entity.
    cats: 1.0 or 0.0 for each label.
    questions: `{"id", "question", "answers": [{"text", "start"}], "is_impossible"}` for each.
    newdoc: Whether a new document starts here.
    """

    id: str
    path: str
    line: int
    text: str
    words: Optional[List[str]] = None
    spaces: Optional[List[bool]] = None
    tags: Optional[List[str]] = None
    pos: Optional[List[str]] = None
    morphs: Optional[List[str]] = None
    lemmas: Optional[List[str]] = None
    heads: Optional[List[Optional[int]]] = None
    deps: Optional[List[str]] = None
    sent_starts: Optional[List[Optional[bool]]] = None
    entities: Optional[List[Entity]] = None
    unknown: List[Tuple[int, int]] = field(default_factory=list)
    cats: Optional[Dict[str, float]] = None
    questions: Optional[List[Dict[str, Any]]] = None
    newdoc: bool = False


@dataclass(frozen=True)
class Problem:
    """Annotation that was left out, and need not stop a conversion.

    path, line: Where it stands.
    id: The document, sentence or question.
    start, end: Characters in the text of the document; end is exclusive.
    label: The label of the annotation.
    message: What is wrong.
    """

    path: str
    line: int
    id: str
    start: int
    end: int
    label: str
    message: str

    def __str__(self) -> str:
        place = f" {self.start}-{self.end}" if 0 <= self.start < self.end else ""
        return f"{self.path}:{self.line}: {self.id}{place} {self.label}: {self.message}"


OnProblem = Callable[[Problem], None]


def raise_problem(problem: Problem) -> NoReturn:
    """The default for a `Problem`: stop. Raises FormatError B160."""
    raise FormatError(
        "B160",
        f"{problem.label} at {problem.start}-{problem.end} of '{problem.id}': {problem.message}",
        "Correct the file, or give an on_problem callback to go on without this annotation.",
        path=problem.path,
        line=problem.line,
    )


class _Line(NamedTuple):
    number: int
    text: str


# ---------------------------------------------------------------------------------------------------- whole files


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return lzma.decompress(data) if _is_packed(path) else data
    except lzma.LZMAError as error:
        raise FormatError("B101", f"The file can't be unpacked: {error}.", "Download it again.", path=path) from None
    except FileNotFoundError:
        raise FormatError("B101", "There is no such file.", "Check the path.", path=path) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise FormatError(
            "B101", f"The file can't be read: {reason}.", "Check path and permissions.", path=path
        ) from None


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".xz" and not path.name.lower().endswith(_ARCHIVES)


def _decode(data: bytes, encoding: str, path: StrPath) -> str:
    """Text of a file, without its byte order mark. Raises FormatError B102 (binary) or B103 (encoding)."""
    try:
        text = data.decode(encoding)
    except LookupError:
        raise FormatError("B103", f"There is no encoding '{encoding}'.", "Try utf-8 or latin-1.", path=path) from None
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise _binary(path, data) from None
        before = data[: error.start]
        column = error.start - (before.rfind(b"\n") + 1) + 1
        fix = "Save the file as UTF-8, or name its encoding, for example --encoding latin-1."
        what = f"Byte {column} of the line (0x{data[error.start]:02x}) is not {encoding}."
        raise FormatError("B103", what, fix, path=path, line=before.count(b"\n") + 1) from None
    except UnicodeError as error:  # of codecs that aren't for files, such as idna
        what = f"The file can't be read as {encoding}: {error}."
        raise FormatError("B103", what, "Try utf-8 or latin-1.", path=path) from None
    if "\0" in text:
        raise _binary(path, data, text.count("\n", 0, text.index("\0")) + 1)
    if "\r" in text and "\n" not in text:
        fix = "Save the file with line ends of today (LF or CRLF)."
        raise FormatError("B107", "The lines end in carriage returns alone.", fix, path=path)
    return text[1:] if text.startswith("\ufeff") else text


def _binary(path: StrPath, data: bytes, line: Optional[int] = None) -> FormatError:
    if data.startswith(_COMPRESSED):
        return FormatError("B102", "This is a compressed file.", "Unpack it first.", path=path)
    fix = "Check the path; for UTF-16 text give --encoding utf-16."
    what = "This is a binary file (it has NUL bytes), not a corpus."
    return FormatError("B102", what, fix, path=path, line=line)


def _read_text(path: Path, encoding: str) -> str:
    text = _decode(_read_bytes(path), encoding, path)
    if not text.strip():
        raise _empty(path)
    return text


def _lines(text: str) -> List[_Line]:
    """Lines ended by LF or CRLF only: other separators of Unicode are part of the text."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [_Line(i, line[:-1] if line.endswith("\r") else line) for i, line in enumerate(lines, 1)]


def _empty(path: StrPath) -> FormatError:
    return FormatError(
        "B105", "There is nothing in this file.", "Check that it was saved or downloaded whole.", path=path
    )


# ------------------------------------------------------------------------------------------------------ detection

_BY_EXTENSION = {".conllu": "conllu", ".iob": "iob", ".iob2": "iob", ".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_ARCHIVES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".txz", ".tar.bz2")
#: How files of gzip, xz, zip, bzip2 and zstd begin.
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ\0", b"PK\x03\x04", b"BZh", b"\x28\xb5\x2f\xfd")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_IOB_TAG = re.compile(r"^(?:O|([BILUES])-(\S+))$")


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def detect_format(path: StrPath) -> str:
    """The format of a file or folder, by its name where that says enough, else by its content.

    path: A file, a tar archive or a folder.
    RETURNS: A key of `FORMATS`.
    Raises FormatError B101 (can't be read), B102 (binary), B104 (can't be told), B105 (empty).
    """
    path = Path(path)
    if path.is_dir():
        if any(not _hidden(file, path) for file in path.rglob("*.ann")):
            return "brat"
        raise FormatError(
            "B104",
            "The folder has no .ann files, and of the formats only brat is read from a folder.",
            "Give the files of the corpus themselves.",
            path=path,
        )
    name = path.name.lower()
    if (
        name.endswith(_ARCHIVES)
        or path.suffix == ".ann"
        or (path.suffix == ".txt" and path.with_suffix(".ann").exists())
    ):
        return "brat"
    data = _read_bytes(path)
    if not data.strip():
        raise _empty(path)
    suffix = (path.with_suffix("") if _is_packed(path) else path).suffix.lower()
    if suffix in _BY_EXTENSION:
        return _BY_EXTENSION[suffix]
    head = data[:65536]
    wide = head.startswith(_UTF16)
    if head.startswith(_COMPRESSED) or (b"\0" in head and not wide):
        raise _binary(path, data)
    as_json = name.endswith(".json")
    sample = (data if as_json else head).decode("utf-16" if wide else "utf-8-sig", errors="replace")
    if as_json or sample.lstrip().startswith("{"):
        return _detect_json(path, sample)
    lines = [line.rstrip("\r") for line in sample.split("\n")]
    if len(data) > len(head):
        lines.pop()
    rows = [line for line in lines if line.strip() and not line.startswith("-DOCSTART-")]
    tokens = [row for row in rows if not row.startswith("#")]
    if tokens and all(row.count("\t") == 9 and re.match(r"\d+(?:[-.]\d+)?\t", row) for row in tokens):
        return "conllu"
    cells = [_columns(row) for row in rows]
    if (
        cells
        and len({len(row) for row in cells}) == 1
        and len(cells[0]) > 1
        and all(_IOB_TAG.match(row[-1]) for row in cells)
    ):
        return "iob"
    raise _undecided(path, "Neither the name nor the content says the format.")


def _detect_json(path: Path, sample: str) -> str:
    try:
        whole = json.loads(sample)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        return "squad"
    try:
        first = json.loads(sample.split("\n", 1)[0])
    except ValueError:
        first = None
    if isinstance(first, dict) and "text" in first:
        return "jsonl"
    if whole is None and '"paragraphs"' in sample:
        return "squad"  # a broken one, whose reader says the line
    raise _undecided(path, "This JSON is neither SQuAD (data, paragraphs) nor one object with a text a line.")


def _undecided(path: Path, what: str) -> FormatError:
    return FormatError("B104", what, f"Name the format: beto-spacy convert --format {'|'.join(FORMATS)}.", path=path)


# -------------------------------------------------------------------------------------------------------- reading


def read_records(
    path: StrPath,
    *,
    format: Optional[str] = None,
    encoding: str = "utf-8",
    on_problem: Optional[OnProblem] = None,
    **options: Any,
) -> Iterator[Record]:
    """Read a corpus.

    path: A file, which may be packed as ``.xz``; for brat also a folder or a tar archive.
    format: A key of `FORMATS`; None detects it (`labels_path` among the options means "lines").
    encoding: Of the file.
    on_problem: Called with each `Problem`; None raises the first one as FormatError B160.
    options: Of the format. conllu: `merge_subtokens=True`, `repair=False`. iob: `tag_column="auto"` (index of the
        part of speech, or None), `repair=False`. jsonl: `labels`, `missing=("",)`. csv and tsv: these two and
        `text_column`, `label_column`, `id_column` (names or indices from 0), `header="auto"|"yes"|"no"`,
        `label_separator`, `quoting="auto"|"double"|"none"`, `delimiter`. lines: `labels_path`, `label_names`, `labels`,
        `missing`. brat, cess and squad have none.
    YIELDS: Records, in the order of the file.
    Raises FormatError B1xx with file and line.
    """
    name, reader = _reader(path, format, options)
    return reader(Path(path), encoding, on_problem or raise_problem, **options)


def read_labels(
    path: StrPath, *, format: Optional[str] = None, encoding: str = "utf-8", **options: Any
) -> Optional[List[str]]:
    """The category labels of a file, sorted; None for a format without categories.

    Give the union over several files as `labels` to `read_records`, so that a label that one file happens not to have
    is 0.0 there too. Arguments and errors as in `read_records`.
    """
    name, reader = _reader(path, format, options)
    if name not in ("jsonl", "csv", "tsv", "lines"):
        return None
    labels = set()
    for record in reader(Path(path), encoding, raise_problem, **options):
        labels.update(record.cats or ())
    return sorted(labels)


def _reader(
    path: StrPath, format: Optional[str], options: Dict[str, Any]
) -> Tuple[str, Callable[..., Iterator[Record]]]:
    if format is None:
        format = "lines" if options.get("labels_path") else detect_format(path)
    if format not in FORMATS:
        raise FormatError("B104", f"There is no format '{format}'.", f"Known are: {', '.join(FORMATS)}.")
    reader = _READERS[format]
    known = list(inspect.signature(reader).parameters)[3:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        fix = f"Its options are: {', '.join(known)}." if known else "It has no options."
        raise FormatError("B106", f"The format {format} has no option {', '.join(unknown)}.", fix)
    return format, reader


# --------------------------------------------------------------------------------------------------- entity tags


def _prefix(tag: str) -> Tuple[str, str]:
    """ "B-PER" -> ("B", "PER"), "O" -> ("O", "")."""
    return (tag[0], tag[2:]) if tag != "O" else ("O", "")


def _scheme(sentences: Iterable[Sequence[str]], path: StrPath) -> str:
    """The scheme of a whole file: "bio", "iob1" or "bilou" (where BIOES is the same with E for L and S for U)."""
    prefixes = set()
    legal_bio = legal_iob1 = True
    for tags in sentences:
        previous = ("O", "")
        for tag in tags:
            now = _prefix(tag)
            prefixes.add(now[0])
            if now[0] == "I" and previous[1] != now[1]:
                legal_bio = False
            if now[0] == "B" and previous[1] != now[1]:
                legal_iob1 = False
            previous = now
    if prefixes & set("LU") and prefixes & set("ES"):
        what = "The entity tags mix BILOU and BIOES."
        raise FormatError("B121", what, "Convert the file to one scheme.", path=path)
    if prefixes & set("LUES"):
        return "bilou"
    return "iob1" if legal_iob1 and not legal_bio else "bio"


def _decode_tags(
    tags: Sequence[str], scheme: str, repair: bool, path: StrPath, lines: Sequence[int]
) -> List[Tuple[int, int, str]]:
    """Entities of one sentence, (first word, last word + 1, label). Adjacent entities stay apart.

    repair: A tag that can't go on an entity starts one, and an entity that isn't closed ends; else FormatError B122.
    lines: Line of each word.
    """
    spans: List[Tuple[int, int, str]] = []
    start, label = -1, ""

    def broken(i: int, what: str) -> None:
        if not repair:
            fix = "Correct the tag, or convert with repair (--repair), which starts or ends an entity there."
            raise FormatError("B122", what, fix, path=path, line=lines[min(i, len(lines) - 1)])

    for i, tag in enumerate(tags):
        prefix, name = _prefix(tag)
        prefix = {"E": "L", "S": "U"}.get(prefix, prefix)
        going_on = prefix in "IL" and name == label and start >= 0
        if start >= 0 and not going_on:
            if scheme == "bilou":
                broken(i, f"The entity {label} before '{tag}' isn't closed.")
            spans.append((start, i, label))
            start, label = -1, ""
        if prefix == "O":
            continue
        if not going_on:
            if prefix in "IL" and scheme != "iob1":
                broken(i, f"'{tag}' doesn't continue an entity {name}.")
            start, label = i, name
        if prefix in "LU":
            spans.append((start, i + 1, label))
            start, label = -1, ""
    if start >= 0:
        if scheme == "bilou":
            broken(len(tags), f"The entity {label} at the end of the sentence isn't closed.")
        spans.append((start, len(tags), label))
    return spans


# -------------------------------------------------------------------------------------------------------- CoNLL-U

_COMMENT_TEXT = re.compile(r"^#\s*text\s*=\s?(.*)$")
_COMMENT_ID = re.compile(r"^#\s*sent_id\s*=\s*(.*?)\s*$")
_COMMENT_DOC = re.compile(r"^#\s*newdoc\b")
_ID_WORD = re.compile(r"^[1-9]\d*$")
_ID_RANGE = re.compile(r"^([1-9]\d*)-([1-9]\d*)$")
_ID_EMPTY = re.compile(r"^(\d+)\.([1-9]\d*)$")
_FEATURE = re.compile(r"^[A-Za-z0-9\[\]]+=[^=|\s]+$")
_MISC_ENTITY = re.compile(r"^(?:(?:name|NE)=)(.*)$|^([BILU]-[A-Z_]+)$")
_SPACES = {r"\s": " ", r"\t": "\t", r"\r": "\r", r"\n": "\n", r"\p": "|", r"\\": "\\", "\u00a0": "\u00a0"}
_DEP_COLUMNS = {"lemma": 2, "upos": 3, "xpos": 4, "feats": 5, "head": 6, "deprel": 7}


class _Unit(NamedTuple):
    """A word on the surface: one syntactic word, or the several of a range."""

    form: str
    words: List[int]
    space: bool
    spaces_after: Optional[str]
    line: int


@dataclass
class _Sentence:
    comments: List[_Line]
    rows: List[Tuple[int, List[str]]]


def _conllu_sentences(lines: List[_Line], path: Path) -> List[_Sentence]:
    sentences: List[_Sentence] = []
    comments: List[_Line] = []
    rows: List[Tuple[int, List[str]]] = []
    for number, line in lines + [_Line(len(lines) + 1, "")]:
        if not line.strip():
            if rows:
                sentences.append(_Sentence(comments, rows))
                comments, rows = [], []
            continue
        if line.startswith("#"):
            if rows:
                what = "A comment stands inside a sentence."
                raise FormatError("B110", what, "End the sentence with a blank line.", path=path, line=number)
            comments.append(_Line(number, line))
            continue
        row = line.split("\t")
        if len(row) != 10:
            what = f"A word line has {len(row)} columns; CoNLL-U has 10, separated by tabs."
            raise FormatError("B110", what, "Check the line, and that no tab became spaces.", path=path, line=number)
        if "" in row[2:]:
            what = f"Column {row.index('', 2) + 1} of this line is empty."
            raise FormatError("B110", what, "Write _ where there is no value.", path=path, line=number)
        rows.append((number, row))
    if not sentences:
        raise FormatError("B105", "There is no sentence in this file.", "Check that it was saved whole.", path=path)
    if any(_COMMENT_TEXT.match(comment.text) for comment in comments):
        what = "The file ends after the comments of a sentence."
        raise FormatError("B110", what, "Check that it was saved whole.", path=path, line=comments[0].number)
    return sentences


def _misc_entity(misc: str, path: Path, line: int) -> str:
    """The entity tag in MISC, "" if there is none."""
    if misc == "_":
        return ""
    for part in misc.split("|"):
        match = _MISC_ENTITY.match(part)
        if match:
            tag = match.group(2) or match.group(1)
            if not _IOB_TAG.match(tag):
                what = f"'{part}' in MISC is not an entity tag."
                raise FormatError("B121", what, "Write it as NE=O, NE=B-TYPE or NE=I-TYPE.", path=path, line=line)
            return tag
    return ""


def _read_conllu(
    path: Path, encoding: str, on_problem: OnProblem, merge_subtokens: bool = True, repair: bool = False
) -> Iterator[Record]:
    sentences = _conllu_sentences(_lines(_read_text(path, encoding)), path)
    layers = set()
    tagged = []
    for sentence in sentences:
        words = [(line, row) for line, row in sentence.rows if _ID_WORD.match(row[0])]
        layers.update(name for name, column in _DEP_COLUMNS.items() if any(row[column] != "_" for _, row in words))
        tagged.append([_misc_entity(row[9], path, line) for line, row in words])
    scheme = ""
    if any(any(tags) for tags in tagged):
        scheme = _scheme([[tag or "O" for tag in tags] for tags in tagged], path)
    for number, (sentence, tags) in enumerate(zip(sentences, tagged), 1):
        yield _conllu_record(path, number, sentence, layers, [t or "O" for t in tags], scheme, merge_subtokens, repair)


def _conllu_units(rows: List[Tuple[int, List[str]]], path: Path) -> Tuple[List[_Unit], List[Tuple[int, List[str]]]]:
    """Words on the surface, and the rows of the syntactic words. Checks ids, ranges and forms."""

    numbering = "Number words 1, 2, 3 and ranges 2-3 before their words."

    def bad(code: str, what: str, line: int, fix: str = numbering) -> NoReturn:
        raise FormatError(code, what, fix, path=path, line=line)

    units: List[_Unit] = []
    words: List[Tuple[int, List[str]]] = []
    ends: List[Tuple[int, int]] = []
    current: Optional[Tuple[int, int, str, str, int]] = None
    for line, row in rows:
        identifier, form, misc = row[0], row[1], row[9]
        if not form.strip():
            bad("B114", "The FORM of this word is empty.", line, "Write the word; an underscore is written _.")
        empty = _ID_EMPTY.match(identifier)
        if empty:
            if int(empty.group(1)) != len(words):
                bad("B111", f"The empty node {identifier} doesn't stand after word {empty.group(1)}.", line)
            continue
        span = _ID_RANGE.match(identifier)
        if span:
            first, last = int(span.group(1)), int(span.group(2))
            if current is not None and len(words) < current[1]:
                bad("B112", f"The range {identifier} overlaps {current[0]}-{current[1]}.", line)
            if first >= last:
                bad("B112", f"The range {identifier} doesn't run upwards.", line)
            if first != len(words) + 1:
                bad("B112", f"The range {identifier} doesn't stand before word {first}.", line)
            current = (first, last, form, misc, line)
            ends.append((last, line))
            continue
        if not _ID_WORD.match(identifier) or int(identifier) != len(words) + 1:
            bad("B111", f"The id '{identifier}' should be {len(words) + 1}.", line)
        words.append((line, row))
        index = len(words) - 1
        if current is not None and index + 1 <= current[1]:
            if index + 1 == current[1]:
                parts = list(range(current[0] - 1, index + 1))
                units.append(_Unit(current[2], parts, *_space_after(current[3]), current[4]))
        else:
            units.append(_Unit(form, [index], *_space_after(misc), line))
    if not words:
        bad("B111", "This sentence has no words.", rows[0][0])
    for last, line in ends:
        if last > len(words):
            bad("B112", f"The range ends at {last}, but the sentence has {len(words)} words.", line)
    return units, words


def _space_after(misc: str) -> Tuple[bool, Optional[str]]:
    space, spaces = True, None
    for part in misc.split("|"):
        if part == "SpaceAfter=No":
            space = False
        elif part.startswith("SpacesAfter="):
            spaces = re.sub(r"\\[strnp\\]", lambda match: _SPACES[match.group()], part[12:])
    return space, spaces


def _conllu_text(units: List[_Unit], comments: List[_Line], path: Path) -> Tuple[str, str, List[Tuple[bool, str]]]:
    """Text, whitespace before the first word, and for each unit whether a space follows and what else does.

    `# text` says the whitespace where there is one, and must agree with the words and with SpaceAfter=No.
    """
    matches = ((comment.number, _COMMENT_TEXT.match(comment.text)) for comment in comments)
    given = next(((line, match.group(1)) for line, match in matches if match), None)
    after: List[Tuple[bool, str]] = []
    last = units[-1]
    if given is None:
        pieces = []
        for unit in units:
            spaces = unit.spaces_after if unit.spaces_after is not None else (" " if unit.space else "")
            pieces.append(unit.form + spaces)
            after.append((spaces.startswith(" "), spaces[1:] if spaces.startswith(" ") else spaces))
        after[-1] = (last.space, "")
        return ("".join(pieces[:-1]) + last.form), "", after
    number, text = given
    text = text.rstrip()
    position = len(text) - len(text.lstrip())
    leading = text[:position]
    for unit in units:
        if not text.startswith(unit.form, position):
            what = f"The word '{unit.form}' isn't in # text where it should be: '{text[position : position + 20]}'."
            raise FormatError("B116", what, "Make # text and the words agree.", path=path, line=unit.line)
        position += len(unit.form)
        rest = text[position:]
        spaces = rest[: len(rest) - len(rest.lstrip())]
        position += len(spaces)
        if unit is not last and unit.spaces_after is None and bool(spaces) != unit.space:
            what = f"After '{unit.form}' # text has {'a' if spaces else 'no'} space, and MISC says otherwise."
            raise FormatError("B116", what, "Make # text and SpaceAfter=No agree.", path=path, line=unit.line)
        after.append((spaces.startswith(" "), spaces[1:] if spaces.startswith(" ") else spaces))
    if position != len(text):
        what = f"# text goes on after the last word: '{text[position : position + 20]}'."
        raise FormatError("B116", what, "Make # text and the words agree.", path=path, line=number)
    after[-1] = (last.space, "")
    return text, leading, after


def _conllu_heads(rows: List[Tuple[int, List[str]]], path: Path) -> List[Optional[int]]:
    """Head of each syntactic word, an index from 0, its own for the root. Checks that this is one tree."""

    def bad(what: str, line: int, fix: str = "Correct HEAD: one root (0), every other word under another.") -> NoReturn:
        raise FormatError("B113", what, fix, path=path, line=line)

    heads: List[Optional[int]] = []
    root = None
    for index, (line, row) in enumerate(rows):
        if row[6] == "_":
            heads.append(None)
            continue
        if not (row[6].isascii() and row[6].isdecimal()):
            bad(f"The head '{row[6]}' is not a number.", line)
        head = int(row[6])
        if head > len(rows):
            bad(f"The head {head} is out of range: the sentence has {len(rows)} words.", line)
        if head == index + 1:
            bad(f"Word {head} is its own head.", line)
        if head == 0:
            if root is not None:
                bad(f"There are several roots: words {root + 1} and {index + 1}.", line)
            root = index
        heads.append(head - 1 if head else index)
    if root is None and None not in heads:
        bad("The sentence has no root.", rows[0][0])
    done = set()
    for index in range(len(heads)):
        trail = []
        node: Optional[int] = index
        seen = set()
        while node is not None and node not in done and heads[node] != node:
            if node in seen:
                bad(f"The heads of word {node + 1} go round in a circle.", rows[node][0])
            seen.add(node)
            trail.append(node)
            node = heads[node]
        done.update(trail)
    for index, (line, row) in enumerate(rows):
        if "_" not in (row[6], row[7]) and (index == root) != (row[7].partition(":")[0].lower() == "root"):
            fix = "The word with HEAD 0 has the relation root, and no other word has."
            bad(f"Word {index + 1} has the head {row[6]} and the relation '{row[7]}'.", line, fix)
    return heads


def _depth(index: int, heads: List[Optional[int]]) -> int:
    depth = 0
    while heads[index] is not None and heads[index] != index:
        index = heads[index]  # type: ignore[assignment]
        depth += 1
    return depth


def _merge_features(values: List[str]) -> str:
    """Union of FEATS: `Case=Acc` and `Case=Nom` give `Case=Acc,Nom`."""
    merged: Dict[str, set] = defaultdict(set)
    for value in values:
        for feature in value.split("|") if value else ():
            name, _, options = feature.partition("=")
            merged[name].update(options.split(","))
    return "|".join(sorted(f"{name}={','.join(sorted(options))}" for name, options in merged.items()))


def _conllu_record(
    path: Path, number: int, sentence: _Sentence, layers: set, tags: List[str], scheme: str, merge: bool, repair: bool
) -> Record:
    units, rows = _conllu_units(sentence.rows, path)
    for line, row in rows:
        if row[3] != "_" and row[3] not in UPOS:
            raise FormatError("B115", f"There is no UPOS '{row[3]}'.", "Use the 17 tags of UD.", path=path, line=line)
        if row[5] != "_":
            names = [feature.split("=")[0] for feature in row[5].split("|")]
            if not all(map(_FEATURE.match, row[5].split("|"))) or len(set(names)) != len(names):
                what = f"FEATS '{row[5]}' is not of the form A=B|C=D with each name once."
                raise FormatError("B115", what, "Correct the features, or write _.", path=path, line=line)
    heads = _conllu_heads(rows, path)
    text, leading, after = _conllu_text(units, sentence.comments, path)

    def column(index: int, row: int) -> str:
        value = rows[row][1][index]
        # An underscore is the lemma of the word "_", and of no other.
        return value if value != "_" or (index == 2 and rows[row][1][1] == "_") else ""

    # Each output word: (form, syntactic words, space). Whitespace tokens have no syntactic words.
    out: List[Tuple[str, List[int], bool]] = [(leading, [], False)] if leading else []
    for unit, (space, rest) in zip(units, after):
        if merge or len(unit.words) == 1:
            out.append((unit.form, unit.words, space))
        else:
            for word in unit.words:
                out.append((rows[word][1][1], [word], space and word == unit.words[-1]))
        if rest:
            out.append((rest, [], False))
    if not merge:
        text = "".join(form + " " * space for form, _, space in out[:-1]) + out[-1][0]
    place = {word: i for i, (_, words, _) in enumerate(out) for word in words}
    starts, offset = [], 0
    for form, _, space in out:
        starts.append(offset)
        offset += len(form) + space

    def top(words: List[int]) -> int:
        """The highest word of a range in the tree, the first of several."""
        outside = [w for w in words if heads[w] == w or heads[w] not in words]
        return min(outside or words[:1], key=lambda w: _depth(w, heads))

    tops = [top(words) if words else -1 for _, words, _ in out]

    def joined(index: int, separator: str) -> List[str]:
        values = [[column(index, word) for word in words] for _, words, _ in out]
        return [separator.join(parts) if all(parts) else "" for parts in values]

    def parents() -> List[Optional[int]]:
        result: List[Optional[int]] = []
        for i, t in enumerate(tops):
            if t < 0:
                result.append(i - 1 if i else (1 if len(out) > 1 else 0))
            elif heads[t] is None:
                result.append(None)
            else:
                result.append(place[heads[t]])  # type: ignore[index]
        return result

    parsed = "head" in layers and any(head is not None for head in heads)
    deps = None
    if parsed and "deprel" in layers:
        deps = [column(7, t) if t >= 0 else "" for t in tops]
        deps = ["ROOT" if dep == "root" else dep for dep in deps]
    entities = None
    if scheme:
        entities = []
        for first, last, label in _decode_tags(tags, scheme, repair, path, [line for line, _ in rows]):
            bounds = []
            for word, is_end in ((first, False), (last - 1, True)):
                form, words, _ = out[place[word]]
                # A boundary inside a multiword token has no place in the text: put it inside the token, so that
                # whoever aligns it sees that it doesn't fit.
                inner = words.index(word) + is_end
                whole = len(form) if inner == len(words) else min(inner, len(form) - 1)
                bounds.append(starts[place[word]] + whole)
            entities.append((bounds[0], bounds[1], label))
    names = [m.group(1) for m in (_COMMENT_ID.match(c.text) for c in sentence.comments) if m]
    morphs = [
        _merge_features([column(5, word) for word in words])
        if len(words) > 1
        else (column(5, words[0]) if words else "")
        for _, words, _ in out
    ]
    return Record(
        id=names[0] if names else f"{path.name}-{number}",
        path=str(path),
        line=sentence.comments[0].number if sentence.comments else sentence.rows[0][0],
        text=text,
        words=[form for form, _, _ in out],
        spaces=[space for _, _, space in out],
        tags=joined(4, "_") if "xpos" in layers else None,
        pos=[column(3, t) if t >= 0 else "" for t in tops] if "upos" in layers else None,
        morphs=morphs if "feats" in layers else None,
        lemmas=joined(2, " ") if "lemma" in layers else None,
        heads=parents() if deps is not None else None,
        deps=deps,
        sent_starts=[i == 0 for i in range(len(out))],
        entities=entities,
        newdoc=any(_COMMENT_DOC.match(c.text) for c in sentence.comments),
    )


def _read_cess(path: Path, encoding: str, on_problem: OnProblem) -> Iterator[Record]:
    """Tags aren't kept: those of other corpora with tags of EAGLES are coarser."""
    for record in _read_conllu(path, encoding, on_problem):
        words: List[str] = []
        analyses: List[Analysis] = []
        columns = (record.words, record.lemmas, record.pos, record.tags, record.morphs)
        if None in columns:
            what = "A column of words, lemmas, parts of speech, tags or features is empty."
            raise FormatError("B115", what, "Convert other treebanks as conllu.", path=path, line=record.line)
        for form, *analysis in zip(*columns):  # type: ignore[arg-type]
            parts = surface(form)
            words += parts
            analyses += [as_ancora(parts[0], *analysis)] if len(parts) == 1 else [UNKNOWN] * len(parts)
        spaces = readable_spaces(words)
        yield replace(
            record,
            text="".join(word + " " * space for word, space in zip(words, spaces)).removesuffix(" "),
            words=words,
            spaces=spaces,
            tags=None,
            pos=[analysis.pos for analysis in analyses],
            morphs=[analysis.morph for analysis in analyses],
            lemmas=[analysis.lemma for analysis in analyses],
            heads=None,
            deps=None,
            sent_starts=[i == 0 for i in range(len(words))],
        )


# --------------------------------------------------------------------------------------------- CoNLL-2002 columns


def _columns(line: str) -> List[str]:
    return line.split("\t") if "\t" in line else line.strip(" ").split(" ") if "  " not in line else line.split()


def readable_spaces(words: Sequence[str]) -> List[bool]:
    """Spacing for a sentence whose source has only tokens: whether a space follows each.

    No space before closing punctuation (. , ; : ! ? ) ] } » ” ’ … %) and after opening punctuation (¿ ¡ ( [ { « “ ‘);
    straight quotes alternate between opening and closing. Everything else is followed by a space, so a hyphen or a
    dash keeps both of its spaces. The original spacing can't be had back; this reads like Spanish.
    """
    closing = set(".,;:!?)]}»”’…%") | {"...", "?!", "!?"}
    opening = set("¿¡([{«“‘")
    spaces = [True] * len(words)
    quoted = {'"': False, "'": False}
    for i, word in enumerate(words):
        closes, opens = word in closing, word in opening
        if word in quoted:
            opens, closes = not quoted[word], quoted[word]
            quoted[word] = opens
        if closes and i:
            spaces[i - 1] = False
        if opens:
            spaces[i] = False
    return spaces


def _read_iob(
    path: Path,
    encoding: str,
    on_problem: OnProblem,
    tag_column: Union[int, str, None] = "auto",
    repair: bool = False,
) -> Iterator[Record]:
    sentences: List[Tuple[bool, List[Tuple[int, List[str]]]]] = []
    rows: List[Tuple[int, List[str]]] = []
    newdoc, width = False, 0
    lines = _lines(_read_text(path, encoding))
    for number, line in lines + [_Line(len(lines) + 1, "")]:
        if not line.strip() or line.startswith("-DOCSTART-"):
            if rows:
                sentences.append((newdoc, rows))
                rows, newdoc = [], False
            newdoc = newdoc or line.startswith("-DOCSTART-")
            continue
        row = _columns(line)
        width = width or len(row)
        if len(row) != width or width < 2:
            what = f"The line has {len(row)} columns" + (f", the first one had {width}." if width > 1 else ".")
            fix = "Every line is a token, other columns, and the entity tag last; blank lines end sentences."
            raise FormatError("B120", what, fix, path=path, line=number)
        if not row[0]:
            raise FormatError("B114", "The token is empty.", "Write the token first.", path=path, line=number)
        if not _IOB_TAG.match(row[-1]):
            what = f"'{row[-1]}' is not an entity tag."
            fix = "The last column is O, B-TYPE or I-TYPE (also E, L, S, U)."
            raise FormatError("B121", what, fix, path=path, line=number)
        rows.append((number, row))
    if not sentences:
        raise FormatError("B105", "There is no sentence in this file.", "Check that it was saved whole.", path=path)
    column = _tag_column(tag_column, width, path)
    scheme = _scheme(([row[-1] for _, row in rows] for _, rows in sentences), path)
    for number, (newdoc, rows) in enumerate(sentences, 1):
        words = [row[0] for _, row in rows]
        spaces = readable_spaces(words)
        starts, text = [], ""
        for word, space in zip(words, spaces):
            starts.append(len(text))
            text += word + " " * space
        spans = _decode_tags([row[-1] for _, row in rows], scheme, repair, path, [line for line, _ in rows])
        yield Record(
            id=f"{path.name}-{number}",
            path=str(path),
            line=rows[0][0],
            text=text.removesuffix(" "),
            words=words,
            spaces=spaces,
            tags=None if column is None else [row[column] if row[column] != "_" else "" for _, row in rows],
            sent_starts=[i == 0 for i in range(len(words))],
            entities=[(starts[a], starts[b - 1] + len(words[b - 1]), label) for a, b, label in spans],
            newdoc=newdoc,
        )


def _tag_column(value: Union[int, str, None], width: int, path: Path) -> Optional[int]:
    if value is None or value in ("none", ""):
        return None
    if value == "auto":
        return 1 if width > 2 else None
    try:
        index = int(value)
    except ValueError:
        index = -1
    if not 0 < index < width - 1:
        what = f"tag_column {value} is not a column between the token (0) and the entity tag ({width - 1})."
        raise FormatError("B120", what, "Give another index, or none.", path=path)
    return index


# ----------------------------------------------------------------------------------------------------------- brat


def _brat_files(path: Path) -> Dict[str, Dict[str, Tuple[str, bytes]]]:
    """Document name -> {".txt": (path, content), ".ann": ...}."""
    files: Dict[str, Dict[str, Tuple[str, bytes]]] = defaultdict(dict)
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix in (".txt", ".ann") and file.is_file() and not _hidden(file, path):
                key = file.relative_to(path).with_suffix("").as_posix()
                files[key][file.suffix] = (str(file), _read_bytes(file))
    elif path.suffix in (".txt", ".ann"):
        for suffix in (".txt", ".ann"):
            file = path.with_suffix(suffix)
            if file == path or file.exists():
                files[path.stem][suffix] = (str(file), _read_bytes(file))
    else:
        _read_bytes(path)
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    name = Path(member.name)
                    if member.isfile() and name.suffix in (".txt", ".ann") and not name.name.startswith("."):
                        content = archive.extractfile(member)
                        if content is not None:
                            place = f"{path}/{member.name}"
                            files[name.with_suffix("").as_posix()][name.suffix] = (place, content.read())
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError) as error:
            what = f"The archive can't be read: {str(error).splitlines()[0].rstrip(':')}."
            raise FormatError("B101", what, "Download it again.", path=path) from None
    return files


def _read_brat(path: Path, encoding: str, on_problem: OnProblem) -> Iterator[Record]:
    """Only the T lines (text-bound annotation) are read; relations, events, attributes and notes are left out."""
    files = _brat_files(path)
    if not files:
        what = "There are no .txt and .ann files here."
        raise FormatError("B105", what, "Give the folder or archive that holds both.", path=path)
    for key in sorted(files):
        pair = files[key]
        for suffix, other in ((".txt", ".ann"), (".ann", ".txt")):
            if suffix not in pair:
                name = Path(pair[other][0]).with_suffix(suffix).name
                fix = "Put both side by side; an empty .ann says that there are no entities."
                raise FormatError("B130", f"Its partner {name} is missing.", fix, path=pair[other][0])
    for key in sorted(files):
        text_path, data = files[key][".txt"]
        ann_path, ann_data = files[key][".ann"]
        text = _decode(data, encoding, text_path)
        if not text.strip():
            raise _empty(text_path)
        bom = data.decode(encoding, "replace").startswith("\ufeff")
        lines = _lines(_decode(ann_data, encoding, ann_path))
        yield _brat_record(key, text_path, text, bom, ann_path, lines, on_problem)


_SPACE = re.compile(r"\s")


def _quote(text: str, pieces: List[Tuple[int, int]], shift: int) -> str:
    """The text of a span as a T line quotes it: its pieces with a space between, and only spaces for whitespace."""
    if not all(0 <= a - shift < b - shift <= len(text) for a, b in pieces):
        return ""
    return _SPACE.sub(" ", " ".join(text[a - shift : b - shift] for a, b in pieces))


def _brat_record(
    key: str, text_path: str, text: str, bom: bool, ann_path: str, lines: List[_Line], on_problem: OnProblem
) -> Record:
    marks = []
    for number, line in lines:
        if not line.startswith("T"):
            continue
        cells = line.split("\t")
        head = re.match(r"^(\S+) (\d+ \d+(?:;\d+ \d+)*)$", cells[1]) if len(cells) >= 3 else None
        if head is None:
            what = f"'{line[:60]}' is not a text-bound line."
            raise FormatError("B131", what, "Its form is: T1 TAB TYPE START END TAB TEXT.", path=ann_path, line=number)
        pieces = [(int(a), int(b)) for a, b in (piece.split(" ") for piece in head.group(2).split(";"))]
        marks.append((number, head.group(1), pieces, "\t".join(cells[2:])))

    def fits(candidate: str, shift: int) -> bool:
        return all(_quote(candidate, pieces, shift) == _SPACE.sub(" ", quote) for _, _, pieces, quote in marks)

    # Some tools count a CRLF as one character, some a byte order mark as one: take the reading that fits the quotes.
    plain = text.replace("\r\n", "\n")
    readings = [(t, shift) for shift in ((0, 1) if bom else (0,)) for t in (text, plain)]
    text, shift = next((reading for reading in readings if fits(*reading)), readings[0])
    entities: List[Entity] = []
    unknown: List[Tuple[int, int]] = []
    for number, label, pieces, quote in marks:
        found = _quote(text, pieces, shift)
        if found != _SPACE.sub(" ", quote):
            what = f"At {pieces[0][0]}-{pieces[-1][1]} the text has '{found}', the line says '{quote}'."
            raise FormatError("B132", what, "Correct the offsets, or the encoding.", path=ann_path, line=number)
        pieces = [(a - shift, b - shift) for a, b in pieces]
        start, end = pieces[0][0], pieces[-1][1]
        if all(b1 == a2 for (_, b1), (a2, _) in zip(pieces, pieces[1:])):
            entities.append((start, end, label))
            continue
        message = f"the span is in {len(pieces)} pieces, left out ('{quote}')"
        on_problem(Problem(ann_path, number, key, start, end, label, message))
        unknown.extend(pieces)
    return Record(
        id=key,
        path=text_path,
        line=1,
        text=text,
        entities=sorted(set(entities)),
        unknown=sorted(unknown),
        newdoc=True,
    )


# ----------------------------------------------------------------------------------------------------- categories

_TEXT_NAMES = ("text", "texto", "tweet", "sentence", "content", "review", "comment", "comentario", "frase")
_LABEL_NAMES = ("label", "labels", "etiqueta", "category", "categoria", "categoría", "sentiment", "polarity", "emotion")
_ID_NAMES = ("id", "index_id", "tweet_id", "doc_id", "index")


class _Item(NamedTuple):
    """One text with its labels; `labels` None is missing, `cats` is given as it stands."""

    line: int
    id: str
    text: str
    labels: Optional[List[str]]
    cats: Optional[Dict[str, float]] = None


def _names(value: Union[str, Iterable[str], None]) -> Optional[List[str]]:
    """A list of names from a list or from a string with commas."""
    if value is None:
        return None
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else [str(part) for part in value]


def _categories(path: Path, items: List[_Item], labels: Union[str, Iterable[str], None]) -> Iterator[Record]:
    """Records of single- or multi-label items: every label is there, 1.0 for the item's own, 0.0 for the rest."""
    if not items:
        raise FormatError("B105", "There are no texts in this file.", "Check that it was saved whole.", path=path)
    closed = _names(labels)
    for item in items:
        if not item.text.strip():
            raise FormatError(
                "B144", "The text is empty.", "Write the text or remove the line.", path=path, line=item.line
            )
        for label in [*(item.labels or ()), *(item.cats or ())]:
            if closed is not None and label not in closed:
                fix = f"The labels are: {', '.join(closed)}."
                raise FormatError("B143", f"'{label}' is not one of the labels.", fix, path=path, line=item.line)
    found = closed if closed is not None else sorted({label for item in items for label in item.labels or ()})
    for number, item in enumerate(items, 1):
        cats = item.cats
        if item.labels is not None:
            cats = {label: float(label in item.labels) for label in found}
        name = item.id or f"{path.name}-{number}"
        yield Record(id=name, path=str(path), line=item.line, text=item.text, cats=cats, newdoc=True)


def _read_jsonl(
    path: Path,
    encoding: str,
    on_problem: OnProblem,
    labels: Union[str, Iterable[str], None] = None,
    missing: Union[str, Iterable[str]] = ("",),
) -> Iterator[Record]:
    items = []
    absent = _names(missing) or []
    for number, line in _lines(_read_text(path, encoding)):
        if not line.strip():
            continue

        def bad(what: str, fix: str = 'A line is {"text": "...", "label": "..."}.', number: int = number) -> NoReturn:
            raise FormatError("B140", what, fix, path=path, line=number)

        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            bad(f"The line is not JSON: {error.msg} at column {error.colno}.")
        except (ValueError, RecursionError) as error:
            bad(f"The line is not JSON: {error}.")
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            bad("The line has half a character (a lone \\ud8.. or \\udc..).", "Write the character itself.")
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            bad("The line has no object with a text.")
        keys = [key for key in ("cats", "label", "labels") if value.get(key) is not None]
        if len(keys) > 1:
            bad(f"The line has both {keys[0]} and {keys[1]}.", "Keep one.")
        own, cats = None, None
        if keys == ["cats"]:
            cats = value["cats"]
            scores = list(cats.values()) if isinstance(cats, dict) else [None]
            if any(isinstance(s, str) or s not in (0, 1) for s in scores):
                bad("cats is not an object of labels with 0 or 1.", 'Write it as {"P": 1, "N": 0}.')
            cats = {label: float(score) for label, score in cats.items()}
        elif keys == ["label"]:
            if not isinstance(value["label"], str):
                bad("label is not a string.", "Use labels for a list, cats for an object.")
            if value["label"].strip() not in absent:
                own = [value["label"].strip()]
                if own == [""]:
                    bad("label is empty.", "Write a label, or leave it out where there is no annotation.")
        elif keys == ["labels"]:
            own = value["labels"]
            if not isinstance(own, list) or any(not isinstance(label, str) or not label for label in own):
                bad("labels is not a list of strings.", 'Write it as ["a", "b"]; [] says that none applies.')
        items.append(_Item(number, str(value.get("id", "")), value["text"], own, cats))
    yield from _categories(path, items, labels)


def _split_quoted(text: str, delimiter: str, path: Path) -> Iterator[Tuple[int, List[str]]]:
    """Rows of RFC 4180: a cell with delimiter, line end or quote is in quotes, and its quotes are doubled."""
    cell = re.compile(rf'"((?:[^"]|"")*)"|([^"{re.escape(delimiter)}\n]*)')
    position, line, first, cells = 0, 1, 1, []
    while position <= len(text):
        match = cell.match(text, position)
        assert match is not None  # the second branch matches the empty string
        quoted = match.group(1)
        end = match.end()
        if quoted is None and end > position and text[end : end + 1] in ("\n", "") and text[end - 1] == "\r":
            cells.append(match.group(2)[:-1])
        else:
            cells.append(match.group(2) if quoted is None else quoted.replace('""', '"'))
        line += text.count("\n", position, end)
        if quoted is not None and text.startswith("\r\n", end):
            end += 1
        mark = text[end : end + 1]
        if mark not in ("", "\n", delimiter):
            what = "A quote stands inside a cell, or isn't closed."
            fix = "Double it inside a quoted cell, or give quoting=none if quotes mean nothing in this file."
            raise FormatError("B142", what, fix, path=path, line=first)
        position = end + 1
        if mark != delimiter:
            yield first, cells
            cells = []
            line += 1
            first = line
            if mark == "" or position == len(text):
                return


def _rows(text: str, name: str, delimiter: Optional[str], quoting: str, path: Path) -> List[Tuple[int, List[str]]]:
    """Rows of a CSV or TSV file, blank lines left out.

    quoting: "double" reads RFC 4180, "none" takes quotes as any character. "auto" is "double" for CSV. For TSV it is
        "double" if every line of the whole file is sound so (EmoEvent: each cell with a quote is quoted, the quotes in
        it doubled), else "none" (TASS: tweets with quotes here and there). A small TSV file whose only quotes
        happen to enclose a whole cell can't be told apart; name it then.
    """
    if quoting not in ("auto", "double", "none"):
        raise FormatError("B106", f"There is no quoting '{quoting}'.", "It is auto, double or none.")
    first = text.split("\n", 1)[0]
    if delimiter is None:
        delimiter = "\t" if name == "tsv" else max(",;\t", key=first.count)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise FormatError("B106", f"'{delimiter}' can't be a delimiter.", "Give one character.")
    if quoting == "auto":
        quoting = "double"
        if name == "tsv":
            try:
                for line in _lines(text):
                    list(_split_quoted(line.text, delimiter, path))
            except FormatError:
                quoting = "none"
    if quoting == "double":
        rows = list(_split_quoted(text, delimiter, path))
    else:
        rows = [(number, line.split(delimiter)) for number, line in _lines(text)]
    return [(number, cells) for number, cells in rows if any(cell.strip() for cell in cells) or len(cells) > 1]


def _pick(
    wanted: Union[int, str, None],
    option: str,
    header: Optional[List[str]],
    names: Sequence[str],
    width: int,
    path: Path,
) -> Optional[int]:
    """Index of the column that an option names, or that has one of the usual names."""
    if wanted is None:
        low = [name.lower() for name in header or ()]
        usual = next((name for name in names if name in low), None)
        if usual is None:
            return None
        return _pick((header or [])[low.index(usual)], option, header, names, width, path)
    if header is not None and header.count(str(wanted)) > 1:
        what = f"There are {header.count(str(wanted))} columns '{wanted}'."
        raise FormatError("B141", what, f"Give {option} the number of the one, from 0.", path=path, line=1)
    if header is not None and str(wanted) in header:
        return header.index(str(wanted))
    if str(wanted).isdecimal() and int(wanted) < width:
        return int(wanted)
    columns = ", ".join(header) if header else f"0 to {width - 1}, without a header"
    raise FormatError("B141", f"There is no column '{wanted}'.", f"Give {option} one of: {columns}.", path=path)


def _looks_like_titles(rows: List[Tuple[int, List[str]]]) -> bool:
    """Whether some column has numbers everywhere but in the first row."""
    columns = list(zip(*(cells for _, cells in rows)))
    return len(rows) > 1 and any(
        not column[0].strip().isdecimal() and all(cell.strip().isdecimal() for cell in column[1:]) for column in columns
    )


def _read_table(
    name: str,
    path: Path,
    encoding: str,
    on_problem: OnProblem,
    text_column: Union[int, str, None] = None,
    label_column: Union[int, str, None] = None,
    id_column: Union[int, str, None] = None,
    header: str = "auto",
    label_separator: Optional[str] = None,
    labels: Union[str, Iterable[str], None] = None,
    missing: Union[str, Iterable[str]] = ("",),
    quoting: str = "auto",
    delimiter: Optional[str] = None,
) -> Iterator[Record]:
    rows = _rows(_read_text(path, encoding), name, delimiter, quoting, path)
    width = len(rows[0][1])
    if header not in ("auto", "yes", "no"):
        raise FormatError("B106", f"header can't be '{header}'.", "It is auto, yes or no.")
    top = [cell.strip() for cell in rows[0][1]]
    low = [cell.lower() for cell in top]
    given = [str(c) for c in (text_column, label_column, id_column) if c is not None and not str(c).isdecimal()]
    usual = any(n in low for n in _TEXT_NAMES) and any(n in low for n in _LABEL_NAMES)
    titles = top if header == "yes" or (header == "auto" and (usual or bool(given))) else None
    body = rows[1:] if titles else rows
    for number, cells in body:
        if len(cells) != width:
            what = f"The row has {len(cells)} cells, {'the header' if titles else 'the first row'} has {width}."
            fix = "Check its delimiters and quotes (options delimiter and quoting)."
            raise FormatError("B142", what, fix, path=path, line=number)
        if titles and cells == rows[0][1]:
            raise FormatError("B142", "The header stands here again.", "Remove the line.", path=path, line=number)
    if width < 2:
        what = "The rows have one cell; a text and its label are two."
        raise FormatError("B142", what, "Check the delimiter.", path=path, line=rows[0][0])
    if titles is None and header == "auto" and _looks_like_titles(rows):
        what = f"The first line looks like a header with names that aren't known: {', '.join(top)}."
        fix = "Name the columns (--text-column, --label-column), or say that there is no header (--header no)."
        raise FormatError("B141", what, fix, path=path, line=rows[0][0])
    text_at = _pick(text_column, "text_column", titles, _TEXT_NAMES, width, path)
    label_at = _pick(label_column, "label_column", titles, _LABEL_NAMES, width, path)
    id_at = _pick(id_column, "id_column", titles, _ID_NAMES, width, path)
    if titles is None:
        # Without a header: the longest cells are the text, of the rest the fewest different ones are the labels.
        free = [c for c in range(width) if c not in (text_at, label_at, id_at)]
        if text_at is None and free:
            text_at = max(free, key=lambda c: sum(len(cells[c]) for _, cells in body))
            free.remove(text_at)
        if label_at is None and free:
            label_at = min(free, key=lambda c: (len({cells[c] for _, cells in body}), -c))
            free.remove(label_at)
        if id_at is None and len(free) == 1:
            id_at = free[0]
    if text_at is None or label_at is None or text_at == label_at:
        missing_one = "text" if text_at is None else "label"
        columns = ", ".join(titles or map(str, range(width)))
        what = f"It can't be told which column has the {missing_one}: {columns}."
        raise FormatError("B141", what, f"Name it with {missing_one}_column.", path=path)
    absent = _names(missing) or []
    items = []
    for number, cells in body:
        value = cells[label_at].strip()
        own: Optional[List[str]] = None
        if value not in absent:
            parts = value.split(label_separator) if label_separator else [value]
            own = [part.strip() for part in parts if part.strip() or not label_separator]
            if own == [""]:
                fix = "Write a label, or count the empty cell among the missing ones."
                raise FormatError("B143", "The label is empty.", fix, path=path, line=number)
        items.append(_Item(number, cells[id_at].strip() if id_at is not None else "", cells[text_at], own))
    yield from _categories(path, items, labels)


def _label_names(value: Union[str, Iterable[str], Dict[Any, str], None]) -> Dict[str, str]:
    """Names by number: of a map, of `0=N,1=NEU`, or of a plain list `N,NEU`, counted from 0."""
    if isinstance(value, dict):
        return {str(key): name for key, name in value.items()}
    parts = _names(value) or []
    pairs = [part.partition("=") for part in parts]
    if all(mark for _, mark, _ in pairs):
        return {key.strip(): name.strip() for key, _, name in pairs}
    if any(mark for _, mark, _ in pairs) or not all(parts):
        what = f"label_names '{','.join(parts)}' is neither a map nor a list."
        raise FormatError("B106", what, "Write it as 0=N,1=NEU,2=P or as N,NEU,P.")
    return {str(number): name for number, name in enumerate(parts)}


def _read_parallel(
    path: Path,
    encoding: str,
    on_problem: OnProblem,
    labels_path: Optional[StrPath] = None,
    label_names: Union[str, Iterable[str], Dict[Any, str], None] = None,
    labels: Union[str, Iterable[str], None] = None,
    missing: Union[str, Iterable[str]] = ("",),
) -> Iterator[Record]:
    if not labels_path:
        raise FormatError("B145", "There is no file of labels.", "Give it as labels_path.", path=path)
    other = Path(labels_path)
    texts = _lines(_read_text(path, encoding))
    values = _lines(_read_text(other, encoding))
    if len(texts) != len(values):
        what = f"There are {len(texts)} texts and {len(values)} labels."
        fix = f"Line n of {other.name} is the label of line n here."
        raise FormatError("B145", what, fix, path=path, line=min(len(texts), len(values)) + 1)
    names = _label_names(label_names)
    absent = _names(missing) or []
    items = []
    for (number, text), (_, raw) in zip(texts, values):
        value = raw.strip()
        if names and value not in absent and value not in names:
            fix = f"label_names has: {', '.join(names)}."
            raise FormatError("B143", f"There is no name for the label '{value}'.", fix, path=other, line=number)
        if not value and value not in absent:
            raise FormatError("B143", "The label is empty.", "Write one label a line.", path=other, line=number)
        items.append(_Item(number, "", text, None if value in absent else [names.get(value, value)]))
    yield from _categories(path, items, labels)


# ---------------------------------------------------------------------------------------------------------- SQuAD


def _read_squad(path: Path, encoding: str, on_problem: OnProblem) -> Iterator[Record]:
    raw = _read_text(path, encoding)

    cursor = [0, 1]

    def line_of(key: str) -> int:
        # Keys come in the order of the file, so the search goes on from the last one.
        found = raw.find(json.dumps(key, ensure_ascii=False), cursor[0])
        if found >= 0:
            cursor[:] = [found, cursor[1] + raw.count("\n", cursor[0], found)]
        return cursor[1]

    def bad(what: str, line: int = 1) -> NoReturn:
        fix = "SQuAD is data > paragraphs > context, qas > id, question, answers > text, answer_start."
        raise FormatError("B150", what, fix, path=path, line=line)

    try:
        data = json.loads(raw)
    except RecursionError:
        bad("The JSON is nested too deeply.")
    except ValueError as error:
        bad(f"The file is not JSON: {error}.", getattr(error, "lineno", 1))
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        bad("There is no list 'data'.")
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        half = re.search(r"\\u[dD][89a-fA-F]", raw)
        line = raw.count("\n", 0, half.start()) + 1 if half else 1
        bad("The file has half a character (a lone \\ud8.. or \\udc..).", line)
    number = 0
    for article in data["data"]:
        if not isinstance(article, dict) or not isinstance(article.get("paragraphs"), list):
            bad("An entry of data has no list of paragraphs.")
        for index, paragraph in enumerate(article["paragraphs"]):
            number += 1
            if not isinstance(paragraph, dict) or not isinstance(paragraph.get("context"), str):
                bad(f"Paragraph {number} has no context.")
            context = paragraph["context"]
            if not context.strip():
                bad(f"The context of paragraph {number} is empty.")
            if not isinstance(paragraph.get("qas"), list):
                bad(f"Paragraph {number} has no list qas.", line_of(context))
            questions = []
            for qa in paragraph["qas"]:
                if not isinstance(qa, dict) or not isinstance(qa.get("question"), str) or "id" not in qa:
                    bad(f"A question of paragraph {number} has no id or no question.", line_of(context))
                questions.append(_squad_question(qa, context, path, line_of, bad, on_problem))
            title = article.get("title") or path.stem
            yield Record(
                id=f"{title}-{index + 1}",
                path=str(path),
                line=line_of(context),
                text=context,
                questions=questions,
                newdoc=True,
            )
    if not number:
        raise FormatError("B105", "There are no paragraphs in this file.", "Check that it was saved whole.", path=path)


def _squad_question(
    qa: Dict[str, Any],
    context: str,
    path: Path,
    line_of: Callable[[str], int],
    bad: Callable[..., NoReturn],
    on_problem: OnProblem,
) -> Dict[str, Any]:
    identifier = str(qa["id"])
    answers = []
    given = qa.get("answers") or []
    if not isinstance(given, list):
        bad(f"The answers of question {identifier} are not a list.", line_of(identifier))
    for answer in given:
        text = answer.get("text") if isinstance(answer, dict) else None
        start = answer.get("answer_start") if isinstance(answer, dict) else None
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            bad(f"An answer of question {identifier} has no text or no answer_start.", line_of(identifier))
        if text and start >= 0 and context.startswith(text, start):
            answers.append({"text": text, "start": start})
            continue
        message = "the answer is empty"
        if text:
            message = f"the text there is {context[max(start, 0) : max(start, 0) + len(text)]!r}, the answer {text!r}"
        on_problem(Problem(str(path), line_of(identifier), identifier, start, start + len(text), "answer", message))
    return {
        "id": identifier,
        "question": qa["question"],
        "answers": answers,
        "is_impossible": bool(qa.get("is_impossible", False)),
    }


_READERS: Dict[str, Callable[..., Iterator[Record]]] = {
    "conllu": _read_conllu,
    "cess": _read_cess,
    "iob": _read_iob,
    "brat": _read_brat,
    "jsonl": _read_jsonl,
    "csv": partial(_read_table, "csv"),
    "tsv": partial(_read_table, "tsv"),
    "lines": _read_parallel,
    "squad": _read_squad,
}
