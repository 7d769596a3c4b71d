"""Entities by a conditional random field: `beto_ner`, with the probability of every span.

The arithmetic is in `crf.py`. Missing annotation is summed over, entities that are there already are kept, and what is
found never overlaps.
"""

from functools import partial
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy
import torch
from spacy.attrs import ENT_IOB, ENT_TYPE, IS_PUNCT, SENT_START
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup
from spacy.training import Example
from thinc.api import Model
from thinc.types import Floats2d

from beto_spacy.encoders.windows import (
    INSIDE_TOKEN,
    PUNCTUATION,
    SENTENCE,
    TOKEN,
    cut_windows,
    length_buckets,
    pad_rows,
)
from beto_spacy.errors import CorpusError
from beto_spacy.heads.ner import crf
from beto_spacy.pipeline.head import TorchHead, default_model, lowest
from beto_spacy.pipeline.layer import (
    LINE_BREAKS,
    Outputs,
    blank_tokens,
    emoji_tokens,
    line_starts,
    make_torch_layer,
    paragraph_starts,
)
from beto_spacy.pipeline.shim import at_once, to_device

_DEFAULT_MODEL = default_model("beto_spacy.CRF.v1", dropout=0.1)
#: Tokens of a sequence of the random field at most; a longer document is cut where a sentence ends.
_MOST_TOKENS = 2_000
#: Padded tokens that are worked on at once, on a CPU.
_BATCH_TOKENS = 8_192


def make_crf(
    tok2vec: Model[List[Doc], List[Floats2d]], dropout: float = 0.1, learn_rate_factor: float = 1.0
) -> Model[List[Doc], Outputs]:
    """Build ``beto_spacy.CRF.v1``: the potentials of a conditional random field over entity tags.

    tok2vec: The token vectors, such as ``beto_spacy.Listener.v1``.
    dropout: Of the token vectors, in training.
    learn_rate_factor: The optimizer's rate is multiplied by it for this head.
    """
    build = partial(crf.TagPotentials, dropout=dropout)
    return make_torch_layer("beto-crf", tok2vec, build, learn_rate_factor=learn_rate_factor)


class FoundSpans(NamedTuple):
    """The entities that were found in a document, in order: arrays, not an object for each of them.

    starts, ends: The first token of each, and the token after it.
    labels: The number of its label.
    confidences: Its probability.
    """

    starts: numpy.ndarray
    ends: numpy.ndarray
    labels: numpy.ndarray
    confidences: numpy.ndarray


