"""Dependencies by deep biaffine attention and the best tree: `beto_parser`.

It wants sentences, as `beto_senter` finds them. The arithmetic is in `biaffine.py` and `mst.py`. Whitespace is no word
of a tree: it hangs on the word before it.
"""

from functools import partial
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy
import torch
from spacy.attrs import DEP, HEAD
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model
from thinc.types import Floats2d

from beto_spacy.encoders.windows import length_buckets, pad_rows
from beto_spacy.errors import CorpusError
from beto_spacy.heads.parser.biaffine import BiaffineProjections, Projections, score_arcs, score_labels, tree_loss
from beto_spacy.heads.parser.mst import are_trees, best_trees
from beto_spacy.pipeline.divergence import categorical_divergence
from beto_spacy.pipeline.head import TorchHead, default_model
from beto_spacy.pipeline.layer import Outputs, document_lengths, make_torch_layer, word_tokens
from beto_spacy.pipeline.shim import at_once, to_device

_DEFAULT_WIDTHS = {"arc_width": 128, "label_width": 32, "hidden_width": 128}
_DEFAULT_MODEL = default_model("beto_spacy.Biaffine.v1", **_DEFAULT_WIDTHS, dropout=0.2)
#: Words of a sentence at most; a longer one is cut into several.
_MOST_WORDS = 1_000
#: Padded words, and padded pairs of words, that are worked on at once, on a CPU.
_BATCH_WORDS = 4_096
_BATCH_PAIRS = 1 << 19
_ROOT_LABEL = "ROOT"
_SPACE_LABEL = "dep"


def make_biaffine(
    tok2vec: Model[List[Doc], List[Floats2d]],
    arc_width: int = 128,
    label_width: int = 32,
    hidden_width: int = 128,
    dropout: float = 0.2,
    learn_rate_factor: float = 1.0,
) -> Model[List[Doc], Outputs]:
    """Build ``beto_spacy.Biaffine.v1``: the projections of words that arcs and labels are scored with.

    tok2vec: The token vectors, such as ``beto_spacy.Listener.v1``.
    arc_width, label_width, hidden_width: Of the projections for arcs and for the two ways to score labels.
    dropout: Of the token vectors and of the projections, in training.
    learn_rate_factor: The optimizer's rate is multiplied by it for this head.
    """
    widths = {"arc_width": arc_width, "label_width": label_width, "hidden_width": hidden_width}
    build = partial(BiaffineProjections, **widths, dropout=dropout)
    return make_torch_layer("beto-biaffine", tok2vec, build, learn_rate_factor=learn_rate_factor)


@Language.factory(
    "beto_parser",
    requires=["token.is_sent_start"],
    assigns=["token.dep", "token.head", "token.is_sent_start", "doc.sents"],
    default_config={
        "model": _DEFAULT_MODEL,
        "projective": False,
        "scorer": {"@scorers": "beto_spacy.parser_scorer.v1"},
    },
    default_score_weights={"dep_uas": 0.5, "dep_las": 0.5, "dep_las_per_type": None, "sents_f": 0.0},
)
def make_beto_parser(
    nlp: Language, name: str, model: Model, projective: bool, scorer: Optional[Callable]
) -> "BetoDependencyParser":
    """Build a `BetoDependencyParser`.

    model: ``beto_spacy.Biaffine.v1``.
    projective: Whether no arcs may cross.
    scorer: From `heads.scorers.make_parser_scorer`.
    """
    return BetoDependencyParser(nlp.vocab, model, name, projective=projective, scorer=scorer)


class GoldTrees(NamedTuple):
    """What is annotated of the dependencies of a document, by token.

    starts: Whether a sentence starts here. *Shape:* (n_tokens,)
    heads: The head's place in the document, the token's own for a root, -1 where it's unknown. *Shape:* (n_tokens,)
    labels: The label's number, -1 where it's unknown. *Shape:* (n_tokens,)
    """

    starts: numpy.ndarray
    heads: numpy.ndarray
    labels: numpy.ndarray


class Parse(NamedTuple):
    """What was found for a document, by token: the head's place, and the label's number, -1 for whitespace."""

    heads: numpy.ndarray
    labels: numpy.ndarray


