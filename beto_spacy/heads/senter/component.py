"""Sentence boundaries: `beto_senter`, which says of each token whether a sentence starts with it."""

from functools import lru_cache, partial
from typing import Any, Callable, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy
import torch
from spacy.attrs import IS_SPACE, ORTH, SENT_START
from spacy.language import Language
from spacy.scorer import Scorer
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model
from thinc.types import Floats2d

from beto_spacy.errors import CorpusError
from beto_spacy.pipeline.divergence import binary_divergence
from beto_spacy.pipeline.head import TorchHead, default_model
from beto_spacy.pipeline.layer import (
    LINE_BREAKS,
    Outputs,
    blank_tokens,
    document_lengths,
    line_starts,
    make_torch_layer,
    paragraph_starts,
)

_DEFAULT_MODEL = default_model("beto_spacy.SentenceStarts.v1", hidden_width=64, dropout=0.1)


class SentenceStarts(torch.nn.Module):
    """One number for each token, from its vector and that of the word before it, and from the shapes around them.

    The vectors know what the words mean; that an initial or a bracket ends no sentence is quicker learned from shapes.

    width: Of the token vectors.
    n_classes: Of no matter; there is one.
    hidden_width: Of the hidden layer.
    dropout: Of the token vectors, in training.
    """

    def __init__(self, width: int, n_classes: int, *, hidden_width: int, dropout: float):
        super().__init__()
        self.dropout = torch.nn.Dropout(dropout)
        self.this = torch.nn.Linear(width, hidden_width)
        self.before = torch.nn.Linear(width, hidden_width, bias=False)
        self.shapes = torch.nn.Linear(len(_WINDOW) * len(_SHAPES), hidden_width, bias=False)
        self.score = torch.nn.Linear(hidden_width, 1)

    def forward(self, vectors: torch.Tensor, shapes: torch.Tensor, before: torch.Tensor) -> Sequence[torch.Tensor]:
        """vectors: Of the documents in a row; whatever is before a document is of no matter, since it starts with a
        sentence. *Shape:* (n_tokens, width). shapes, before: See `token_shapes`.

        Returns a tuple of one tensor. *Shape:* (n_tokens,)
        """
        vectors = self.dropout(vectors)
        around = self.shapes(shapes.to(vectors.dtype) * _SHAPE_SCALE)
        hidden = self.this(vectors) + self.before(vectors)[before] + around
        return (self.score(torch.nn.functional.gelu(hidden))[:, 0],)


#: The words whose shapes are seen, counted from the one that may start a sentence.
_WINDOW = (-3, -2, -1, 0, 1, 2)

#: The shapes are plain, and the optimizer's steps of one size: scaled up, they are learned some times faster.
_SHAPE_SCALE = 20.0

#: A sentence never starts with a token that is made of these alone: marks that close, and those that part.
_CLOSING = ")]}»”’….!?"
_NEVER_FIRST = _CLOSING + ",;:"

#: What a line break may be, see `make_beto_senter`.
_LINE_BREAK_KINDS = ("space", "hint", "boundary")

#: Lines that are shorter than this were not wrapped, unless most of them go on below: they are items of a list.
_LEAST_WIDTH = 40

#: What is asked of a word; the answers are its shape. New questions, or another order, need new training.
_SHAPES: Tuple[Callable[[str], bool], ...] = (
    str.islower,
    str.istitle,
    lambda word: word.isupper() and word.isalpha(),
    lambda word: any(letter.isdigit() for letter in word),
    str.isspace,  # never of a word; it's here for the pipelines that were trained when white space was seen
    lambda word: word == ".",
    lambda word: word in ("...", "…"),
    lambda word: word in ("?", "!"),
    lambda word: word in (",", ";"),
    lambda word: word == ":",
    lambda word: word in tuple("([{«“‘¿¡"),
    lambda word: word in tuple(")]}»”’"),
    lambda word: word in ('"', "'"),
    lambda word: word in ("-", "–", "—"),
    lambda word: len(word) > 1 and word.endswith("."),
    lambda word: len(word) == 2 and word[0].isupper() and word[1] == ".",
    lambda word: len(word) == 1,
    lambda word: len(word) == 2,
    lambda word: len(word) == 3,
    lambda word: len(word) > 6,
)


