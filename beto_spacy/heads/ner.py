"""Entities by a conditional random field: `beto_ner`, with the probability of every span.

The arithmetic is in `crf.py`, the model in `crf_model.py`. Missing annotation is summed over, entities that are there
already are kept, and what is found never overlaps.
"""

from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy
import srsly
import torch
from spacy import util
from spacy.attrs import ENT_IOB, IS_PUNCT, SENT_START
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.pipeline.pipe import deserialize_config
from spacy.tokens import Doc, Span, SpanGroup
from spacy.training import Example, validate_examples
from thinc.api import Config, Model, Optimizer, set_dropout_rate

from ..errors import CorpusError
from ..windows import INSIDE_TOKEN, PUNCTUATION, SENTENCE, TOKEN, cut_windows, length_buckets
from . import crf
from .crf_model import DocPotentials, build_module

_DEFAULT_MODEL = Config().from_str("""
[model]
@architectures = "beto_spacy.CRF.v1"
dropout = 0.1
learn_rate_factor = 1.0

[model.tok2vec]
@architectures = "beto_spacy.Listener.v1"
grad_factor = 1.0
pooling = {"@layers":"reduce_mean.v1"}
""")["model"]
#: Tokens of a sequence of the random field at most; a longer document is cut where a sentence ends.
_MOST_TOKENS = 2_000
#: Padded tokens that are worked on at once.
_BATCH_TOKENS = 8_192


class FoundSpan(NamedTuple):
    """An entity that was found: first token, the token after it, label and probability."""

    start: int
    end: int
    label: str
    confidence: float