class BetoDependencyParser(TorchHead):
    """Finds the dependencies of the words of each sentence, the best tree of them.

    The sentences must be there before: put `beto_senter` or another component that finds them first.

    vocab, model, name: As for any component.
    projective, scorer: See `make_beto_parser`.
    """

    def __init__(
        self,
        vocab: Any,
        model: Model,
        name: str = "beto_parser",
        *,
        projective: bool = False,
        scorer: Optional[Callable] = None,
    ):
        super().__init__(vocab, model, name, scorer, projective=projective)

    def n_classes(self) -> int:
        """The labels of arcs."""
        return len(self.labels)

    def find_labels(self, example: Example) -> Iterable[str]:
        """The labels of the dependencies."""
        return (token.dep_ for token in example.reference)

    def predict(self, docs: Iterable[Doc]) -> List[Parse]:
        """Find the dependencies of documents, without setting them. Raises CorpusError if one has no sentences."""
        docs = list(docs)
        if not any(len(doc) for doc in docs):
            return [Parse(numpy.arange(0), numpy.arange(0)) for _ in docs]
        for doc in docs:
            if len(doc) > 1 and not doc.has_annotation("SENT_START"):
                raise CorpusError(
                    "B250",
                    f"'{self.name}' got a document without sentences.",
                    "Put 'beto_senter', or another component that finds sentences, before it.",
                )
        outputs = self.model.predict(docs)
        starts = [_sentence_starts(doc) for doc in docs]
        every_head = numpy.arange(sum(outputs.lengths))
        every_label = numpy.full(len(every_head), -1)
        with torch.inference_mode():
            for batch in _batches(docs, starts, outputs):
                arcs = score_arcs(batch.projections, batch.words, batch.lengths)
                heads = best_trees(
                    _heads_with_one_root(arcs, batch.is_word).cpu().numpy(),
                    batch.n_words.tolist(),
                    partial(_scores_of, arcs),
                    projective=self.settings["projective"],
                )
                labels = self._best_labels(batch, to_device(heads, batch.words.device)).cpu().numpy()
                real, words = batch.real, batch.places
                of_heads = numpy.take_along_axis(words, numpy.maximum(heads - 1, 0), axis=1)
                every_head[words[real]] = numpy.where(heads == 0, words, of_heads)[real]
                every_label[words[real]] = labels[real]
        ends = numpy.cumsum(outputs.lengths)
        firsts = ends - outputs.lengths
        return [Parse(every_head[a:b] - a, every_label[a:b]) for a, b in zip(firsts.tolist(), ends.tolist())]

    def _best_labels(self, batch: "_Batch", heads: torch.Tensor) -> torch.Tensor:
        """The best label of each arc; that of the root has its own label, and no other has it."""
        scores = score_labels(batch.projections, batch.words, heads)
        if _ROOT_LABEL in self.labels:
            root = self.labels.index(_ROOT_LABEL)
            scores[:, :, root] = torch.where(heads == 0, float("inf"), float("-inf"))
        return scores.argmax(dim=2)

    def set_annotations(self, docs: Iterable[Doc], scores: List[Parse]) -> None:
        """Set heads and labels, and with them the sentences."""
        numbers = numpy.asarray([self.vocab.strings.add(label) for label in (*self.labels, _SPACE_LABEL)], dtype="u8")
        for doc, parse in zip(docs, scores):
            if not len(doc):
                continue
            heads = _hang_spaces(doc, parse)
            offsets = (heads - numpy.arange(len(doc))).astype("i8").view("u8")
            doc.from_array([HEAD, DEP], numpy.stack([offsets, numbers[parse.labels]], axis=1))

    def gold(self, example: Example) -> Optional[GoldTrees]:
        """The annotation, aligned with the predicted document; None if there are no dependencies."""
        if not example.reference.has_annotation("DEP"):
            return None
        heads, labels = example.get_aligned_parse(projectivize=False)
        starts = [bool(start) for start in example.get_aligned_sent_starts()]
        numbers = {label: i for i, label in enumerate(self.labels)}
        known = [-1 if head is None else int(head) for head in heads]
        return GoldTrees(
            numpy.asarray(starts, dtype=bool),
            numpy.asarray(known, dtype="i8"),
            numpy.asarray([numbers.get(label or "", -1) for label in labels], dtype="i8"),
        )

    def n_units(self, gold: GoldTrees) -> int:
        """Count the words whose head is known."""
        return int((gold.heads >= 0).sum())

    def loss(self, examples: Sequence[Example], outputs: Outputs, golds: Sequence[Any]) -> torch.Tensor:
        """The cross-entropies of trees and of the labels of their arcs, summed; see `tree_loss`."""
        docs = [example.predicted for example in examples]
        loss = outputs.tensors[0].new_zeros(())
        starts = [None if gold is None else gold.starts for gold in golds]
        firsts = numpy.cumsum(outputs.lengths) - outputs.lengths
        nothing = [numpy.full(length, -1) for length in outputs.lengths]
        own = [n if g is None else numpy.where(g.heads < 0, -1, g.heads + a) for g, n, a in zip(golds, nothing, firsts)]
        every_head = numpy.concatenate(own)
        every_label = numpy.concatenate([n if g is None else g.labels for g, n in zip(golds, nothing)])
        for batch in _batches(docs, starts, outputs):
            words, real = batch.places, batch.real
            rows, columns = numpy.nonzero(real)
            row_of, place_of = numpy.full((2, len(every_head)), -1)  # the sentence of each word, its place there from 1
            row_of[words[real]], place_of[words[real]] = rows, columns + 1
            own_heads = every_head[words]
            is_inside = real & (own_heads >= 0) & (row_of[own_heads] == numpy.arange(len(words))[:, None])
            heads = numpy.where(own_heads == words, 0, place_of[own_heads])
            heads = numpy.where(is_inside, heads, -1)
            labels = numpy.where(is_inside, every_label[words], -1)
            known = to_device(heads, batch.words.device)
            is_tree = (is_inside == real).all(axis=1) & are_trees(numpy.maximum(heads, 0), batch.n_words)
            arcs = score_arcs(batch.projections, batch.words, batch.lengths)
            loss = loss + tree_loss(arcs, known, to_device(is_tree, known.device))
            scores = score_labels(batch.projections, batch.words, known.clamp_min(0))
            loss = loss + torch.nn.functional.cross_entropy(
                scores.reshape(-1, scores.shape[-1]),
                to_device(labels, known.device).reshape(-1),
                ignore_index=-1,
                reduction="sum",
            )
        return loss

    def soft_loss(
        self, docs: Sequence[Doc], outputs: Outputs, targets: Outputs, temperature: float = 1.0
    ) -> torch.Tensor:
        """The divergences of the heads' probabilities and of those of labels, summed over words.

        Sentences are those of the documents; labels are compared for the head that the teacher finds most probable.
        """
        starts = [_sentence_starts(doc) for doc in docs]
        loss = outputs.tensors[0].new_zeros(())
        for batch, goal in zip(_batches(docs, starts, outputs), _batches(docs, starts, targets)):
            arcs = score_arcs(batch.projections, batch.words, batch.lengths)
            goal_arcs = score_arcs(goal.projections, goal.words, goal.lengths)
            loss = loss + categorical_divergence(arcs, goal_arcs, temperature)[batch.is_word].sum()
            heads = _likeliest_heads(goal_arcs, batch.is_word)
            labels = score_labels(batch.projections, batch.words, heads)
            goal_labels = score_labels(goal.projections, goal.words, heads)
            loss = loss + categorical_divergence(labels, goal_labels, temperature)[batch.is_word].sum()
        return loss