@lru_cache(maxsize=20_000)
def _shape(word: str) -> bytes:
    return bytes(asks(word) for asks in _SHAPES)


def token_shapes(docs: Sequence[Doc]) -> Tuple[numpy.ndarray, numpy.ndarray]:
    """What can be seen of the words around each token without reading them: case, length, punctuation.

    White space between words is passed over, as the encoder does: a line that is broken is a sentence as any other.
    Returns two arrays, of documents in a row: what holds, nothing for what would be outside of a document; and at each
    word the position of the word before it. *Shapes:* (n_tokens, words of the window * number of shapes), bool; and
    (n_tokens,)
    """
    keys, is_blank = numpy.concatenate([doc.to_array([ORTH, IS_SPACE]) for doc in docs]).T
    is_word = is_blank == 0
    forms, places = numpy.unique(keys, return_inverse=True)
    strings = docs[0].vocab.strings
    nothing = bytes(len(_SHAPES))
    shapes = b"".join([*(_shape(strings[form]) for form in forms.tolist()), nothing])
    table = numpy.frombuffer(shapes, dtype=bool).reshape(-1, len(_SHAPES))
    gap = max(map(abs, _WINDOW))  # of nothing, between documents
    number = numpy.maximum(numpy.cumsum(is_word) - 1, 0)
    at = number + gap * (1 + numpy.repeat(numpy.arange(len(docs)), document_lengths(docs)))
    row_of = numpy.full(len(keys) + gap * (len(docs) + 1), len(forms))
    row_of[at[is_word]] = places.reshape(-1)[is_word]
    rows = row_of[at[:, None] + numpy.asarray(_WINDOW)]
    seen = table.take(rows, axis=0).reshape(len(keys), len(_WINDOW) * len(_SHAPES))
    words = numpy.flatnonzero(is_word)
    before = numpy.arange(len(keys))
    before[words] = numpy.roll(words, 1)
    return seen, before


def _unforced_breaks(doc: Doc, blank: numpy.ndarray, starts: numpy.ndarray, paragraphs: numpy.ndarray) -> numpy.ndarray:
    """Find the words that start lines though the line before had room for them, and that have no small initial.

    Text that was wrapped to a width has none: no line had room. How wide that is follows from the lines that go on with
    a small letter below, first in the document, then in each paragraph.

    starts, paragraphs: Of `line_starts` and `paragraph_starts`.
    """
    words = numpy.flatnonzero(~blank)
    firsts = numpy.union1d(words[:1], starts)
    lasts = numpy.append(words[numpy.searchsorted(words, firsts[1:]) - 1], words[-1:])
    number = numpy.searchsorted(paragraphs, firsts, side="right")
    by_paragraph: List[List[_Line]] = [[] for _ in range(len(paragraphs) + 1)]
    for of, first, last in zip(number.tolist(), firsts.tolist(), lasts.tolist()):
        length = doc[last].idx + len(doc[last]) - doc[first].idx
        by_paragraph[of].append(_Line(first, length, _written_word(doc, first)))
    breaks = [list(zip(lines, lines[1:])) for lines in by_paragraph]
    width = _wrapped_width([pair for pairs in breaks for pair in pairs], _LEAST_WIDTH)
    found = []
    for lines, pairs in zip(by_paragraph, breaks):
        longest = 0 if any(below.goes_on for _, below in pairs) else max((line.length for line in lines), default=0)
        own_width = _wrapped_width(pairs, max(width, longest))
        for line, below in pairs:
            if line.length + 1 + len(below.opening) <= own_width and not below.goes_on:
                found.append(below.first)
    return numpy.asarray(found, dtype="i8")


class _Line(NamedTuple):
    """A line of a document: its first token, its length in characters, and what is written before its first space."""

    first: int
    length: int
    opening: str

    @property
    def goes_on(self) -> bool:
        """Whether it goes on with the line above, by its small initial."""
        return self.opening[0].islower()


def _wrapped_width(breaks: Sequence[Tuple[_Line, _Line]], least: int) -> int:
    """How long a line may be, as far as one can tell: at least as long as the longest that goes on below.

    breaks: Pairs of a line and the one below it.
    least: The width unless half of the lines or more go on below, for lists have short lines.
    """
    wrapped = [line.length for line, below in breaks if below.goes_on]
    if wrapped and 2 * len(wrapped) >= len(breaks):
        return max(wrapped)
    return max([least, *wrapped])