@Language.factory(
    "beto_ner",
    assigns=["doc.ents", "token.ent_iob", "token.ent_type", "doc.spans"],
    default_config={
        "model": _DEFAULT_MODEL,
        "min_confidence": 0.0,
        "spans_key": "entities",
        "cross_lines": False,
        "scorer": {"@scorers": "spacy.ner_scorer.v1"},
    },
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
def make_beto_ner(
    nlp: Language,
    name: str,
    model: Model,
    min_confidence: float,
    spans_key: Optional[str],
    cross_lines: bool,
    scorer: Optional[Callable],
) -> "BetoEntityRecognizer":
    """Build a `BetoEntityRecognizer`.

    model: ``beto_spacy.CRF.v1``.
    min_confidence: An entity that is less probable isn't set in `doc.ents`; 0 to 1.
    spans_key: Where in `doc.spans` all entities that were found are, with their probabilities; None for nowhere. spaCy
        doesn't move what is there: None where a component such as `merge_entities` merges tokens later.
    cross_lines: Whether an entity may go on after a line break or a tab.
    scorer: ``spacy.ner_scorer.v1``.
    """
    return BetoEntityRecognizer(
        nlp.vocab,
        model,
        name,
        min_confidence=min_confidence,
        spans_key=spans_key,
        cross_lines=cross_lines,
        scorer=scorer,
    )


def span_confidence(span: Span) -> Optional[float]:
    """The probability of an entity, for ``span._.confidence``; None for a span that `beto_ner` didn't find."""
    for group in span.doc.spans.values():
        scores = group.attrs.get("confidences")
        if scores is not None:
            for other, score in zip(group, scores):
                if (other.start, other.end, other.label) == (span.start, span.end, span.label):
                    return score
    return None


class BetoEntityRecognizer(TorchHead):
    """Finds entities and how probable each is.

    The entities of `doc.ents` have their probability at ``span._.confidence``; all that were found, also those that are
    less probable than `min_confidence`, are in ``doc.spans[spans_key]``, and their probabilities, in order, in its
    ``attrs["confidences"]``. Entities that are there before are kept, and count as certain; so are blocked tokens. Of
    those that are found, none has an emoji in it.

    vocab, model, name: As for any component.
    min_confidence, spans_key, cross_lines, scorer: See `make_beto_ner`.
    """

    def __init__(
        self,
        vocab: Any,
        model: Model,
        name: str = "beto_ner",
        *,
        min_confidence: float = 0.0,
        spans_key: Optional[str] = "entities",
        cross_lines: bool = False,
        scorer: Optional[Callable] = None,
    ):
        if not 0.0 <= min_confidence <= 1.0:
            raise CorpusError("B240", f"A probability can't be {min_confidence}.", "Set 'min_confidence' from 0 to 1.")
        super().__init__(
            vocab, model, name, scorer, min_confidence=min_confidence, spans_key=spans_key, cross_lines=cross_lines
        )
        self.cfg["temperature"] = 1.0
        if not Span.has_extension("confidence"):
            Span.set_extension("confidence", getter=span_confidence)

    def n_classes(self) -> int:
        """Begin and inside of each label, and outside."""
        return crf.n_tags(len(self.labels))

    def find_labels(self, example: Example) -> Iterable[str]:
        """The labels of the entities."""
        return (entity.label_ for entity in example.reference.ents)

    def predict(self, docs: Iterable[Doc]) -> List[FoundSpans]:
        """Find the entities of documents, without setting them."""
        docs = list(docs)
        parts = [numpy.zeros((4, 0), dtype="i8")]  # document, first token, token after, label
        scores = [numpy.zeros(0, dtype="f")]
        if any(len(doc) for doc in docs):
            outputs = self.model.predict(docs)
            with torch.inference_mode():
                for batch in _batches(docs, outputs, self._preset(docs, outputs.tensors[0])):
                    spans, probabilities = self._best_spans(batch)
                    row, first, last, label = spans.cpu().numpy().T
                    parts.append(
                        numpy.stack([batch.docs[row], batch.tokens[row, first], batch.tokens[row, last] + 1, label])
                    )
                    scores.append(probabilities.cpu().numpy())
        every, confidences = numpy.concatenate(parts, axis=1), numpy.concatenate(scores)
        order = numpy.lexsort((every[1], every[0]))
        of_doc, starts, ends, labels = every[:, order]
        found = FoundSpans(starts, ends, labels, confidences[order])
        cuts = numpy.searchsorted(of_doc, numpy.arange(len(docs) + 1)).tolist()
        return [FoundSpans(*(array[a:b] for array in found)) for a, b in zip(cuts, cuts[1:])]

    def _best_spans(self, batch: "_Batch") -> Tuple[torch.Tensor, torch.Tensor]:
        """The spans of the best tags, see `crf.tags_to_spans`, and how probable each is."""
        bound = batch.potentials.centred()
        if batch.possible is not None:
            bound = bound._replace(emissions=bound.emissions.masked_fill(~batch.possible, crf.FORBIDDEN))
        spans = crf.tags_to_spans(crf.viterbi(bound), bound.lengths)
        if not len(spans):
            return spans, spans.new_zeros(0, dtype=bound.emissions.dtype)
        rows, places = spans[:, 0].unique(return_inverse=True)
        scaled = bound._replace(emissions=bound.emissions[rows], lengths=bound.lengths[rows])
        scaled = scaled.scaled(self.cfg["temperature"])
        where = torch.cat([places[:, None], spans[:, 1:]], dim=1)
        return spans, crf.span_probabilities(scaled, crf.forward_backward(scaled), where)

    def set_annotations(self, docs: Iterable[Doc], scores: List[FoundSpans]) -> None:
        """Set the entities that were found beside those that are there."""
        key, least = self.settings["spans_key"], self.settings["min_confidence"]
        keys = [self.vocab.strings.add(label) for label in self.labels]
        for doc, found in zip(docs, scores):
            every = zip(found.starts.tolist(), found.ends.tolist(), found.labels.tolist())
            spans = [Span(doc, start, end, label=keys[label]) for start, end, label in every]
            confidences = found.confidences.tolist()
            if key is not None:
                doc.spans[key] = SpanGroup(doc, name=key, attrs={"confidences": confidences}, spans=spans)
            new = [span for span, confidence in zip(spans, confidences) if confidence >= least]
            iob, types = doc.to_array([ENT_IOB, ENT_TYPE]).reshape(-1, 2).T
            before = list(doc.ents) if types.any() else []
            blocked = [doc[int(i) : int(i) + 1] for i in numpy.flatnonzero((iob == 3) & (types == 0))]
            if before:
                kept = numpy.isin(iob, (1, 3))
                new = [span for span in new if not kept[span.start : span.end].any()]
            doc.set_ents([*before, *new], blocked=blocked, default="outside")

    def _preset(self, docs: Sequence[Doc], emissions: torch.Tensor) -> Optional[torch.Tensor]:
        """Which tags the tokens may have beside the entities that are there already; None if all may have any.

        What is there may cross lines and have emoji in it.
        """
        iob = numpy.concatenate([doc.to_array([ENT_IOB]).reshape(-1) for doc in docs])
        is_preset = bool(numpy.isin(iob, (1, 3)).any())
        anew = numpy.zeros(0, dtype="i8") if self.settings["cross_lines"] else _after_breaks(docs)
        outside = emoji_tokens(docs)
        if not is_preset and not len(anew) and not len(outside):
            return None
        possible = torch.ones(emissions.shape, dtype=torch.bool, device=emissions.device)
        possible[to_device(anew, emissions.device), 2::2] = False
        possible[to_device(outside, emissions.device), 1:] = False
        if not is_preset:
            return possible
        offset = 0
        numbers = {label: i for i, label in enumerate(self.labels)}
        for doc in docs:
            begins = _begins((token.ent_iob == 3 for token in doc), blank_tokens(doc))
            kept = False  # of the word before
            for token in doc:
                if token.is_space:
                    continue
                if token.ent_iob in (1, 3):
                    label = numbers.get(token.ent_type_)
                    tag = 0
                    if label is not None:
                        tag = crf.begin_tag(label) if begins[token.i] else crf.inside_tag(label)
                    possible[offset + token.i] = False
                    possible[offset + token.i, tag] = True
                elif kept:  # one that is there doesn't grow
                    possible[offset + token.i, 2::2] = False
                kept = token.ent_iob in (1, 3)
            offset += len(doc)
        return possible

    def gold(self, example: Example) -> Optional[numpy.ndarray]:
        """Which tags the annotation allows each token. *Shape:* (n_tokens, n_tags); None if nothing is annotated."""
        if not example.reference.has_annotation("ENT_IOB"):
            return None
        known, blank = example.get_aligned_ner(), blank_tokens(example.predicted)
        if all(tag is None for tag in known):
            return None
        numbers = {label: i for i, label in enumerate(self.labels)}
        possible = numpy.ones((len(known), self.n_classes()), dtype=bool)
        begins = _begins((bool(tag) and tag[0] in "BU" for tag in known), blank)
        for i, tag in enumerate(known):
            if blank[i] or not tag or tag[0] == "-":  # no word, or missing
                continue
            number = numbers.get(tag.partition("-")[2])
            possible[i] = False
            if number is None:  # O, or a label that isn't ours
                possible[i, 0] = True
            elif begins[i]:
                possible[i, crf.begin_tag(number)] = True
            else:
                possible[i, crf.inside_tag(number)] = True
        return possible

    def loss(self, examples: Sequence[Example], outputs: Outputs, golds: Sequence[Any]) -> torch.Tensor:
        """The negative log-likelihood of what is annotated, summed over documents."""
        emissions = outputs.tensors[0]
        every = [
            numpy.ones((length, emissions.shape[1]), dtype=bool) if gold is None else gold
            for length, gold in zip(outputs.lengths, golds)
        ]
        possible = to_device(numpy.concatenate(every), emissions.device)
        loss = torch.zeros((), dtype=torch.float64, device=emissions.device)
        for batch in _batches([example.predicted for example in examples], outputs, possible):
            loss = loss + crf.negative_log_likelihood(batch.potentials, batch.possible).sum()
        return loss

    def soft_loss(
        self, docs: Sequence[Doc], outputs: Outputs, targets: Outputs, temperature: float = 1.0
    ) -> torch.Tensor:
        """The divergence of the probabilities of whole tag sequences, summed over documents; see `crf.divergence`."""
        loss = torch.zeros((), dtype=torch.float64, device=outputs.tensors[0].device)
        for batch, goal in zip(_batches(docs, outputs), _batches(docs, targets)):
            loss = loss + crf.divergence(batch.potentials, goal.potentials, temperature)
        return loss

    def calibrate(self, examples: Iterable[Example]) -> Dict[str, Any]:
        """Choose the temperature that makes the annotation of development data most probable (Guo et al. 2017).

        examples: Their predicted documents must carry what the model reads, such as the transformer's features.
        Returns ``temperature``, by which later probabilities are computed. Raises CorpusError if nothing is annotated.
        """
        kept = [(example.predicted, gold) for example in examples if (gold := self.gold(example)) is not None]
        if not kept:
            raise CorpusError("B244", "There are no entities to calibrate with.", "Give a corpus that has entities.")
        docs = [doc for doc, _ in kept]
        outputs = self.model.predict(docs)
        possible = to_device(numpy.concatenate([gold for _, gold in kept]), outputs.tensors[0].device)
        batches = list(_batches(docs, outputs, possible))

        def loss(log_temperature: float) -> float:
            temperature = float(numpy.exp(log_temperature))
            with torch.inference_mode():
                parts = (crf.negative_log_likelihood(b.potentials.scaled(temperature), b.possible) for b in batches)
                return float(sum(part.sum() for part in parts))

        self.cfg["temperature"] = float(numpy.exp(lowest(loss, -1.5, 2.5)))
        return {"temperature": self.cfg["temperature"]}


def _after_breaks(docs: Sequence[Doc]) -> numpy.ndarray:
    """The words after line breaks and tabs, by their places among the tokens of documents in a row."""
    found, offset = [numpy.zeros(0, dtype="i8")], 0
    for doc in docs:
        blank = blank_tokens(doc)
        if blank.any():
            found.append(offset + line_starts(doc, blank, LINE_BREAKS + "\t"))
        offset += len(doc)
    return numpy.concatenate(found)


def _begins(begins: Iterable[bool], blank: numpy.ndarray) -> List[bool]:
    """At which tokens, or in the white space right before them, an entity begins.

    begins: Whether one begins with each token. blank: Of `blank_tokens`.
    """
    found, begun = [], False
    for begin, is_blank in zip(begins, blank):
        begun |= begin
        found.append(begun)
        begun &= bool(is_blank)
    return found


class _Batch(NamedTuple):
    """Sequences of similar length.

    potentials: Padded.
    possible: Which tags each token may have, if that is restricted. *Shape:* (n_sequences, length, n_tags)
    docs: The number of the document of each sequence. *Shape:* (n_sequences,)
    tokens: The words of each sequence, by their places in the document, padded. *Shape:* (n_sequences, length)
    """

    potentials: crf.Potentials
    possible: Optional[torch.Tensor]
    docs: numpy.ndarray
    tokens: numpy.ndarray


def _batches(docs: Sequence[Doc], outputs: Outputs, possible: Optional[torch.Tensor] = None) -> Iterator[_Batch]:
    """Cut documents into sequences, and these into padded batches.

    White space is passed over: it has no vector. A sequence ends at an empty line.

    possible: Which tags the tokens of all documents may have. *Shape:* (n_tokens, n_tags)
    """
    pieces: List[numpy.ndarray] = []
    numbers: List[int] = []
    for number, doc in enumerate(docs):
        for words in _paragraphs(doc):
            quality = _cut_quality(doc)[words] if len(words) > _MOST_TOKENS else None
            for window in cut_windows(len(words), _MOST_TOKENS, quality=quality):
                numbers.append(number)
                pieces.append(words[window.start : window.end])
    emissions, starts, transitions = outputs.tensors
    device = emissions.device
    may_start = crf.allowed_starts(emissions.shape[1] // 2).to(device)
    doc_of, sizes = numpy.asarray(numbers, dtype="i8"), numpy.asarray([len(piece) for piece in pieces], dtype="i8")
    words_of, firsts = numpy.concatenate([numpy.zeros(0, dtype="i8"), *pieces]), numpy.cumsum(sizes) - sizes
    first_of = (numpy.cumsum(outputs.lengths) - outputs.lengths)[doc_of]
    for bucket in length_buckets(sizes, at_once(_BATCH_TOKENS, device)):
        tokens, _ = pad_rows(words_of, firsts[bucket], sizes[bucket])
        where = to_device(tokens + first_of[bucket][:, None], device)
        lengths = to_device(sizes[bucket], device)
        allowed = None
        if possible is not None:
            allowed = possible[where]
            # Where an entity was cut, nothing is known of the first token.
            allowed[:, 0] |= ~(allowed[:, 0] & may_start).any(dim=1, keepdim=True)
        yield _Batch(crf.Potentials(emissions[where], starts, transitions, lengths), allowed, doc_of[bucket], tokens)


def _paragraphs(doc: Doc) -> List[numpy.ndarray]:
    """The words of each paragraph, those that aren't white space; none of a document of white space."""
    blank = blank_tokens(doc)
    words = numpy.flatnonzero(~blank)
    parts = [words]
    if len(words) < len(blank):
        parts = numpy.split(words, numpy.searchsorted(words, paragraph_starts(doc, blank)))
    return [part for part in parts if len(part)]


def _cut_quality(doc: Doc) -> numpy.ndarray:
    """How good it is to cut a long document before each token."""
    attrs = doc.to_array([SENT_START, IS_PUNCT, ENT_IOB]).astype("i8")
    quality = numpy.full(len(doc), TOKEN, dtype="i1")
    quality[1:][attrs[:-1, 1] != 0] = PUNCTUATION
    quality[attrs[:, 0] == 1] = SENTENCE
    quality[attrs[:, 2] == 1] = INSIDE_TOKEN
    return quality
