"""Categories of a text: `beto_textcat`, exclusive or several at once.

The probabilities are softmax or sigmoid scores of one pooled vector a document, with a temperature; of categories that
don't exclude one another, each has a threshold of its own. Both are chosen on development data by `calibrate`. A
document that says nothing of a label teaches nothing about it, and isn't scored for it.
"""

from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import numpy
import torch
import torch.nn.functional as F
from spacy.language import Language
from spacy.scorer import Scorer
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model
from thinc.types import Floats2d

from beto_spacy.errors import CorpusError
from beto_spacy.pipeline.divergence import binary_divergence, categorical_divergence
from beto_spacy.pipeline.head import TorchHead, default_model, lowest
from beto_spacy.pipeline.layer import Outputs, blank_tokens, document_lengths, make_torch_layer, word_tokens

POOLINGS = ("first", "mean", "attention")
_DEFAULT_MODEL = default_model("beto_spacy.TextCat.v1", pooling="mean", dropout=0.1)


class PooledScores(torch.nn.Module):
    """A number for each document and class, from one vector a document.

    All are zero at first: random numbers would change the encoder's vectors before any of them means something (Kumar
    et al. 2022), which tells in a long training. Such a head wants a higher rate than the encoder's.

    width: Of the token vectors.
    n_classes: How many numbers.
    pooling: What that vector is: the ``first`` word's, the ``mean`` of all, or their mean with weights that are
        learned (``attention``: one query, Yang et al. 2016). White space is no word.
    dropout: Of the pooled vector, in training.
    """

    def __init__(self, width: int, n_classes: int, *, pooling: str, dropout: float):
        super().__init__()
        self.pooling = pooling
        self.dropout = torch.nn.Dropout(dropout)
        self.linear = torch.nn.Linear(width, n_classes)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)
        if pooling == "attention":
            self.attention = torch.nn.Linear(width, 1)

    def forward(self, vectors: torch.Tensor, lengths: torch.Tensor, is_word: torch.Tensor) -> Tuple[torch.Tensor]:
        """vectors: Of the tokens of all documents. *Shape:* (n_tokens, width). lengths: Tokens of each document.
        is_word: Which tokens are no white space. *Shape:* (n_tokens,)

        Returns a tuple of one tensor. *Shape:* (n_documents, n_classes)
        """
        return (self.linear(self.dropout(self._pool(vectors, lengths, is_word))),)

    def _pool(self, vectors: torch.Tensor, lengths: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        pooled = vectors.new_zeros((len(lengths), vectors.shape[1]))
        document = torch.repeat_interleave(torch.arange(len(lengths), device=vectors.device), lengths)
        if self.pooling == "first":
            places = torch.arange(len(vectors), device=vectors.device).masked_fill(~is_word, len(vectors))
            first = places.new_full((len(lengths),), len(vectors)).scatter_reduce(0, document, places, "amin")
            filled = torch.nonzero(first < len(vectors))[:, 0]
            return pooled.index_copy(0, filled, vectors[first[filled]])
        if self.pooling == "mean":
            weights = is_word.to(vectors.dtype)
        else:
            energies = self.attention(vectors)[:, 0].masked_fill(~is_word, -torch.inf)
            highest = energies.new_full((len(lengths),), torch.finfo(energies.dtype).min)
            highest = highest.scatter_reduce(0, document, energies.detach(), "amax")
            weights = (energies - highest[document]).exp()
        total = weights.new_zeros(len(lengths)).index_add(0, document, weights)
        weights = weights / total.masked_fill(total == 0, 1.0)[document]
        return pooled.index_add(0, document, vectors * weights[:, None])


def make_pooled_scores(
    tok2vec: Model[List[Doc], List[Floats2d]],
    pooling: str = "mean",
    dropout: float = 0.1,
    learn_rate_factor: float = 1.0,
) -> Model[List[Doc], Outputs]:
    """Build ``beto_spacy.TextCat.v1``: numbers for each document and category.

    tok2vec: The token vectors, such as ``beto_spacy.Listener.v1``.
    pooling: ``first``, ``mean`` or ``attention``; see `PooledScores`.
    dropout: Of the pooled vector, in training.
    learn_rate_factor: The optimizer's rate is multiplied by it for this head.
    """
    if pooling not in POOLINGS:
        raise CorpusError("B232", f"There is no pooling '{pooling}'.", f"Set it to one of {', '.join(POOLINGS)}.")
    build = partial(PooledScores, pooling=pooling, dropout=dropout)
    return make_torch_layer(
        "beto-textcat", tok2vec, build, learn_rate_factor=learn_rate_factor, also=_lengths_and_words
    )


def _lengths_and_words(docs: Sequence[Doc]) -> Tuple[numpy.ndarray, numpy.ndarray]:
    return document_lengths(docs), word_tokens(docs)


def _has_words(doc: Doc) -> bool:
    return not blank_tokens(doc).all()


def _is_annotated(cats: Dict[str, float], labels: Iterable[str], exclusive: bool) -> bool:
    """Whether gold categories say anything about these labels; exclusive ones need a positive one."""
    return any(cats.get(label) if exclusive else label in cats for label in labels)


def make_textcat_scorer(exclusive: bool = True) -> Callable[..., Dict[str, Any]]:
    """Build ``beto_spacy.textcat_scorer.v1``: spaCy's scores of categories, over the annotated documents only.

    exclusive: Whether exactly one label applies to each text.
    RETURNS: A function of examples, `labels` and the settings of `Scorer.score_cats`; with `thresholds`, labels that
        don't exclude one another have one each. Documents without gold for these labels are left out (exclusive:
        without a positive one); labels of other components are ignored. With no annotated document at all there are
        no scores: an empty dict, not zeros.
    """
    return partial(_score, exclusive)


def _score(
    exclusive: bool,
    examples: Iterable[Example],
    *,
    labels: Iterable[str] = (),
    thresholds: Optional[Dict[str, float]] = None,
    **settings: Any,
) -> Dict[str, Any]:
    labels = list(labels)
    annotated = [example for example in examples if _is_annotated(example.reference.cats, labels, exclusive)]
    if not annotated:
        return {}
    if thresholds and not exclusive:
        all_of_them = {label: thresholds.get(label, settings.get("threshold", 0.5)) for label in labels}
        settings.update(getter=partial(_scaled_cats, all_of_them), threshold=0.5)
    return Scorer.score_cats(annotated, "cats", labels=labels, multi_label=not exclusive, **settings)


def _scaled_cats(thresholds: Dict[str, float], doc: Doc, attr: str) -> Dict[str, float]:
    """Categories with each label's threshold moved to one half, and all probabilities in the same order as before."""
    scaled = {}
    for label, p in doc.cats.items():
        t = min(max(thresholds.get(label, 0.5), 1e-9), 1 - 1e-9)  # other components' labels aren't scored
        scaled[label] = 0.5 * p / t if p < t else 0.5 + 0.5 * (p - t) / (1 - t)
    return scaled


@Language.factory(
    "beto_textcat",
    assigns=["doc.cats"],
    default_config={
        "model": _DEFAULT_MODEL,
        "exclusive": True,
        "threshold": 0.5,
        "class_weights": None,
        "label_smoothing": 0.0,
        "scorer": None,
    },
    default_score_weights={
        "cats_score": 1.0,
        "cats_score_desc": None,
        "cats_micro_p": None,
        "cats_micro_r": None,
        "cats_micro_f": None,
        "cats_macro_p": None,
        "cats_macro_r": None,
        "cats_macro_f": None,
        "cats_macro_auc": None,
        "cats_f_per_type": None,
    },
)
def make_beto_textcat(
    nlp: Language,
    name: str,
    model: Model,
    exclusive: bool,
    threshold: float,
    class_weights: Optional[Union[str, Dict[str, float]]],
    label_smoothing: float,
    scorer: Optional[Callable],
) -> "BetoTextCategorizer":
    """Build a `BetoTextCategorizer`.

    model: ``beto_spacy.TextCat.v1``.
    exclusive: Whether exactly one label applies to each text, or any number.
    threshold: Of labels that don't exclude one another, until `calibrate` has chosen one for each; 0 to 1.
    class_weights: How much a document counts in training: ``balanced`` for rare labels as much as frequent ones, or
        numbers by label; null for all the same. Without exclusion it's how much a document counts that has the label.
    label_smoothing: The part of the truth that is spread over all labels (Szegedy et al. 2016); 0 to 1.
    scorer: From `make_textcat_scorer`; null for the one that fits.
    """
    return BetoTextCategorizer(
        nlp.vocab,
        model,
        name,
        exclusive=exclusive,
        threshold=threshold,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        scorer=scorer,
    )


class BetoTextCategorizer(TorchHead):
    """Says how probable each category of a document is.

    ``doc.cats`` has the probability of each label, all zero for a document without words; ``doc._.categories`` the
    labels that apply, the most probable first: of exclusive ones the most probable, of others those at or above their
    thresholds.

    Labels of other components in `doc.cats` are ignored once the labels of this one are known, so give them to
    `initialize` when two categorizers share a corpus; else all categories seen are taken.

    vocab, model, name: As for any component.
    exclusive, threshold, class_weights, label_smoothing, scorer: See `make_beto_textcat`.
    """

    def __init__(
        self,
        vocab: Any,
        model: Model,
        name: str = "beto_textcat",
        *,
        exclusive: bool = True,
        threshold: float = 0.5,
        class_weights: Optional[Union[str, Dict[str, float]]] = None,
        label_smoothing: float = 0.0,
        scorer: Optional[Callable] = None,
    ):
        if not 0.0 <= threshold <= 1.0 or not 0.0 <= label_smoothing < 1.0:
            raise CorpusError(
                "B233",
                f"A threshold of {threshold} and a smoothing of {label_smoothing} can't be.",
                "Set both from 0 to 1.",
            )
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise CorpusError(
                "B234", f"There are no class weights '{class_weights}'.", "Set 'balanced', numbers by label, or null."
            )
        super().__init__(
            vocab,
            model,
            name,
            scorer or make_textcat_scorer(exclusive),
            exclusive=exclusive,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
        )
        self.cfg.update(threshold=threshold, thresholds={}, temperature=1.0, class_weights=None, positive_label=None)
        if not Doc.has_extension("categories"):
            Doc.set_extension("categories", default=None)

    @property
    def exclusive(self) -> bool:
        """Whether exactly one label applies to each text."""
        return self.settings["exclusive"]

    @property
    def thresholds(self) -> Dict[str, float]:
        """The least probability of each label that applies; none for exclusive labels."""
        common, own = self.cfg["threshold"], self.cfg["thresholds"]
        return {} if self.exclusive else {label: own.get(label, common) for label in self.labels}

    def n_classes(self) -> int:
        """One for each label."""
        return len(self.labels)

    def find_labels(self, example: Example) -> Iterable[str]:
        """The categories, whatever their values."""
        return example.reference.cats

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Optional[Language] = None,
        labels: Optional[Sequence[str]] = None,
        positive_label: Optional[str] = None,
    ) -> None:
        """Take the labels, shape the model, and count what class weights are made of.

        labels: The labels; by default all that the examples have, in alphabetical order.
        positive_label: Of two exclusive labels, the one whose F1 is the score.
        Raises CorpusError for fewer than two exclusive labels, or none; for weights or a positive label of others.
        """
        if labels is None:
            labels = sorted({label for example in get_examples() for label in example.reference.cats})
        if self.exclusive and len(labels) < 2:
            raise CorpusError(
                "B230",
                f"The categorizer '{self.name}' has {len(labels)} labels; exclusive ones are two or more.",
                "Train with a corpus that has categories, or take the component out of nlp.pipeline.",
            )
        weights = self.settings["class_weights"]
        strange = set(weights if isinstance(weights, dict) else ()) | ({positive_label} - {None})
        if strange - set(labels):
            raise CorpusError(
                "B235",
                f"'{self.name}' has no label '{min(strange - set(labels))}'.",
                f"Its labels are: {', '.join(labels)}.",
            )
        super().initialize(get_examples, nlp=nlp, labels=labels)
        self.cfg.update(thresholds={}, temperature=1.0, positive_label=positive_label, class_weights=None)
        if isinstance(weights, dict):
            self.cfg["class_weights"] = [float(weights.get(label, 1.0)) for label in self.labels]
        elif weights is not None:
            self.cfg["class_weights"] = self._balance(get_examples())

    def _balance(self, examples: Iterable[Example]) -> List[float]:
        """Weights that make all labels count the same; or, if they don't exclude one another, both answers of each."""
        n_yes, n_no = numpy.zeros(len(self.labels)), numpy.zeros(len(self.labels))
        for example in examples:
            truth = self._truth(example.reference)
            if truth is not None:
                n_yes += truth == 1
                n_no += truth == 0
        if self.exclusive:
            return (n_yes.sum() / (len(self.labels) * numpy.maximum(n_yes, 1))).tolist()
        return (numpy.maximum(n_no, 1) / numpy.maximum(n_yes, 1)).tolist()

    def _truth(self, doc: Doc) -> Optional[numpy.ndarray]:
        """1, 0, or NaN for what is missing, by label; None if nothing is annotated. Raises CorpusError for others."""
        exclusive = self.exclusive
        own = {label: doc.cats[label] for label in self.labels if label in doc.cats}
        if not _is_annotated(own, self.labels, exclusive):
            return None
        odd = [value for value in own.values() if value not in (0, 1)]
        if odd or (exclusive and sum(own.values()) > 1):
            yes = [label for label, value in own.items() if value]
            raise CorpusError(
                "B236",
                f"'{doc.text[:40]}' has {f'the value {odd[0]}' if odd else 'the categories ' + ', '.join(yes)}.",
                "Give each label 0 or 1, and only one of exclusive ones 1; or set 'exclusive' to false.",
            )
        missing = 0.0 if exclusive else numpy.nan
        return numpy.asarray([own.get(label, missing) for label in self.labels], dtype="f")

    def predict(self, docs: Iterable[Doc]) -> numpy.ndarray:
        """Say how probable each label of documents is. *Shape:* (n_documents, n_labels)"""
        docs = list(docs)
        if not any(len(doc) for doc in docs):
            return numpy.zeros((len(docs), len(self.labels)), dtype="f")
        scores = self.model.predict(docs).tensors[0] / self.cfg["temperature"]
        found = self._probabilities(scores).cpu().numpy()
        return found * numpy.asarray([_has_words(doc) for doc in docs])[:, None]

    def _probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.softmax(dim=1) if self.exclusive else scores.sigmoid()

    def set_annotations(self, docs: Iterable[Doc], scores: numpy.ndarray) -> None:
        """Set the probabilities, and the labels that apply."""
        own = set(self.labels)
        least = list(self.thresholds.values())
        for doc, row in zip(docs, scores.tolist()):
            doc.cats.update(zip(self.labels, row))
            if not _has_words(doc):
                applying: List[int] = []
            elif self.exclusive:
                applying = [int(numpy.argmax(row))]
            else:
                applying = sorted((i for i, p in enumerate(row) if p >= least[i]), key=lambda i: -row[i])
            others = [label for label in doc._.categories or () if label not in own]
            doc._.categories = others + [self.labels[i] for i in applying]

    def gold(self, example: Example) -> Optional[numpy.ndarray]:
        """1, 0, or NaN for what is missing, by label. None if nothing is annotated."""
        return self._truth(example.reference) if _has_words(example.predicted) else None

    def n_units(self, gold: numpy.ndarray) -> int:
        """Count documents."""
        return 1

    def n_soft_units(self, docs: Sequence[Doc]) -> int:
        """Count documents."""
        return len(docs)

    def loss(self, examples: Sequence[Example], outputs: Outputs, golds: Sequence[Any]) -> torch.Tensor:
        """The cross-entropy of what is annotated, summed over documents (and over labels without exclusion)."""
        scores = outputs.tensors[0]
        nothing = numpy.full(len(self.labels), numpy.nan, dtype="f")
        truth = numpy.stack([nothing if gold is None else gold for gold in golds])
        weights = self.cfg["class_weights"]
        return self._loss(
            scores,
            torch.from_numpy(truth).to(scores.device),
            weights=None if weights is None else torch.tensor(weights, device=scores.device),
            smoothing=self.settings["label_smoothing"],
        )

    def soft_loss(
        self, docs: Sequence[Doc], outputs: Outputs, targets: Outputs, temperature: float = 1.0
    ) -> torch.Tensor:
        """The divergence of the labels' probabilities, summed over documents (and over labels without exclusion)."""
        divergence = categorical_divergence if self.exclusive else binary_divergence
        filled = torch.tensor([_has_words(doc) for doc in docs], device=outputs.tensors[0].device)
        return divergence(outputs.tensors[0][filled], targets.tensors[0][filled], temperature).sum()

    def _loss(
        self,
        scores: torch.Tensor,
        truth: torch.Tensor,
        *,
        weights: Optional[torch.Tensor] = None,
        smoothing: float = 0.0,
    ) -> torch.Tensor:
        known = ~truth.isnan()
        if self.exclusive:
            rows = known.all(dim=1)
            answers = truth[rows].argmax(dim=1)
            return F.cross_entropy(scores[rows], answers, weight=weights, label_smoothing=smoothing, reduction="sum")
        goal = torch.where(known, truth, 0.0) * (1 - smoothing) + smoothing / 2
        losses = F.binary_cross_entropy_with_logits(scores, goal, pos_weight=weights, reduction="none")
        return (losses * known).sum()

    def calibrate(self, examples: Iterable[Example]) -> Dict[str, Any]:
        """Choose the temperature, and without exclusion the threshold of each label, on development data.

        The temperature is the one that makes the annotation most probable (Guo et al. 2017); a threshold the one with
        the best F1 of its label, half-way between two documents. A label that no document has keeps the common one.

        examples: Their predicted documents must carry what the model reads, such as the transformer's features.
        Returns ``temperature`` and ``thresholds``. Raises CorpusError if nothing is annotated.
        """
        kept = [(example.predicted, gold) for example in examples if (gold := self.gold(example)) is not None]
        if not kept:
            raise CorpusError(
                "B237", f"There are no categories to calibrate '{self.name}' with.", "Give a corpus that has them."
            )
        golds = numpy.stack([gold for _, gold in kept])
        scores = self.model.predict([doc for doc, _ in kept]).tensors[0].double()
        truth = torch.from_numpy(golds).to(scores.device, scores.dtype)
        log_temperature = lowest(lambda x: float(self._loss(scores / float(numpy.exp(x)), truth)), -1.5, 2.5)
        self.cfg["temperature"] = float(numpy.exp(log_temperature))
        chosen: Dict[str, Any] = {"temperature": self.cfg["temperature"]}
        if not self.exclusive:
            found = self._probabilities(scores / self.cfg["temperature"]).cpu().numpy()
            columns = zip(self.labels, found.T, golds.T)
            best = {label: _best_threshold(p[~numpy.isnan(g)], g[~numpy.isnan(g)] == 1) for label, p, g in columns}
            self.cfg["thresholds"] = {label: t for label, t in best.items() if t is not None}
            chosen["thresholds"] = self.cfg["thresholds"]
        return chosen


def _best_threshold(probabilities: numpy.ndarray, truth: numpy.ndarray) -> Optional[float]:
    """The threshold with the best F1, half-way between two probabilities; None if there is nothing to find.

    probabilities: Of one label. *Shape:* (n,). truth: Whether the label applies. *Shape:* (n,)
    """
    if not truth.any():
        return None
    order = numpy.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    n_right = numpy.cumsum(truth[order])
    f = 2 * n_right / (numpy.arange(1, len(ranked) + 1) + truth.sum())
    last = numpy.append(ranked[1:] < ranked[:-1], True)  # of documents that are as probable, all or none
    best = int(numpy.argmax(numpy.where(last, f, -1.0)))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)