def _move_from_marks(doc: Doc, begins: numpy.ndarray) -> None:
    """Take sentence starts away from marks that none starts with.

    What is before a closing mark ends there, so the sentence starts with the word after it: *(Sí.) Luego*. There is
    none where the text goes on with a comma or a colon.

    begins: Whether a sentence starts with each token; changed in place. *Shape:* (n_tokens,)
    """
    for i in numpy.flatnonzero(begins).tolist():
        if not doc[i].text.strip(_NEVER_FIRST):
            begins[i] = False
            while i < len(doc) and (doc[i].is_space or not doc[i].text.strip(_CLOSING)):
                i += 1
            if i < len(doc) and doc[i].text.strip(_NEVER_FIRST):
                begins[i] = True


def _written_word(doc: Doc, first: int) -> str:
    """The tokens from one on that are written without white space between them."""
    last = first
    while not doc[last].whitespace_ and last + 1 < len(doc) and not doc[last + 1].is_space:
        last += 1
    return doc[first : last + 1].text


def make_sentence_starts(
    tok2vec: Model[List[Doc], List[Floats2d]],
    hidden_width: int = 64,
    dropout: float = 0.1,
    learn_rate_factor: float = 1.0,
) -> Model[List[Doc], Outputs]:
    """Build ``beto_spacy.SentenceStarts.v1``: for each token, how likely a sentence starts with it.

    tok2vec: The token vectors, such as ``beto_spacy.Listener.v1``.
    hidden_width: Of the hidden layer.
    dropout: Of the token vectors, in training.
    learn_rate_factor: The optimizer's rate is multiplied by it for this head.
    """
    build = partial(SentenceStarts, hidden_width=hidden_width, dropout=dropout)
    return make_torch_layer(
        "beto-sentence-starts", tok2vec, build, learn_rate_factor=learn_rate_factor, also=token_shapes
    )


def make_senter_scorer() -> Callable[..., Any]:
    """Build ``beto_spacy.senter_scorer.v1``: precision, recall and F of sentences, where documents have them."""
    return _score


def _score(examples: Iterable[Example], **settings: Any) -> Any:
    scores = Scorer.score_spans(examples, "sents", has_annotation=lambda doc: doc.has_annotation("SENT_START"))
    del scores["sents_per_type"]
    return scores


@Language.factory(
    "beto_senter",
    assigns=["token.is_sent_start", "doc.sents"],
    default_config={
        "model": _DEFAULT_MODEL,
        "overwrite": False,
        "line_breaks": "hint",
        "scorer": {"@scorers": "beto_spacy.senter_scorer.v1"},
    },
    default_score_weights={"sents_f": 1.0, "sents_p": 0.0, "sents_r": 0.0},
)
def make_beto_senter(
    nlp: Language, name: str, model: Model, overwrite: bool, line_breaks: str, scorer: Optional[Callable]
) -> "BetoSentenceRecognizer":
    """Build a `BetoSentenceRecognizer`.

    model: ``beto_spacy.SentenceStarts.v1``.
    overwrite: Whether boundaries that are there before are replaced.
    line_breaks: What a line break is. ``space``: white space as any other, even an empty line. ``hint``: a boundary
        after an empty line, and where the line had room for the next word, which doesn't start with a small letter: so
        it wasn't broken to fit a width. ``boundary``: always one.
    scorer: From `make_senter_scorer`.
    """
    return BetoSentenceRecognizer(nlp.vocab, model, name, overwrite=overwrite, line_breaks=line_breaks, scorer=scorer)


