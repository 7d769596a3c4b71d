"""Running text for pretraining: reading it document by document, and cleaning it.

A text file has one paragraph a line and a blank line between documents; it may be compressed (``.xz``, ``.gz``). It's
read as a stream, never as a whole. This module knows nothing of tokenizers and models.
"""

import glob
import gzip
import hashlib
import lzma
import re
import unicodedata
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Set, Tuple, Union

from beto_spacy.errors import FormatError, ProjectError
from beto_spacy.files import new_folder, write_json

OPENERS = {".txt": open, ".xz": lzma.open, ".gz": gzip.open}
#: What cleaning writes beside the texts: what went in and what was left out.
REPORT = "report.json"
HELD_OUT = "held-out"

#: Every Spanish paragraph of some length has some of these.
_FUNCTION_WORDS = frozenset(
    "a al ante aquel así aun como con cual cuando de del desde donde e el ella en entre era es esa ese esta este está "
    "fue ha había han hasta hay la las le les lo los me mi más muy ni no o para pero por porque que qué se ser si sin "
    "sobre son su sus también tan te tu un una uno unos u y ya yo".split()
)
_WORDS = re.compile(r"[^\W\d_]+")
_MARKUP = re.compile(r"[{}|\\<>`]|://|=>|\[\w|_\w+_|\w\(\)|@\w+\.")
_SPACES = re.compile(r"\s+")
_CONTROLS = re.compile(r"[\u0000-\u0008\u000b-\u001f\u007f\u00ad\u200b-\u200f\u2028-\u202e\ufeff\ufffd]")
#: Of a longer line, the near-duplicates are found by this many first letters.
_PREFIX = 100


def expand(names: Union[str, Path, Iterable[Union[str, Path]]]) -> List[Path]:
    """The files that names and patterns (``*.txt``) stand for, those of each pattern sorted by name.

    Raises FormatError for a pattern that no file has.
    """
    found: List[Path] = []
    for name in map(str, [names] if isinstance(names, (str, Path)) else names):
        matches = sorted(map(Path, glob.glob(name))) if glob.has_magic(name) else [Path(name)]
        if not matches:
            raise FormatError("B637", "No file is called so.", "Check the pattern.", path=name)
        found += matches
    return found


def is_text_file(path: Path) -> bool:
    """Whether a path is named like running text rather than like a corpus with annotation."""
    return path.suffix in OPENERS and ".tar" not in path.suffixes


def read_documents(paths: Iterable[Union[str, Path]]) -> Iterator[List[str]]:
    """Read text files, document by document.

    paths: Files of running text (``.txt``, ``.txt.xz``, ``.txt.gz``), UTF-8, with a byte order mark or without.
    Yields the paragraphs of each document; never an empty list. Raises FormatError for a file that is missing, broken
    or has no text.
    """
    for path in map(Path, paths):
        if path.suffix not in OPENERS:
            raise FormatError(
                "B601", "This is no file of running text.", "Give .txt, .txt.xz or .txt.gz files.", path=path
            )
        paragraphs: List[str] = []
        empty = True
        try:
            with OPENERS[path.suffix](path, "rt", encoding="utf-8-sig") as lines:  # type: ignore[operator]
                for line in lines:
                    line = line.strip()
                    if line:
                        paragraphs.append(line)
                    elif paragraphs:
                        empty = False
                        yield paragraphs
                        paragraphs = []
        except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
            raise FormatError(
                "B602", f"The text could not be read ({error}).", "Give an existing UTF-8 text file.", path=path
            ) from error
        if paragraphs:
            yield paragraphs
        elif empty:
            raise FormatError("B603", "There is no text in the file.", "Give a file with text.", path=path)


class TextSource(NamedTuple):
    """Files of one register.

    register: Its name, such as ``news``; the cleaned text gets this name.
    paths: Its files.
    """

    register: str
    paths: Sequence[Union[str, Path]]