def _hang_spaces(doc: Doc, parse: Parse) -> numpy.ndarray:
    """The heads, also of white space: the word before it in its sentence, or else that after it."""
    spaces = numpy.flatnonzero(parse.labels < 0).tolist()
    if not spaces:
        return parse.heads
    heads, starts = parse.heads.copy(), _sentence_starts(doc)
    for i in spaces:
        before = i - 1 if i and not starts[i] else i + 1
        heads[i] = before if 0 <= before < len(doc) and not (before > i and starts[before]) else i
    return heads


def _sentence_starts(doc: Doc) -> numpy.ndarray:
    return doc.to_array(["SENT_START"]).astype("i8") == 1


def _likeliest_heads(arcs: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
    """The best head of each word by itself; of what is beyond the end the root, so that it's no word's child."""
    return arcs.argmax(dim=2).masked_fill(~is_word, 0)


def _heads_with_one_root(arcs: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
    """The same, but of all words only that which gains most hangs on the root.

    No tree is better than these heads, so where they make one, it's the best: oftener than the best heads of all words.
    """
    others = arcs[:, :, 1:].max(dim=2)
    gains = (arcs[:, :, 0] - others.values).masked_fill(~is_word, float("-inf"))
    heads = (1 + others.indices).scatter(1, gains.argmax(dim=1, keepdim=True), 0)
    return heads.masked_fill(~is_word, 0)


def _scores_of(arcs: torch.Tensor, rows: List[int]) -> numpy.ndarray:
    return arcs[torch.tensor(rows, device=arcs.device)].cpu().numpy()


class _Batch(NamedTuple):
    """Sentences of similar length.

    projections: Of all documents.
    places: The words of each sentence, by their places in the projections, padded. *Shape:* (n_sentences, length)
    real: What of that pads no shorter sentence. *Shape:* (n_sentences, length)
    n_words: Words of each sentence. *Shape:* (n_sentences,)
    words, lengths: The places and these on the device.
    """

    projections: Projections
    places: numpy.ndarray
    real: numpy.ndarray
    n_words: numpy.ndarray
    words: torch.Tensor
    lengths: torch.Tensor

    @property
    def is_word(self) -> torch.Tensor:
        """Whether there is a word, and not what pads a shorter sentence. *Shape:* (n_sentences, length)"""
        return torch.arange(self.words.shape[1], device=self.words.device) < self.lengths[:, None]


def _sentences(docs: Sequence[Doc], starts: Sequence[Optional[numpy.ndarray]]) -> Tuple[numpy.ndarray, numpy.ndarray]:
    """The words of all sentences one after another, by their places among all tokens, and how many each has.

    starts: Whether a sentence starts at each token; None for a document that is left out.
    """
    n_tokens = document_lengths(docs)
    begins = numpy.concatenate([numpy.zeros(n, bool) if b is None else b for n, b in zip(n_tokens, starts)])
    begins[(numpy.cumsum(n_tokens) - n_tokens)[n_tokens > 0]] = True
    kept = numpy.repeat(numpy.asarray([b is not None for b in starts]), n_tokens)
    words = numpy.flatnonzero(kept & word_tokens(docs))
    lengths = numpy.bincount(numpy.cumsum(begins)[words])
    parts = -(-lengths // _MOST_WORDS)  # what is longer is cut
    whole = numpy.repeat(numpy.full(len(parts), _MOST_WORDS), parts)
    last = numpy.cumsum(parts)[parts > 0] - 1
    whole[last] = (lengths - (parts - 1) * _MOST_WORDS)[parts > 0]
    return words, whole


def _batches(docs: Sequence[Doc], starts: Sequence[Optional[numpy.ndarray]], outputs: Outputs) -> Iterator[_Batch]:
    """Part documents into sentences, and these into padded batches.

    starts: As in `_sentences`.
    """
    words, lengths = _sentences(docs, starts)
    firsts = numpy.cumsum(lengths) - lengths
    projections = Projections(*outputs.tensors)
    device = projections.arc_head.device
    for bucket in length_buckets(lengths, at_once(_BATCH_WORDS, device)):
        longest = int(lengths[bucket[0]])
        size = max(1, at_once(_BATCH_PAIRS, device) // (longest * longest))
        for i in range(0, len(bucket), size):
            chosen = bucket[i : i + size]
            n_words = lengths[chosen]
            places, real = pad_rows(words, firsts[chosen], n_words)
            on_device = (to_device(array, device) for array in (places, n_words))
            yield _Batch(projections, places, real, n_words, *on_device)
