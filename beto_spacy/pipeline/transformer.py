"""The spaCy component `beto_transformer`: one encoder for all heads of a pipeline.

A subclass of spacy-transformers' component, so that its listeners, `doc._.trf_data` and configs keep working. What
differs: a whole buffer of documents goes to the encoder at once, so that batches are made of windows of similar
length; the encoder learns from every head that had something to learn, whichever that is; and the encoder is saved as
an ordinary Hugging Face folder (safetensors, no pickle).
"""

from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Union

import srsly
from spacy import util
from spacy.language import Language
from spacy.pipeline.pipe import deserialize_config
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from spacy_transformers import Transformer, install_extensions
from spacy_transformers.data_classes import FullTransformerBatch, TransformerData
from spacy_transformers.layers import TransformerListener
from thinc.api import Config, Model, Optimizer, set_dropout_rate

from beto_spacy.errors import EncoderError
from beto_spacy.memory import give_back_memory
from beto_spacy.pipeline.encoder import DocGradients, set_width
from beto_spacy.pipeline.vectors import refuse_vectors

DEFAULT_CONFIG = Config().from_str(
    """
[transformer]

[transformer.set_extra_annotations]
@annotation_setters = "spacy-transformers.null_annotation_setter.v1"

[transformer.model]
@architectures = "beto_spacy.Encoder.v1"
name = "dccuchile/bert-base-spanish-wwm-cased"
window = null
context = 0
batch_wordpieces = null
precision = "fp32"
attention_dropout = null
gradient_checkpointing = false
mask_rate = 0.0
"""
)


@Language.factory("beto_transformer", assigns=["doc._.trf_data"], default_config=DEFAULT_CONFIG["transformer"])
def make_beto_transformer(
    nlp: Language,
    name: str,
    model: Model[List[Doc], FullTransformerBatch],
    set_extra_annotations: Callable[[List[Doc], FullTransformerBatch], None],
) -> "BetoTransformer":
    """Build the component.

    model: The encoder, ``beto_spacy.Encoder.v1``.
    set_extra_annotations: Called with each buffer of documents and its features, after `doc._.trf_data` was set.
    """
    return BetoTransformer(nlp.vocab, model, set_extra_annotations, name=name)


@Language.factory("beto_doc_cleaner")
def make_doc_cleaner(nlp: Language, name: str) -> Callable[[Doc], Doc]:
    """Build what drops the features of a transformer, so that memory stays flat over a long stream.

    spaCy's `doc_cleaner` also takes away the document's tensor, without which it has no vectors and can't be cut.
    """
    install_extensions()
    return _drop_features


def _drop_features(doc: Doc) -> Doc:
    doc._.trf_data = None
    return doc


