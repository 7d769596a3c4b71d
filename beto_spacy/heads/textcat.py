"""Exclusive categories of a text, for corpora of which only a part has them.

spaCy's exclusive text categorizer has no notion of missing: a document without categories teaches it that every label
is wrong, and counts against it in the scores. Here such a document teaches nothing and isn't scored. The model, the
prediction and the files on disk are spaCy's.

spaCy's own `textcat_multilabel` already treats an absent label as missing, in training and scoring, so there is no
multi-label categorizer of ours.
"""

from functools import partial
from typing import Any, Callable, Dict, Iterable, Optional, Tuple

import numpy
from spacy.language import Language
from spacy.pipeline import TextCategorizer
from spacy.pipeline.textcat import DEFAULT_SINGLE_TEXTCAT_MODEL
from spacy.scorer import Scorer
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from thinc.api import Model
from thinc.types import Floats2d

from ..errors import CorpusError


def _is_annotated(example: Example, labels: Iterable[str], exclusive: bool) -> bool:
    """Whether the gold document says anything about these labels; exclusive ones need a positive one."""
    cats = example.reference.cats
    return any(cats.get(label) if exclusive else label in cats for label in labels)


def make_textcat_scorer(exclusive: bool = True) -> Callable[..., Dict[str, Any]]:
    """Build ``beto_spacy.textcat_scorer.v1``: spaCy's scores of categories, over the annotated documents only.

    exclusive: Whether exactly one label applies to each text.
    RETURNS: A function of examples, `labels` and the settings of `Scorer.score_cats`. Documents without gold for these
        labels are left out (exclusive: without a positive one); labels of other components are ignored. With no
        annotated document at all there are no scores: an empty dict, not zeros.
    """

    return partial(_score, exclusive)


def _score(
    exclusive: bool, examples: Iterable[Example], *, labels: Iterable[str] = (), **settings: Any
) -> Dict[str, Any]:
    labels = list(labels)
    annotated = [example for example in examples if _is_annotated(example, labels, exclusive)]
    if not annotated:
        return {}
    return Scorer.score_cats(annotated, "cats", labels=labels, multi_label=not exclusive, **settings)


@Language.factory(
    "beto_textcat",
    assigns=["doc.cats"],
    default_config={
        "threshold": 0.0,
        "model": DEFAULT_SINGLE_TEXTCAT_MODEL,
        "scorer": {"@scorers": "beto_spacy.textcat_scorer.v1"},
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
    nlp: Language, name: str, model: Model, threshold: float, scorer: Optional[Callable]
) -> "BetoTextCategorizer":
    """Build a `BetoTextCategorizer`. The settings are those of spaCy's `textcat`.

    model: Model[List[Doc], Floats2d], one row a document and one column a label, exclusive.
    threshold: Unused, as in spaCy.
    scorer: From `make_textcat_scorer`.
    """
    return BetoTextCategorizer(nlp.vocab, model, name, threshold=threshold, scorer=scorer)


class BetoTextCategorizer(TextCategorizer):
    """spaCy's exclusive text categorizer, for which a text without a positive label among its own is *missing*.

    Labels of other components in `doc.cats` are ignored once the labels of this one are known, so give them to
    `initialize` when two categorizers share a corpus; else all categories seen are taken.
    """

    @property
    def support_missing_values(self) -> bool:
        return True

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Optional[Language] = None,
        labels: Optional[Iterable[str]] = None,
        positive_label: Optional[str] = None,
    ) -> None:
        """Take the labels and shape the model. Arguments and errors as in spaCy's `TextCategorizer.initialize`.

        Raises CorpusError B230 if fewer than two labels are given or seen.
        """
        if labels is None:
            # spaCy's rejects a text with two positive labels; which ones are ours is only known afterwards.
            labels = list(dict.fromkeys(label for example in get_examples() for label in example.reference.cats))
        labels = list(labels)
        if len(labels) < 2:
            raise CorpusError(
                "B230",
                f"The categorizer '{self.name}' has {len(labels)} labels; exclusive ones are two or more.",
                "Train with a corpus that has categories, or take the component out of nlp.pipeline.",
            )
        for label in labels:
            self.add_label(label)
        super().initialize(get_examples, nlp=nlp, labels=labels, positive_label=positive_label)

    def get_loss(self, examples: Iterable[Example], scores: Floats2d) -> Tuple[float, Floats2d]:
        """Squared error over the annotated documents, and its gradient, zero for all others.

        examples: The gold documents.
        scores: *Shape:* (documents, labels).
        RETURNS: The mean over annotated documents and labels, 0.0 if there are none; the gradient, *shape:* (documents,
            labels). A batch without annotation still has a gradient: where heads share an encoder, the last one to
            read it starts its update, so no head may skip a batch.
        """
        validate_examples(examples, "BetoTextCategorizer.get_loss")
        self._validate_categories(examples)
        truths, not_missing = self._examples_to_truth(examples)
        gradient = (scores - truths) * self.model.ops.asarray(not_missing)
        count = float(not_missing.sum())
        return float((gradient**2).sum()) / max(count, 1.0), gradient

    def _examples_to_truth(self, examples: Iterable[Example]) -> Tuple[Floats2d, numpy.ndarray]:
        examples = list(examples)
        truths = numpy.zeros((len(examples), len(self.labels)), dtype="f")
        not_missing = numpy.zeros((len(examples), len(self.labels)), dtype="f")
        for i, example in enumerate(examples):
            if _is_annotated(example, self.labels, True):
                not_missing[i] = 1.0
                truths[i] = [example.reference.cats.get(label, 0.0) for label in self.labels]
        return self.model.ops.asarray(truths), not_missing

    def _validate_categories(self, examples: Iterable[Example]) -> None:
        """Raise if a document has two labels of this component. Before there are labels, all count as its own."""

        def own(example: Example) -> Example:
            cats = example.reference.cats
            if not self.labels or not set(cats) - set(self.labels):
                return example
            doc = Doc(example.reference.vocab)
            doc.cats = {label: cats[label] for label in self.labels if label in cats}
            return Example(doc, doc)

        super()._validate_categories(map(own, examples))