class BetoSentenceRecognizer(TorchHead):
    """Finds where sentences start.

    None starts with a mark that closes or parts, such as a bracket, a full stop, a comma or a colon: the word after a
    closing mark starts it, see `_move_from_marks`.

    vocab, model, name: As for any component.
    overwrite, line_breaks, scorer: See `make_beto_senter`.
    """

    def __init__(
        self,
        vocab: Any,
        model: Model,
        name: str = "beto_senter",
        *,
        overwrite: bool = False,
        line_breaks: str = "hint",
        scorer: Optional[Callable] = None,
    ):
        if line_breaks not in _LINE_BREAK_KINDS:
            raise CorpusError(
                "B258",
                f"A line break can't be '{line_breaks}'.",
                f"Set 'line_breaks' to {' or '.join(_LINE_BREAK_KINDS)}.",
            )
        super().__init__(vocab, model, name, scorer, overwrite=overwrite, line_breaks=line_breaks)

    def n_classes(self) -> int:
        """One number says it."""
        return 1

    def find_labels(self, example: Example) -> Iterable[str]:
        """``S``, for the start of a sentence, if the example has sentences."""
        return ["S"] if example.reference.has_annotation("SENT_START") else []

    def predict(self, docs: Iterable[Doc]) -> List[numpy.ndarray]:
        """Say of each token of documents whether a sentence starts with it. *Shape:* (n_tokens,) each, bool"""
        docs = list(docs)
        if not any(len(doc) for doc in docs):
            return [numpy.zeros(len(doc), dtype=bool) for doc in docs]
        outputs = self.model.predict(docs)
        starts = (outputs.tensors[0] > 0).cpu().numpy()
        found = numpy.split(starts, numpy.cumsum(outputs.lengths)[:-1])
        for doc, begins in zip(docs, found):
            blank = blank_tokens(doc)
            if blank.any():
                begins &= ~blank  # white space belongs to the sentence before
                begins[self._line_boundaries(doc, blank)] = True
                begins[numpy.flatnonzero(~blank)[:1]] = False  # or to the first one
            _move_from_marks(doc, begins)
            begins[:1] = True
        return found

    def _line_boundaries(self, doc: Doc, blank: numpy.ndarray) -> numpy.ndarray:
        """The words that start a sentence because of the line breaks before them."""
        kind = self.settings["line_breaks"]
        if kind == "space":
            return numpy.zeros(0, dtype="i8")
        lines = line_starts(doc, blank, LINE_BREAKS)
        if kind == "boundary":
            return lines
        paragraphs = paragraph_starts(doc, blank)
        return numpy.union1d(paragraphs, _unforced_breaks(doc, blank, lines, paragraphs))

    def set_annotations(self, docs: Iterable[Doc], scores: List[numpy.ndarray]) -> None:
        """Set the boundaries; those that are there before are kept unless they are to be overwritten."""
        for doc, begins in zip(docs, scores):
            if not len(doc):
                continue
            values = numpy.where(begins, 1, -1).astype("i8")
            if not self.settings["overwrite"]:
                before = doc.to_array([SENT_START]).view("i8").reshape(-1)
                values = numpy.where(before == 0, values, before)
            doc.from_array([SENT_START], values.view("u8").reshape(-1, 1))

    def gold(self, example: Example) -> Optional[numpy.ndarray]:
        """Whether a sentence starts at each token, NaN where it's open; None if nothing is. *Shape:* (n_tokens,)

        A document that only marks where sentences start says by it where none does.
        """
        reference = example.reference
        if not reference.has_annotation("SENT_START") or not len(example.predicted):
            return None
        starts = numpy.asarray([bool(start) for start in example.get_aligned_sent_starts()], dtype="f")
        marks = reference.to_array([SENT_START]).view("i8").reshape(-1)
        if (marks < 0).any():
            for i in numpy.flatnonzero(marks == 0).tolist():
                starts[example.alignment.y2x[i]] = numpy.nan
        return starts

    def n_units(self, gold: numpy.ndarray) -> int:
        """Count the tokens of which it's known whether a sentence starts with them."""
        return int((~numpy.isnan(gold)).sum())

    def loss(self, examples: Sequence[Example], outputs: Outputs, golds: Sequence[Any]) -> torch.Tensor:
        """The binary cross-entropy, summed over the tokens that are annotated."""
        scores = outputs.tensors[0]
        parts = [numpy.full(n, numpy.nan, "f") if g is None else g for n, g in zip(outputs.lengths, golds)]
        truth = numpy.concatenate(parts)
        known = ~numpy.isnan(truth)
        truth[~known] = 0.0
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            scores, torch.from_numpy(truth).to(scores.device), reduction="none"
        )
        return (losses * torch.from_numpy(known.astype("f")).to(scores.device)).sum()

    def soft_loss(
        self, docs: Sequence[Doc], outputs: Outputs, targets: Outputs, temperature: float = 1.0
    ) -> torch.Tensor:
        """The divergence of whether a sentence starts, summed over tokens."""
        return binary_divergence(outputs.tensors[0], targets.tensors[0], temperature).sum()