def clean_paragraph(text: str) -> Tuple[str, str]:
    """Normalize a paragraph, and judge it.

    Returns the paragraph (NFC, one space between words, no control characters), and why it should be left out:
    ``short`` (no two words), ``markup`` (code, addresses, tables), ``symbols`` (few letters, or no small ones),
    ``foreign`` (no Spanish function words); empty if it shouldn't.
    """
    text = _SPACES.sub(" ", _CONTROLS.sub("", unicodedata.normalize("NFC", text))).strip()
    words = _WORDS.findall(text)
    n_letters = sum(map(len, words))
    if len(words) < 2:
        return text, "short"
    if _MARKUP.search(text):
        return text, "markup"
    if n_letters < 0.7 * (len(text) - text.count(" ")) or not any(word[-1].islower() for word in words):
        return text, "symbols"
    if len(words) >= 6 and sum(word.lower() in _FUNCTION_WORDS for word in words) < 0.1 * len(words):
        return text, "foreign"
    return text, ""


def duplicate_keys(text: str) -> List[int]:
    """Numbers by which near-duplicates of a paragraph are known: its letters alone, in small type and without accents.

    Paragraphs that differ in figures, dates, signs or case have the same numbers, as in CCNet (Wenzek et al. 2020); so
    have long ones that begin with the same 100 letters.
    """
    letters = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if c.isalpha())
    parts = [letters[:_PREFIX]] if len(letters) <= _PREFIX else [letters, "^" + letters[:_PREFIX]]
    return [int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little") for part in parts]


class _Cleaned(NamedTuple):
    """A register as it was cleaned, before any of it was left out for its size."""

    register: str
    file: Path
    lengths: List[int]  # words a document


def clean_texts(
    sources: Sequence[TextSource],
    dest: Union[str, Path],
    *,
    share: float = 1.0,
    held_out_words: int = 20_000,
    seed: int = 0,
) -> Dict[str, Any]:
    """Clean running text for pretraining, even out its registers, and put some of each aside.

    Paragraphs that `clean_paragraph` judges are left out, and near-duplicates, of which the first is kept. Then whole
    documents are left out by chance until no register has more than its share. Writes ``<register>.txt.xz``,
    ``held-out/<register>.txt`` and ``report.json``; the folder appears when all is complete. Paragraphs are streamed,
    16 bytes or so of each stay in memory.

    sources: The registers and their files.
    dest: The folder to write; one that an earlier run wrote is replaced.
    share: The largest part of all words that one register may have, 0 to 1.
    held_out_words: Words of each register put aside for evaluation, from whole documents of which the last is cut.
    seed: Of the choice of documents.
    Returns the report: by register and file, paragraphs and words that went in, and what was left out and why. Raises
    FormatError for files that can't be read, ProjectError for a share that can't be, or a folder that is in the way.
    """
    dest = Path(dest)
    names = [source.register for source in sources]
    if not names or len(set(names)) < len(names) or not share * len(names) >= 1:
        raise ProjectError(
            "B604",
            f"{len(names)} registers ({', '.join(names)}) can't have a share of {share} each.",
            "Name each register once, and give a share of at least 1 by their number.",
        )
    if dest.exists() and not (dest / REPORT).is_file():
        raise ProjectError("B605", f"'{dest}' is there and has no cleaned texts.", "Name another folder.")
    with new_folder(dest) as part:
        report: Dict[str, Any] = {"share": share, "seed": seed, "registers": {}}
        seen: Set[int] = set()
        cleaned = []
        for source in sources:
            counts: Dict[str, Any] = {}
            cleaned.append(_clean_register(source, part, seen, counts))
            report["registers"][source.register] = {"files": counts}
        limit = _largest(([sum(c.lengths) for c in cleaned]), share)
        (part / HELD_OUT).mkdir()
        for register in cleaned:
            kept = _choose(register, part, limit, held_out_words, seed)
            report["registers"][register.register].update(kept)
        total = sum(r["words"] for r in report["registers"].values())
        if not total:
            raise ProjectError(
                "B607",
                "No words are left: all were cleaned away or put aside.",
                "Give more text, or put fewer words aside with --held-out-words.",
            )
        for register_report in report["registers"].values():
            register_report["share"] = round(register_report["words"] / total, 4)
        report["words"] = total
        write_json(report, part / REPORT)
    return report


def _clean_register(source: TextSource, folder: Path, seen: Set[int], counts: Dict[str, Any]) -> _Cleaned:
    """Write the paragraphs of a register that are worth reading; count the others by what is wrong with them."""
    cleaned = _Cleaned(source.register, folder / f"{source.register}.cleaned", [])
    with open(cleaned.file, "w", encoding="utf8") as out:
        for path in source.paths:
            dropped: Counter = Counter()
            n_words = n_read = 0
            for document in read_documents([path]):
                kept = []
                for paragraph in document:
                    n_read += paragraph.count(" ") + 1
                    text, problem = clean_paragraph(paragraph)
                    if not problem:
                        keys = duplicate_keys(text)
                        problem = "near-duplicate" if any(key in seen for key in keys) else ""
                        seen.update(keys)
                    if problem:
                        dropped[problem] += paragraph.count(" ") + 1
                    else:
                        kept.append(text)
                length = sum(text.count(" ") + 1 for text in kept)
                if kept:
                    out.write("\n".join(kept) + "\n\n")
                    cleaned.lengths.append(length)
                    n_words += length
            counts[Path(path).name] = {"words_read": n_read, "words_kept": n_words, "words_dropped": dict(dropped)}
    return cleaned


def _largest(sizes: Sequence[int], share: float) -> float:
    """The largest size of a part, so that none is more than a share of what is left of all of them."""
    capped: Set[int] = set()
    while True:
        rest = sum(size for i, size in enumerate(sizes) if i not in capped)
        free = 1 - share * len(capped)
        limit = share * rest / free if free > 0 else min(sizes)
        more = {i for i, size in enumerate(sizes) if size > limit} - capped
        if not more:
            return limit if capped else max(sizes)
        capped |= more


def _chance(seed: int, register: str, number: int) -> float:
    """A number from 0 to 1 for a document: the same whenever it's asked for."""
    digest = hashlib.blake2b(f"{seed}/{register}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _choose(register: _Cleaned, folder: Path, limit: float, held_out_words: int, seed: int) -> Dict[str, int]:
    """Write the documents that are put aside, and as many of the others as the limit allows."""
    order = sorted(range(len(register.lengths)), key=lambda n: _chance(seed, register.register, n))
    aside, train = set(), set()
    n_aside = n_train = 0
    for n in order:
        if n_aside < held_out_words:
            aside.add(n)
            n_aside += register.lengths[n]
        elif n_train + register.lengths[n] / 2 <= limit:
            train.add(n)
            n_train += register.lengths[n]
    written = {"words": n_train, "documents": len(train), "held_out_words": 0, "held_out_documents": len(aside)}
    held_out_file = folder / HELD_OUT / f"{register.register}.txt"
    with (
        lzma.open(folder / f"{register.register}.txt.xz", "wt", encoding="utf8", preset=2) as out,
        open(held_out_file, "w", encoding="utf8") as held_out,
    ):
        for n, document in enumerate(_documents(register.file)):
            if n in train:
                out.write("\n".join(document) + "\n\n")
            elif n in aside:
                for text in document:
                    if written["held_out_words"] < held_out_words:
                        held_out.write(text + "\n")
                        written["held_out_words"] += text.count(" ") + 1
                held_out.write("\n")
    register.file.unlink()
    return written


def _documents(file: Path) -> Iterator[List[str]]:
    document: List[str] = []
    with open(file, encoding="utf8") as lines:
        for line in lines:
            if line != "\n":
                document.append(line.rstrip("\n"))
            else:
                yield document
                document = []


def parse_source(text: str) -> TextSource:
    """Read ``register=file,file`` as it's given on the command line. Raises ProjectError if it isn't so."""
    register, sign, paths = text.partition("=")
    if not sign or not re.fullmatch(r"[\w-]+", register) or not paths:
        raise ProjectError(
            "B606", f"'{text}' names no register.", "Write register=file,file, such as news=a.txt.xz,b*.txt."
        )
    return TextSource(register, expand(paths.split(",")))


def render_report(report: Dict[str, Any]) -> str:
    """A Markdown table of what `clean_texts` kept and left out."""
    lines = [
        "| register | words kept | share | held out | words read | left out: near-duplicates | other |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for register, r in report["registers"].items():
        files = r["files"].values()
        dropped: Counter = Counter()
        for file in files:
            dropped.update(file["words_dropped"])
        twice = dropped.pop("near-duplicate", 0)
        lines.append(
            f"| {register} | {r['words']:,} | {r['share']:.1%} | {r['held_out_words']:,} | "
            f"{sum(file['words_read'] for file in files):,} | {twice:,} | {sum(dropped.values()):,} |"
        )
    return "\n".join(lines)
