"""What our heads have in common as spaCy pipes: labels, shape, update and files.

A head states how many classes its labels make, what is annotated in an example, its loss, and what it can learn from
another that was trained; see `TorchHead`.
"""

from itertools import islice
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import srsly
import torch
from spacy import util
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.pipeline.pipe import deserialize_config
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from thinc.api import Model, Optimizer, set_dropout_rate

from beto_spacy.errors import CorpusError
from beto_spacy.pipeline.layer import Outputs, build_module


def default_model(architecture: str, **settings: Any) -> Dict[str, Any]:
    """The config of a head's model that reads the shared encoder, the mean of each token's wordpieces.

    architecture: Its registered name.
    settings: Its own.
    """
    listener = {
        "@architectures": "beto_spacy.Listener.v1",
        "grad_factor": 1.0,
        "pooling": {"@layers": "reduce_mean.v1"},
    }
    return {"@architectures": architecture, **settings, "learn_rate_factor": 1.0, "tok2vec": listener}


class TorchHead(TrainablePipe):
    """A pipe with a torch module on token vectors, made by `layer.make_torch_layer`.

    What a head must have: `n_classes`, `find_labels`, `gold` and `loss`; `soft_loss`, to be distilled; `predict` and
    `set_annotations`, as any pipe.

    settings: What the config of the pipeline says, and is not saved with the weights.
    """

    def __init__(self, vocab: Any, model: Model, name: str, scorer: Optional[Callable], **settings: Any):
        self.vocab, self.model, self.name, self.scorer = vocab, model, name, scorer
        self.settings = settings
        self.cfg: Dict[str, Any] = {"labels": [], "width": None}

    def n_classes(self) -> int:
        """How many classes the module has for these labels."""
        raise NotImplementedError

    def find_labels(self, example: Example) -> Iterable[str]:
        """The labels that an example has."""
        raise NotImplementedError

    def gold(self, example: Example) -> Any:
        """What is annotated, aligned with the predicted document; None if nothing is."""
        raise NotImplementedError

    def loss(self, examples: Sequence[Example], outputs: Outputs, golds: Sequence[Any]) -> torch.Tensor:
        """The loss of the module's outputs, a number, summed over what is annotated."""
        raise NotImplementedError

    def n_units(self, gold: Any) -> int:
        """Count the units that `loss` is summed over in one document: its tokens, unless a head says otherwise."""
        return len(gold)

    def n_soft_units(self, docs: Sequence[Doc]) -> int:
        """Count the units that `soft_loss` is summed over: tokens, unless a head says otherwise."""
        return sum(map(len, docs))

    def soft_loss(
        self, docs: Sequence[Doc], outputs: Outputs, targets: Outputs, temperature: float = 1.0
    ) -> torch.Tensor:
        """How far what the module's outputs stand for is from what a teacher's do, a number, summed like `loss`.

        docs: The documents, with the teacher's annotation.
        outputs, targets: Of the module, and of that of a teacher with the same labels.
        temperature: See `divergence.py`.
        """
        raise NotImplementedError

    @property
    def labels(self) -> Tuple[str, ...]:
        """The labels, in the order of the classes."""
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
            labels = sorted({label for example in get_examples() for label in self.find_labels(example)} - {""})
        self.cfg.update(labels=[], width=None)
        for label in labels:
            self.add_label(label)
        if not self.labels:
            raise CorpusError(
                "B243",
                f"The corpus has nothing for '{self.name}' to learn.",
                "Train with a corpus that has its layer, or take the component out of nlp.pipeline.",
            )
        docs = list(islice((example.x for example in get_examples() if len(example.x)), 10))
        layer = self.model.get_ref("output_layer")
        layer.set_dim("nO", self.n_classes(), force=True)
        self.model.initialize(X=docs)
        self.cfg["width"] = layer.get_dim("nI")

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optional[Optimizer] = None,
        losses: Optional[Dict[str, float]] = None,
    ) -> Dict[str, float]:
        """Learn from examples; those without annotation of this layer teach nothing.

        drop: Dropout of thinc's layers; the torch module has its own.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, f"{type(self).__name__}.update")
        golds = [self.gold(example) for example in examples]
        if all(gold is None for gold in golds):
            return losses
        set_dropout_rate(self.model, drop)
        outputs, backprop = self.model.begin_update([example.predicted for example in examples])
        loss, gradients = self.get_loss(examples, outputs, golds)
        backprop(gradients)
        if sgd is not None:
            self.finish_update(sgd)
        losses[self.name] += loss
        return losses

    def get_loss(
        self, examples: Sequence[Example], scores: Outputs, golds: Optional[Sequence[Any]] = None
    ) -> Tuple[float, Outputs]:
        """Compute the loss of what is annotated, summed, and the gradient of its mean.

        The mean makes the losses of all heads comparable, whatever they annotate and however much of a batch has it.
        """
        if golds is None:
            golds = [self.gold(example) for example in examples]
        n_units = max(1, sum(self.n_units(gold) for gold in golds if gold is not None))
        return _differentiate(lambda outputs: self.loss(examples, outputs, golds), scores, n_units)

    def get_soft_loss(
        self, docs: Sequence[Doc], scores: Outputs, targets: Outputs, *, temperature: float = 1.0, weight: float = 1.0
    ) -> Tuple[float, Outputs]:
        """Compute the summed loss of the outputs by a teacher's, and the gradient of its mean, both times a weight.

        docs, targets, temperature: See `soft_loss`.
        """
        n_units = max(1, self.n_soft_units(docs))
        return _differentiate(
            lambda outputs: weight * self.soft_loss(docs, outputs, targets, temperature), scores, n_units
        )

    # --- files ---

    def _shim(self) -> Any:
        return self.model.get_ref("output_layer").shims[0]

    def _set_cfg(self, cfg: Dict[str, Any]) -> None:
        """Take what was saved, and give the model the shape that it wants before its weights are loaded."""
        self.cfg.update(cfg)
        for label in self.labels:
            self.vocab.strings.add(label)
        if self.cfg["width"] is not None:
            build_module(self.model.get_ref("output_layer"), self.cfg["width"], self.n_classes())

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

    def from_disk(self, path: Union[str, Path], *, exclude: Iterable[str] = tuple()) -> "TorchHead":
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

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = tuple()) -> "TorchHead":
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


def _differentiate(loss_of: Callable[[Outputs], torch.Tensor], scores: Outputs, n_units: int) -> Tuple[float, Outputs]:
    """Compute a loss of a module's outputs, a sum over so many units, and the gradient of their mean."""
    leaves = tuple(tensor.detach().requires_grad_() for tensor in scores.tensors)
    loss = loss_of(Outputs(leaves, scores.lengths))
    gradients = [None] * len(leaves)
    if loss.requires_grad:  # it doesn't, where there are no words
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    filled = tuple(torch.zeros_like(leaf) if d is None else d / n_units for leaf, d in zip(leaves, gradients))
    return float(loss.detach()), Outputs(filled, scores.lengths)


def lowest(function: Callable[[float], float], low: float, high: float, *, rounds: int = 40) -> float:
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
