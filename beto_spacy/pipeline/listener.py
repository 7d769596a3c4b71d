"""How a head reads the shared encoder: spacy-transformers' listener, with a guard, and its stand-alone replacement.

The listener itself is spacy-transformers'. Left alone, it hands zeros to its head when no transformer ran, and the
head makes annotation of them; the guard makes that an error.
"""

from typing import Any, Callable, List, Optional, Tuple

from spacy.tokens import Doc
from spacy_transformers import install_extensions
from spacy_transformers.architectures import transformer_listener_tok2vec_v1
from spacy_transformers.layers import TransformerListener, split_trf_batch, trfs2arrays
from thinc.api import Model, chain
from thinc.types import Floats2d, Ragged

from beto_spacy.errors import EncoderError
from beto_spacy.memory import give_back_memory
from beto_spacy.pipeline.encoder import make_encoder


def make_listener(
    pooling: Model[Ragged, Floats2d], grad_factor: float = 1.0, upstream: str = "*"
) -> Model[List[Doc], List[Floats2d]]:
    """Build ``beto_spacy.Listener.v1``: the token vectors of a shared `beto_transformer`.

    pooling: How the vectors of a token's wordpieces become one, such as ``reduce_mean.v1``.
    grad_factor: Factor on the gradient that this head sends to the encoder; 0 leaves the encoder alone.
    upstream: Name of the transformer component to listen to; ``*`` for any.
    Raises EncoderError in prediction when no transformer ran over the documents, or another one over its features, or
        when they have other tokens by now.
    """
    install_extensions()
    reader = transformer_listener_tok2vec_v1(pooling, grad_factor, upstream)
    model = _make_model(reader)
    model.set_ref("listener", reader.get_ref("listener"))
    model.set_ref("pooling", pooling)
    return model


def _make_model(reader: Model) -> Model[List[Doc], List[Floats2d]]:
    return Model("beto-listener", _forward, init=_init, layers=[reader], dims={"nO": None}, attrs={"in_use": False})


def _init(model: Model, X: Any = None, Y: Any = None) -> None:
    model.attrs["in_use"] = False  # it may have been in use before
    model.layers[0].initialize(X=X, Y=Y)


def _forward(model: Model, docs: List[Doc], is_train: bool) -> Tuple[List[Floats2d], Callable]:
    reader = model.layers[0]
    if not is_train:
        give_back_memory()  # what the head before left
    # After nlp.replace_listeners the head has an encoder of its own, and needs none upstream.
    listener = next((node for node in reader.walk() if isinstance(node, TransformerListener)), None)
    features = [doc._.trf_data for doc in docs] if listener is not None else []
    missing = not is_train and any(data is None for data in features)
    if not missing:
        model.attrs["in_use"] = True
    elif model.attrs["in_use"]:  # else the head is being initialized, and infers its shapes from zeros
        raise EncoderError(
            "B321",
            f"A component needs the features of the transformer '{listener.upstream_name}', which did not run.",
            "Don't exclude or disable the transformer, keep it before the components that read it, and keep "
            "'doc_cleaner' after them; in training, name it in 'annotating_components' if such a component is.",
        )
    if listener is not None and not missing and not (is_train and listener._batch_id is not None):
        for doc, data in zip(docs, features):
            writers = getattr(data, "written_by", ())
            if listener.upstream_name in writers[:-1]:
                raise EncoderError(
                    "B326",
                    f"The features of the transformer '{listener.upstream_name}' were replaced by those of "
                    f"'{writers[-1]}' before a component read them.",
                    "Put each transformer right before the components that read it.",
                )
            if len(data.align.lengths) != len(doc):
                raise EncoderError(
                    "B334",
                    f"A document has {len(doc)} tokens, and had {len(data.align.lengths)} when the transformer "
                    f"'{listener.upstream_name}' read it.",
                    "Put a component that merges or splits tokens after all that read the transformer, or before it.",
                )
    if listener is not None and not missing and not is_train and not _has_weights(model.get_ref("pooling")):
        places = [getattr(data, "shared", None) for data in features]
        if all(place is not None or not len(doc) for place, doc in zip(places, docs)):
            return _pooled_once(model, places), _no_backprop
    return reader(docs, is_train)


def _has_weights(layer: Model) -> bool:
    return any(node.param_names or node.shims for node in layer.walk())


def _pooled_once(model: Model, places: List[Any]) -> List[Floats2d]:
    """Token vectors that all heads with the same pooling share."""
    pooling = model.get_ref("pooling")
    together = {id(place[0]): place[0] for place in places if place is not None}
    if len(together) == 1 and all(place is not None for place in places):
        shared = next(iter(together.values()))
        return shared.tokens([place[1] for place in places], pooling)
    empty = model.ops.alloc2f(0, 0)
    return [empty if place is None else place[0].tokens([place[1]], pooling)[0] for place in places]


def _no_backprop(gradients: Any) -> Any:
    raise NotImplementedError  # in prediction only


def make_encoder_tok2vec(
    name: str,
    pooling: Model[Ragged, Floats2d],
    window: Optional[int] = None,
    context: int = 0,
    batch_wordpieces: Optional[int] = None,
    precision: str = "fp32",
    attention_dropout: Optional[float] = None,
    gradient_checkpointing: bool = False,
    mask_rate: float = 0.0,
    grad_factor: float = 1.0,
) -> Model[List[Doc], List[Floats2d]]:
    """Build ``beto_spacy.EncoderTok2Vec.v1``: the token vectors of an encoder that the head has for itself.

    It is what `nlp.replace_listeners` puts in the place of a listener. Arguments as in `make_encoder` and
    `make_listener`.
    """
    encoder = make_encoder(
        name, window, context, batch_wordpieces, precision, attention_dropout, gradient_checkpointing, mask_rate
    )
    reader = chain(chain(encoder, split_trf_batch()), trfs2arrays(pooling, grad_factor))
    return _make_model(reader)