@Language.factory(
    "beto_ner",
    assigns=["doc.ents", "token.ent_iob", "token.ent_type", "doc.spans"],
    default_config={
        "model": _DEFAULT_MODEL,
        "min_confidence": 0.0,
        "spans_key": "entities",
        "scorer": {"@scorers": "spacy.ner_scorer.v1"},
    },
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
def make_beto_ner(
    nlp: Language, name: str, model: Model, min_confidence: float, spans_key: str, scorer: Optional[Callable]
) -> "BetoEntityRecognizer":
    """Build a `BetoEntityRecognizer`.

    model: ``beto_spacy.CRF.v1``.
    min_confidence: An entity that is less probable isn't set in `doc.ents`; 0 to 1.
    spans_key: Where in `doc.spans` all entities that were found are, with their probabilities.
    scorer: ``spacy.ner_scorer.v1``.
    """
    return BetoEntityRecognizer(
        nlp.vocab, model, name, min_confidence=min_confidence, spans_key=spans_key, scorer=scorer
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


class BetoEntityRecognizer(TrainablePipe):
    """Finds entities and how probable each is.

    The entities of `doc.ents` have their probability at ``span._.confidence``; all that were found, also those that are
    less probable than `min_confidence`, are in ``doc.spans[spans_key]``, and their probabilities, in order, in its
    ``attrs["confidences"]``. Entities that are there before are kept, and count as certain; so are blocked tokens.

    vocab, model, name: As for any component.
    min_confidence, spans_key, scorer: See `make_beto_ner`.
    """

    def __init__(
        self,
        vocab: Any,
        model: Model,
        name: str = "beto_ner",
        *,
        min_confidence: float = 0.0,
        spans_key: str = "entities",
        scorer: Optional[Callable] = None,
    ):
        if not 0.0 <= min_confidence <= 1.0:
            raise CorpusError(
                "B240", f"A probability of {min_confidence} can't be.", "Give 'min_confidence' from 0 to 1."
            )
        self.vocab, self.model, self.name, self.scorer = vocab, model, name, scorer
        self.cfg: Dict[str, Any] = {
            "labels": [],
            "width": None,
            "temperature": 1.0,
            "min_confidence": min_confidence,
            "spans_key": spans_key,
        }
        if not Span.has_extension("confidence"):
            Span.set_extension("confidence", getter=span_confidence)

    @property
    def labels(self) -> Tuple[str, ...]:
        """The entities' labels, in the order of the tags."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> List[str]:
        """What ``spacy init labels`` saves."""
        return list(self.labels)

    def add_label(self, label: str) -> int:
        """Add a label before the component is initialized. Returns 1, or 0 if it's there already."""
        if not isinstance(label, str):
            raise CorpusError("B241", f"'{label!r}' is no label.", "Give a text.")
        if label in self.labels:
            return 0
        if self.cfg["width"] is not None:
            raise CorpusError(
                "B242", f"'{self.name}' was trained without the label '{label}'.", "Initialize it with all labels."
            )
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        return 1

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Optional[Language] = None,
        labels: Optional[Sequence[str]] = None,
    ) -> None:
        """Take the labels and shape the model.

        labels: The labels; by default all that the examples have, in alphabetical order.
        Raises CorpusError if there are none.
        """
        if labels is None:
            seen = {entity.label_ for example in get_examples() for entity in example.reference.ents}
            labels = sorted(seen - {""})
        self.cfg.update(labels=[], width=None, temperature=1.0)
        for label in labels:
            self.add_label(label)
        if not self.labels:
            raise CorpusError(
                "B243",
                f"The entity recognizer '{self.name}' has no labels.",
                "Train with a corpus that has entities, or take the component out of nlp.pipeline.",
            )
        docs = [example.x for example, _ in zip(get_examples(), range(10)) if len(example.x)]
        self.model.get_ref("output_layer").set_dim("nO", crf.n_tags(len(self.labels)), force=True)
        self.model.initialize(X=docs)
        self.cfg["width"] = self.model.get_ref("output_layer").get_dim("nI")

    # --- predicting ---

    def predict(self, docs: Iterable[Doc]) -> List[List[FoundSpan]]:
        """Find the entities of documents, without setting them."""
        docs = list(docs)
        found: List[List[FoundSpan]] = [[] for _ in docs]
        if not any(len(doc) for doc in docs):
            return found
        potentials = self.model.predict(docs)
        possible = self._preset(docs, potentials.emissions)
        temperature = self.cfg["temperature"]
        with torch.inference_mode():
            for batch in _batches(docs, potentials, possible):
                mask = torch.zeros((), dtype=torch.bool) if batch.possible is None else ~batch.possible
                free, lengths = batch.potentials, batch.potentials.lengths
                bound = free._replace(
                    emissions=free.emissions.masked_fill(mask.to(free.emissions.device), crf.FORBIDDEN)
                )
                spans = crf.tags_to_spans(crf.viterbi(bound), lengths)
                if not len(spans):
                    continue
                scaled = bound.scaled(temperature)
                scores = crf.span_probabilities(scaled, crf.forward_backward(scaled), spans)
                for (row, first, last, label), score in zip(spans.tolist(), scores.tolist()):
                    doc, offset = batch.places[row]
                    found[doc].append(FoundSpan(first + offset, last + offset + 1, self.labels[label], score))
        return [sorted(spans) for spans in found]

    def set_annotations(self, docs: Iterable[Doc], scores: List[List[FoundSpan]]) -> None:
        """Set the entities that were found beside those that are there."""
        for doc, found in zip(docs, scores):
            group = SpanGroup(doc, name=self.cfg["spans_key"], attrs={"confidences": [s.confidence for s in found]})
            group.extend([Span(doc, s.start, s.end, label=s.label) for s in found])
            doc.spans[self.cfg["spans_key"]] = group
            before = list(doc.ents)
            kept = {(entity.start, entity.end) for entity in before}
            blocked = [doc[token.i : token.i + 1] for token in doc if token.ent_iob == 3 and not token.ent_type]
            new = [
                span
                for span, s in zip(group, found)
                if s.confidence >= self.cfg["min_confidence"] and (s.start, s.end) not in kept
            ]
            doc.set_ents([*before, *new], blocked=blocked, default="outside")

    def _preset(self, docs: Sequence[Doc], emissions: torch.Tensor) -> Optional[torch.Tensor]:
        """Which tags the tokens may have beside the entities that are there already; None if all may have any."""
        iob = numpy.concatenate([doc.to_array([ENT_IOB]).reshape(-1) for doc in docs])
        if not numpy.isin(iob, (1, 3)).any():
            return None
        possible = torch.ones(emissions.shape, dtype=torch.bool, device=emissions.device)
        offset = 0
        numbers = {label: i for i, label in enumerate(self.labels)}
        for doc in docs:
            for token in doc:
                if token.ent_iob in (1, 3):
                    label = numbers.get(token.ent_type_)
                    tag = 0
                    if label is not None:
                        tag = crf.begin_tag(label) if token.ent_iob == 3 else crf.inside_tag(label)
                    possible[offset + token.i] = False
                    possible[offset + token.i, tag] = True
                elif token.i and doc[token.i - 1].ent_iob in (1, 3):  # one that is there doesn't grow
                    possible[offset + token.i, 2::2] = False
            offset += len(doc)
        return possible

    # --- learning ---

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optional[Optimizer] = None,
        losses: Optional[Dict[str, float]] = None,
    ) -> Dict[str, float]:
        """Learn from examples. The loss is the negative log-likelihood of what is annotated, summed over documents.

        Examples without any annotation of entities teach nothing.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "BetoEntityRecognizer.update")
        docs = [example.predicted for example in examples]
        tags = [self._possible_tags(example) for example in examples]
        if not any(known is not None for known in tags):
            return losses
        set_dropout_rate(self.model, drop)
        potentials, backprop = self.model.begin_update(docs)
        loss, gradients = self.get_loss(examples, potentials, tags)
        backprop(gradients)
        if sgd is not None:
            self.finish_update(sgd)
        losses[self.name] += loss
        return losses

    def get_loss(
        self,
        examples: Sequence[Example],
        scores: DocPotentials,
        tags: Optional[List[Optional[numpy.ndarray]]] = None,
    ) -> Tuple[float, DocPotentials]:
        """The negative log-likelihood of the annotation, and its gradient by the potentials."""
        if tags is None:
            tags = [self._possible_tags(example) for example in examples]
        n = scores.emissions.shape[1]
        every = [
            numpy.ones((len(example.predicted), n), dtype=bool) if known is None else known
            for example, known in zip(examples, tags)
        ]
        possible = torch.from_numpy(numpy.concatenate(every)).to(scores.emissions.device)
        leaves = [t.detach().requires_grad_() for t in scores[:3]]
        loss = torch.zeros((), dtype=torch.float64, device=possible.device)
        for batch in _batches([e.predicted for e in examples], DocPotentials(*leaves, scores.lengths), possible):
            loss = loss + crf.negative_log_likelihood(batch.potentials, batch.possible).sum()
        gradients = torch.autograd.grad(loss, leaves)
        return float(loss.detach()), DocPotentials(*gradients, scores.lengths)

    def _possible_tags(self, example: Example) -> Optional[numpy.ndarray]:
        """Which tags the annotation allows each token. *Shape:* (n_tokens, n_tags); None if nothing is annotated."""
        if not example.reference.has_annotation("ENT_IOB"):
            return None
        known = example.get_aligned_ner()
        if all(tag is None for tag in known):
            return None
        numbers = {label: i for i, label in enumerate(self.labels)}
        possible = numpy.ones((len(known), crf.n_tags(len(self.labels))), dtype=bool)
        for i, tag in enumerate(known):
            if tag is None or tag == "-":
                continue
            kind, _, label = tag.partition("-")
            number = numbers.get(label)
            possible[i] = False
            if number is None:  # O, or a label that isn't ours
                possible[i, 0] = True
            elif kind in "BU":
                possible[i, crf.begin_tag(number)] = True
            else:
                possible[i, crf.inside_tag(number)] = True
        return possible

    # --- calibrating ---

    def calibrate(self, examples: Iterable[Example]) -> float:
        """Choose the temperature that makes the annotation of development data most probable (Guo et al. 2017).

        examples: Their predicted documents must carry what the model reads, such as the transformer's features.
        Returns the temperature that later probabilities are computed with. Raises CorpusError if nothing is annotated.
        """
        kept = []
        for example in examples:
            known = self._possible_tags(example)
            if known is not None and len(example.predicted):
                scores = self.model.predict([example.predicted])
                kept.append((example, scores, known))
        if not kept:
            raise CorpusError("B244", "There are no entities to calibrate with.", "Give a corpus that has entities.")
        device = kept[0][1].emissions.device
        docs = [example.predicted for example, _, _ in kept]
        whole = DocPotentials(
            torch.cat([scores.emissions for _, scores, _ in kept]),
            kept[0][1].starts,
            kept[0][1].transitions,
            [len(doc) for doc in docs],
        )
        possible = torch.from_numpy(numpy.concatenate([known for _, _, known in kept])).to(device)
        batches = list(_batches(docs, whole, possible))

        def loss(log_temperature: float) -> float:
            temperature = float(numpy.exp(log_temperature))
            with torch.inference_mode():
                parts = (crf.negative_log_likelihood(b.potentials.scaled(temperature), b.possible) for b in batches)
                return float(sum(part.sum() for part in parts))

        self.cfg["temperature"] = float(numpy.exp(_lowest(loss, -1.5, 2.5)))
        return self.cfg["temperature"]

    # --- saving ---

    def _build(self) -> None:
        """Give the model the shape that the labels and the width want, before its weights are loaded."""
        if self.cfg["width"] is not None:
            build_module(self.model.get_ref("output_layer"), self.cfg["width"], crf.n_tags(len(self.labels)))

    def _shim(self) -> Any:
        return self.model.get_ref("output_layer").shims[0]

    def to_disk(self, path: Union[str, Path], *, exclude: Iterable[str] = tuple()) -> None:
        """Save the component: ``cfg``, and the weights as ``model.safetensors``."""
        util.to_disk(
            path,
            {
                "cfg": lambda p: srsly.write_json(p, self.cfg),
                "model.safetensors": lambda p: Path(p).write_bytes(self._shim().to_bytes()),
                "tok2vec": lambda p: Path(p).write_bytes(self.model.get_ref("tok2vec").to_bytes()),
            },
            exclude,
        )

    def from_disk(self, path: Union[str, Path], *, exclude: Iterable[str] = tuple()) -> "BetoEntityRecognizer":
        """Load the component."""
        util.from_disk(
            path,
            {
                "cfg": lambda p: self._set_cfg(deserialize_config(p)),
                "model.safetensors": lambda p: self._shim().from_bytes(Path(p).read_bytes()),
                "tok2vec": lambda p: self.model.get_ref("tok2vec").from_bytes(Path(p).read_bytes()),
            },
            exclude,
        )
        return self

    def to_bytes(self, *, exclude: Iterable[str] = tuple()) -> bytes:
        """Save the component to bytes."""
        return util.to_bytes(
            {
                "cfg": lambda: srsly.json_dumps(self.cfg),
                "model.safetensors": lambda: self._shim().to_bytes(),
                "tok2vec": self.model.get_ref("tok2vec").to_bytes,
            },
            exclude,
        )

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = tuple()) -> "BetoEntityRecognizer":
        """Load the component from bytes."""
        util.from_bytes(
            bytes_data,
            {
                "cfg": lambda b: self._set_cfg(srsly.json_loads(b)),
                "model.safetensors": lambda b: self._shim().from_bytes(b),
                "tok2vec": lambda b: self.model.get_ref("tok2vec").from_bytes(b),
            },
            exclude,
        )
        return self

    def _set_cfg(self, cfg: Dict[str, Any]) -> None:
        # What the config of the pipeline says now goes before what was saved: it may be overridden in spacy.load.
        self.cfg.update({key: value for key, value in cfg.items() if key not in ("min_confidence", "spans_key")})
        for label in self.labels:
            self.vocab.strings.add(label)
        self._build()


class _Batch(NamedTuple):
    """Sequences of similar length.

    potentials: Padded.
    possible: Which tags each token may have, if that is restricted. *Shape:* (n_sequences, length, n_tags)
    places: The document of each sequence, and its first token there.
    """

    potentials: crf.Potentials
    possible: Optional[torch.Tensor]
    places: List[Tuple[int, int]]


def _batches(docs: Sequence[Doc], scores: DocPotentials, possible: Optional[torch.Tensor] = None) -> Iterator[_Batch]:
    """Cut documents into sequences, and these into padded batches.

    possible: Which tags the tokens of all documents may have. *Shape:* (n_tokens, n_tags)
    """
    places: List[Tuple[int, int]] = []
    pieces: List[Tuple[int, int]] = []
    first = 0
    for number, doc in enumerate(docs):
        for window in cut_windows(len(doc), _MOST_TOKENS, quality=_cut_quality(doc)):
            places.append((number, window.start))
            pieces.append((first + window.start, first + window.end))
        first += len(doc)
    device = scores.emissions.device
    starts = crf.allowed_starts(scores.emissions.shape[1] // 2).to(device)
    for bucket in length_buckets([end - start for start, end in pieces], _BATCH_TOKENS):
        chosen = [pieces[i] for i in bucket]
        index = numpy.zeros((len(chosen), max(end - start for start, end in chosen)), dtype="i8")
        for row, (start, end) in enumerate(chosen):
            index[row, : end - start] = numpy.arange(start, end)
        where = torch.from_numpy(index).to(device)
        lengths = torch.tensor([end - start for start, end in chosen], device=device)
        potentials = crf.Potentials(scores.emissions[where], scores.starts, scores.transitions, lengths)
        allowed = None
        if possible is not None:
            allowed = possible[where]
            # Where an entity was cut, nothing is known of the first token.
            allowed[:, 0] |= ~(allowed[:, 0] & starts).any(dim=1, keepdim=True)
        yield _Batch(potentials, allowed, [places[i] for i in bucket])


def _cut_quality(doc: Doc) -> Optional[numpy.ndarray]:
    """How good it is to cut a long document before each token."""
    if len(doc) <= _MOST_TOKENS:
        return None
    attrs = doc.to_array([SENT_START, IS_PUNCT, ENT_IOB]).astype("i8")
    quality = numpy.full(len(doc), TOKEN, dtype="i1")
    quality[1:][attrs[:-1, 1] != 0] = PUNCTUATION
    quality[attrs[:, 0] == 1] = SENTENCE
    quality[attrs[:, 2] == 1] = INSIDE_TOKEN
    return quality


def _lowest(function: Callable[[float], float], low: float, high: float, *, rounds: int = 40) -> float:
    """Where a function of one number with one valley is lowest, by golden section."""
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(rounds):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
