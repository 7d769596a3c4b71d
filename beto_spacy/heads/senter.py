"""Sentence boundaries: `beto_senter`, which says of each token whether a sentence starts with it."""

from functools import lru_cache, partial
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple

import numpy
import torch
from spacy.attrs import IS_SPACE, ORTH, SENT_START
from spacy.language import Language
from spacy.scorer import Scorer
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model
from thinc.types import Floats2d

from ..divergence import binary_divergence
from .base import TorchHead, default_model
from .layer import Outputs, blank_tokens, document_lengths, make_torch_layer, paragraph_starts

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
        "scorer": {"@scorers": "beto_spacy.senter_scorer.v1"},
    },
    default_score_weights={"sents_f": 1.0, "sents_p": 0.0, "sents_r": 0.0},
)
def make_beto_senter(
    nlp: Language, name: str, model: Model, overwrite: bool, scorer: Optional[Callable]
) -> "BetoSentenceRecognizer":
    """Build a `BetoSentenceRecognizer`.

    model: ``beto_spacy.SentenceStarts.v1``.
    overwrite: Whether boundaries that are there before are replaced.
    scorer: From `make_senter_scorer`.
    """
    return BetoSentenceRecognizer(nlp.vocab, model, name, overwrite=overwrite, scorer=scorer)


class BetoSentenceRecognizer(TorchHead):
    """Finds where sentences start.

    After an empty line one always does; a single line break says nothing.

    vocab, model, name: As for any component.
    overwrite, scorer: See `make_beto_senter`.
    """

    def __init__(
        self,
        vocab: Any,
        model: Model,
        name: str = "beto_senter",
        *,
        overwrite: bool = False,
        scorer: Optional[Callable] = None,
    ):
        super().__init__(vocab, model, name, scorer, overwrite=overwrite)

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
                begins[paragraph_starts(doc, blank)] = True
                begins[numpy.flatnonzero(~blank)[:1]] = False  # or to the first one
            begins[:1] = True
        return found

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
        """Whether a sentence starts at each token. *Shape:* (n_tokens,); None if nothing is annotated."""
        if not example.reference.has_annotation("SENT_START") or not len(example.predicted):
            return None
        return numpy.asarray([bool(start) for start in example.get_aligned_sent_starts()], dtype="f")

    def loss(self, examples: Sequence[Example], outputs: Outputs, golds: Sequence[Any]) -> torch.Tensor:
        """The binary cross-entropy, summed over the tokens of annotated documents."""
        scores = outputs.tensors[0]
        known = numpy.concatenate([numpy.full(n, g is not None) for n, g in zip(outputs.lengths, golds)])
        truth = numpy.concatenate([numpy.zeros(n, "f") if g is None else g for n, g in zip(outputs.lengths, golds)])
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            scores, torch.from_numpy(truth).to(scores.device), reduction="none"
        )
        return (losses * torch.from_numpy(known.astype("f")).to(scores.device)).sum()

    def soft_loss(
        self, docs: Sequence[Doc], outputs: Outputs, targets: Outputs, temperature: float = 1.0
    ) -> torch.Tensor:
        """The divergence of whether a sentence starts, summed over tokens."""
        return binary_divergence(outputs.tensors[0], targets.tensors[0], temperature).sum()
