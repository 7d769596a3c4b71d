"""The thinc glue of our heads: a torch module that reads the token vectors of documents.

A head's module turns the vectors of all tokens, in a row, into one tensor or several; what these mean is the head's own
business. Its loss is computed on them in torch, and their gradients come back the same way. Nothing leaves the device.
"""

from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import torch
from spacy.tokens import Doc
from thinc.api import ArgsKwargs, Model, chain, torch2xp, xp2torch
from thinc.types import Floats2d

from ..torch_shim import TorchShim


class Outputs(NamedTuple):
    """What a module gave for some documents, or the gradients of that.

    tensors: On the device of the model, detached.
    lengths: Tokens of each document.
    """

    tensors: Tuple[torch.Tensor, ...]
    lengths: List[int]


def make_torch_layer(
    name: str,
    tok2vec: Model[List[Doc], List[Floats2d]],
    build: Callable[[int, int], torch.nn.Module],
    *,
    learn_rate_factor: float = 1.0,
    takes_lengths: bool = False,
) -> Model[List[Doc], Outputs]:
    """Put a torch module on top of token vectors.

    name: Of the layer.
    tok2vec: The token vectors, such as ``beto_spacy.Listener.v1``.
    build: Makes the module, of a width of vectors and a number of classes. The module takes vectors, *shape:*
        (n_tokens, width), and gives a tuple of tensors.
    learn_rate_factor: The optimizer's rate is multiplied by it for this head.
    takes_lengths: The module also takes the number of tokens of each document. *Shape:* (n_documents,)
    """
    layer: Model[List[Floats2d], Outputs] = Model(
        name,
        _forward,
        init=_init,
        dims={"nI": None, "nO": None},
        attrs={"build": build, "takes_lengths": takes_lengths},
        shims=[TorchShim(learn_rate_factor=learn_rate_factor)],
    )
    model = chain(tok2vec, layer)
    model.set_ref("tok2vec", tok2vec)
    model.set_ref("output_layer", layer)
    return model


def build_module(layer: Model, width: int, n_classes: int) -> None:
    """Give a layer its module, of the sizes that are known now."""
    layer.set_dim("nI", width, force=True)
    layer.set_dim("nO", n_classes, force=True)
    layer.shims[0].set_module(layer.attrs["build"](width, n_classes))


def _init(model: Model, X: Optional[List[Floats2d]] = None, Y: Any = None) -> None:
    if X is not None and model.has_dim("nO"):
        build_module(model, X[0].shape[1], model.get_dim("nO"))


def _forward(
    model: Model[List[Floats2d], Outputs], X: List[Floats2d], is_train: bool
) -> Tuple[Outputs, Callable[[Outputs], List[Floats2d]]]:
    lengths = [len(x) for x in X]
    rows = getattr(X, "rows", None)  # token vectors that lie together already
    vectors = xp2torch(model.ops.flatten(X) if rows is None else rows, requires_grad=is_train)
    inputs: Tuple[torch.Tensor, ...] = (vectors,)
    if model.attrs["takes_lengths"]:
        inputs = (vectors, torch.tensor(lengths, device=vectors.device))
    outputs, backprop_torch = model.shims[0](ArgsKwargs(inputs, {}), is_train)

    def backprop(gradients: Outputs) -> List[Floats2d]:
        kept = [(output, d) for output, d in zip(outputs, gradients.tensors) if output.requires_grad]
        tensors, d_tensors = zip(*kept)
        d_inputs = backprop_torch(ArgsKwargs((tensors,), {"grad_tensors": d_tensors}))
        return model.ops.unflatten(torch2xp(d_inputs.args[0]), lengths)

    return Outputs(tuple(tensor.detach() for tensor in outputs), lengths), backprop
