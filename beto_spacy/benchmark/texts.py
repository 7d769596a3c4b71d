"""What a benchmark annotates: real texts by kind, a few to compare speeds on, or a stream as long as it may be."""

from itertools import islice
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple, Union

from beto_spacy.benchmark.footprint import Stream, write_stream
from beto_spacy.errors import ProjectError
from beto_spacy.training.vocabulary import Texts

#: The kinds of text, and how many characters one has; of a book, the paragraphs that it's made of.
KINDS: Dict[str, Tuple[int, int]] = {
    "mixed": (20, 2_500),
    "short": (20, 100),
    "paragraphs": (101, 2_500),
    "book": (20, 2_500),
}
DEFAULT_KINDS = ("short", "paragraphs", "book")


def _check_kinds(kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ProjectError(
            "B532", f"There is no kind of text '{', '.join(unknown)}'.", f"Name one or more of {', '.join(KINDS)}."
        )


def _no_text(kinds: Sequence[str]) -> ProjectError:
    sizes = ", ".join(f"{low} to {high} characters" for low, high in (KINDS[kind] for kind in kinds))
    return ProjectError("B515", f"There is no text of {sizes} a line.", "Give other files.")


def read_texts(
    paths: Sequence[Union[str, Path]],
    *,
    limit: int,
    kinds: Sequence[str] = DEFAULT_KINDS,
    book: int = 100_000,
) -> Dict[str, List[str]]:
    """Read texts by kind: the same share from each file, spread over it; for the book, a stretch of each.

    paths: As in `vocabulary.Texts`.
    limit: How many texts of each kind at most.
    kinds: Keys of `KINDS`.
    book: Characters of the one text of that kind.
    Returns the kinds of which there is some text. Raises ProjectError if there is none.
    """
    _check_kinds(kinds)
    if limit < 1 or book < 1:
        raise ProjectError(
            "B517", f"There is nothing to measure in {limit} texts or {book} characters.", "Ask for 1 or more."
        )
    texts: Dict[str, List[str]] = {kind: [] for kind in kinds}
    share = -(-limit // len(paths))
    for path in paths:
        whole = list(Texts([path]))
        for kind in kinds:
            low, high = KINDS[kind]
            lines = [line for line in whole if low <= len(line) <= high]
            if kind == "book":
                texts[kind] += _stretch(iter(lines), -(-book // len(paths)))
            else:
                texts[kind] += lines[:: max(1, len(lines) // share)][:share]
    found = {
        kind: ["\n".join(lines)[:book]] if kind == "book" else lines[:limit] for kind, lines in texts.items() if lines
    }
    if not found:
        raise _no_text(kinds)
    return found


def _stretch(lines: Iterator[str], size: int) -> Iterator[str]:
    """Lines until they have so many characters in all."""
    while size > 0:
        line = next(lines, None)
        if line is None:
            return
        size -= len(line) + 1
        yield line


class _Mixed:
    """Lines of a kind from all files, in turns, as a stream that begins anew when all are read."""

    def __init__(self, paths: Sequence[Union[str, Path]], kind: str):
        self.paths, self.kind, self.passes = paths, kind, 0

    def __iter__(self) -> Iterator[str]:
        low, high = KINDS[self.kind]
        while True:
            self.passes += 1
            left = [iter(Texts([path])) for path in self.paths]
            nothing = True
            while left:
                for lines in list(left):
                    line = next((line for line in lines if low <= len(line) <= high), None)
                    if line is None:
                        left.remove(lines)
                    else:
                        nothing = False
                        yield line
            if nothing:
                raise _no_text([self.kind])


def make_stream(paths: Sequence[Union[str, Path]], kind: str, size: int, file: Union[str, Path]) -> Stream:
    """Write a stream of texts of one kind, from all files in turns, for `footprint.measure_growth`.

    paths: As in `vocabulary.Texts`; when all are read, they are read again.
    kind: A key of `KINDS`.
    size: Of ``short``, how many documents; of the others, how many characters in all; a book is one document.
    file: Where to write it.
    """
    lines = _Mixed(paths, kind)
    if kind == "short":
        stream = write_stream(islice(lines, size), file)
    elif kind == "book":
        stream = write_stream(["\n".join(_stretch(iter(lines), size))[:size]], file)
    else:
        stream = write_stream(_stretch(iter(lines), size), file)
    return stream._replace(passes=lines.passes)


def parse_growth(text: str) -> Tuple[str, int]:
    """Read ``kind=size``, as it's given on the command line. Raises ProjectError if it isn't so."""
    kind, _, size = text.partition("=")
    size = size.replace("_", "").replace(",", "")
    if kind not in KINDS or not size.isdigit() or int(size) < 100:
        raise ProjectError(
            "B533", f"'{text}' is no input to grow to.", f"Write kind=size, 100 or more, with {', '.join(KINDS)}."
        )
    return kind, int(size)