class BetoTransformer(Transformer):
    """Runs the encoder over documents and keeps the features at `doc._.trf_data` for the heads that listen.

    The features stay on the documents until they are dropped; end a pipeline with `beto_doc_cleaner` to drop them after
    their last reader.

    vocab: The pipeline's vocabulary.
    model: The encoder, ``beto_spacy.Encoder.v1``.
    set_extra_annotations: As in spacy-transformers.
    name: The component's name in the pipeline.
    """

    def __init__(self, vocab: Any, model: Model, set_extra_annotations: Callable, *, name: str = "transformer"):
        super().__init__(vocab, model, set_extra_annotations, name=name)
        self.cfg = {}
        self._pending: Optional[_PendingUpdate] = None

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of documents, `batch_size` of them in one run of the encoder."""
        install_extensions()
        for buffer in util.minibatch(stream, batch_size):
            docs = list(buffer)
            self.set_annotations(docs, self.predict(docs))
            give_back_memory()
            yield from docs

    def set_annotations(self, docs: Iterable[Doc], predictions: FullTransformerBatch) -> None:
        """Keep the features on the documents, and with them the names of the transformers that wrote there, this last.

        Those that wrote before were overwritten; a listener that expects one of them can tell. `doc.vector` and the
        like raise until a component gives the documents vectors.
        """
        docs = list(docs)
        for doc, data in zip(docs, predictions.doc_data):
            before = getattr(doc._.trf_data, "written_by", ())
            data.written_by = (*(name for name in before if name != self.name), self.name)  # type: ignore[attr-defined]
            refuse_vectors(doc)
        super().set_annotations(docs, predictions)

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optional[Optimizer] = None,
        losses: Optional[Dict[str, float]] = None,
    ) -> Dict[str, float]:
        """Run the encoder for training and hand its features to the listeners.

        The gradients that the listeners send back are summed. They go into the encoder as soon as the last listener
        has answered or, where some head had nothing to learn from these examples and didn't answer, when the update
        is finished or the next one begins.

        examples: Only their predicted documents are used.
        drop: Has no effect on the encoder, whose own config sets its dropout.
        sgd: Given, the weights are updated as soon as the gradients are there.
        losses: The sum of the squared gradients is added, under the component's name.
        """
        examples = list(examples)
        validate_examples(examples, "BetoTransformer.update")
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        self._finish_pending()
        docs = [example.predicted for example in examples]
        if not any(len(doc) for doc in docs):
            return losses
        set_dropout_rate(self.model, drop)
        batch, backprop = self.model.begin_update(docs)
        pending = _PendingUpdate(self, backprop, len(self.listeners), sgd, losses)
        self._pending = pending
        batch_id = TransformerListener.get_batch_id(docs)
        for listener in self.listeners:
            listener.receive(batch_id, batch.doc_data, pending.add)
        return losses

    def finish_update(self, sgd: Optimizer) -> None:
        """Update the weights with the gradients so far."""
        self._finish_pending()
        self.model.finish_update(sgd)

    def _finish_pending(self) -> None:
        # Without gradients it goes on: nlp.update(sgd=...) finishes each component right after its own update.
        if self._pending is not None and self._pending.gradients:
            self._pending.finish()

    def initialize(self, get_examples: Callable[[], Iterable[Example]], *, nlp: Optional[Language] = None) -> None:
        """Load the encoder that the config names, and connect the listeners."""
        super().initialize(get_examples, nlp=nlp)
        self._set_width()

    def _set_width(self) -> None:
        set_width(self.model)
        for listener in self.listeners:
            if listener.has_dim("nO") is None:
                listener.set_dim("nO", self.model.get_dim("nO"))

    def to_disk(self, path: Union[str, Path], *, exclude: Iterable[str] = tuple()) -> None:
        """Save the component: its encoder is the Hugging Face folder ``encoder`` in it."""
        util.to_disk(
            path,
            {
                "cfg": lambda p: srsly.write_json(p, self.cfg),
                "vocab": lambda p: self.vocab.to_disk(p),
                "encoder": lambda p: self.model.shims[0].save_folder(Path(p)),
            },
            exclude,
        )

    def from_disk(self, path: Union[str, Path], *, exclude: Iterable[str] = tuple()) -> "BetoTransformer":
        """Load the component.

        Raises EncoderError if the encoder is missing, is another than the config's, or has a weight unset.
        """
        util.from_disk(
            path,
            {
                "vocab": self.vocab.from_disk,
                "cfg": lambda p: self.cfg.update(deserialize_config(p)),
                "encoder": lambda p: self.model.shims[0].load_folder(Path(p)),
            },
            exclude,
        )
        self._set_width()
        return self

    def to_bytes(self, *, exclude: Iterable[str] = tuple()) -> bytes:
        """Save the component to bytes."""
        return util.to_bytes(
            {
                "cfg": lambda: srsly.json_dumps(self.cfg),
                "vocab": lambda: self.vocab.to_bytes(exclude=exclude),
                "encoder": self.model.shims[0].to_bytes,
            },
            exclude,
        )

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = tuple()) -> "BetoTransformer":
        """Load the component from bytes."""
        util.from_bytes(
            bytes_data,
            {
                "cfg": lambda b: self.cfg.update(srsly.json_loads(b)),
                "vocab": lambda b: self.vocab.from_bytes(b, exclude=exclude),
                "encoder": self.model.shims[0].from_bytes,
            },
            exclude,
        )
        if self.model.shims[0]._model is not None:
            self._set_width()
        return self


class _PendingUpdate:
    """Gradients of one run of the encoder, from the listeners that have answered.

    pipe: The component.
    backprop: Takes the summed gradients to the encoder's weights.
    n_listeners: How many may answer.
    sgd: If given, updates the weights at the end.
    losses: Where the sum of the squared gradients goes.
    """

    def __init__(
        self,
        pipe: BetoTransformer,
        backprop: Callable[[DocGradients], Any],
        n_listeners: int,
        sgd: Optional[Optimizer],
        losses: Dict[str, float],
    ):
        self.pipe = pipe
        self.backprop: Optional[Callable[[DocGradients], Any]] = backprop
        self.n_awaited = n_listeners
        self.sgd = sgd
        self.losses = losses
        self.gradients: List[Any] = []

    def add(self, d_docs: List[TransformerData]) -> List[Doc]:
        """Called by a listener with its gradients, one for each document that has features.

        Returns nothing in a list: a layer beside the listener may want to add its own to it.
        """
        if self.pipe._pending is not self:
            raise EncoderError(
                "B322",
                f"A head answered the transformer '{self.pipe.name}' after its update was finished.",
                "Update the transformer before its heads, all with the same examples, and finish after all of them.",
            )
        arrays = [d_doc.model_output.last_hidden_state for d_doc in d_docs]
        self.losses[self.pipe.name] += sum(float((array**2).sum()) for array in arrays)
        if not self.gradients:
            self.gradients = arrays
        else:
            for total, array in zip(self.gradients, arrays):
                total += array
        self.n_awaited -= 1
        if self.n_awaited == 0:
            self.finish()
        return []

    def finish(self) -> None:
        """Take what has come to the encoder, and let go of the run: a listener that was silent still holds this."""
        self.pipe._pending = None
        backprop, gradients = self.backprop, self.gradients
        self.backprop, self.gradients = None, []
        if backprop is not None:
            backprop(DocGradients(gradients))
        if self.sgd is not None:
            self.pipe.model.finish_update(self.sgd)

    def __getstate__(self) -> Dict[str, Any]:
        """A copy of a pipeline does not go on with an update that is under way."""
        return {**self.__dict__, "backprop": None, "gradients": []}
