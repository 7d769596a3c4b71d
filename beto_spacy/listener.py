"""How a head reads the shared encoder: spacy-transformers' listener, with a guard, and its stand-alone replacement.

The listener itself is spacy-transformers'. Left alone, it hands zeros to its head when no transformer ran, and the
head makes annotation of them; the guard makes that an error.
"""

from typing import Callable, List, Optional, Tuple

from spacy.tokens import Doc
from spacy_transformers.architectures import transformer_listener_tok2vec_v1
from spacy_transformers.layers import TransformerListener, split_trf_batch, trfs2arrays
from thinc.api import Model, chain
from thinc.types import Floats2d, Ragged

from .encoder import make_encoder
from .errors import EncoderError


def make_listener(
    pooling: Model[Ragged, Floats2d], grad_factor: float = 1.0, upstream: str = "*"
) -> Model[List[Doc], List[Floats2d]]:
    """Build ``beto_spacy.Listener.v1``: the token vectors of a shared `beto_transformer`.

    pooling: How the vectors of a token's wordpieces become one, such as ``reduce_mean.v1``.
    grad_factor: Factor on the gradient that this head sends to the encoder; 0 leaves the encoder alone.
    upstream: Name of the transformer component to listen to; ``*`` for any.
    Raises EncoderError in prediction when no transformer ran over the documents.
    """
    reader = transformer_listener_tok2vec_v1(pooling, grad_factor, upstream)
    model: Model = Model("beto-listener", _forward, layers=[reader], dims={"nO": None}, attrs={"in_use": False})
    model.set_ref("listener", reader.get_ref("listener"))
    return model


def _forward(model: Model, docs: List[Doc], is_train: bool) -> Tuple[List[Floats2d], Callable]:
    reader = model.layers[0]
    # After nlp.replace_listeners the head has an encoder of its own, and needs none upstream.
    listener = next((node for node in reader.walk() if isinstance(node, TransformerListener)), None)
    missing = listener is not None and not is_train and any(doc._.trf_data is None for doc in docs)
    if not missing:
        model.attrs["in_use"] = True
    elif model.attrs["in_use"]:  # else the head is being initialized, and infers its shapes from zeros
        raise EncoderError(
            "B321",
            f"A component needs the features of the transformer '{listener.upstream_name}', which did not run.",
            "Don't exclude or disable the transformer, keep it before the components that read it, and keep "
            "'doc_cleaner' after them.",
        )
    return reader(docs, is_train)


def make_encoder_tok2vec(
    name: str,
    pooling: Model[Ragged, Floats2d],
    window: Optional[int] = None,
    context: int = 0,
    batch_wordpieces: int = 512,
    precision: str = "fp32",
    grad_factor: float = 1.0,
) -> Model[List[Doc], List[Floats2d]]:
    """Build ``beto_spacy.EncoderTok2Vec.v1``: the token vectors of an encoder that the head has for itself.

    It is what `nlp.replace_listeners` puts in the place of a listener. Arguments as in `make_encoder` and
    `make_listener`.
    """
    encoder = make_encoder(name, window, context, batch_wordpieces, precision)
    reader = chain(chain(encoder, split_trf_batch()), trfs2arrays(pooling, grad_factor))
    return Model("beto-listener", _forward, layers=[reader], dims={"nO": None}, attrs={"in_use": True})
