"""A torch module inside a thinc model: thinc's own shim, with safetensors instead of pickles."""

from contextlib import contextmanager
from copy import deepcopy
from threading import Lock
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy
import safetensors.torch
import torch
from thinc.api import Optimizer, PyTorchShim, get_torch_default_device, torch2xp, xp2torch

from beto_spacy.errors import EncoderError


class _WithoutOneDNN:
    """Has torch do without oneDNN for as long as a context lasts, or several that threads are in at once.

    It keeps what it prepared for each of a thousand shapes of late; with texts, each batch has another, and a long
    stream grows. Of our layers only GELU would go that way; without, it takes half as long again, 1% of a layer.
    """

    def __init__(self) -> None:
        self._lock, self._n_inside, self._before = Lock(), 0, True

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                self._before = torch.backends.mkldnn.enabled
                torch.backends.mkldnn.enabled = False
            self._n_inside += 1

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._n_inside -= 1
            if not self._n_inside:
                torch.backends.mkldnn.enabled = self._before


_without_onednn = _WithoutOneDNN()


#: Bytes from which it pays to pin what goes to a GPU; CUDA takes less along without waiting.
_PINNED = 1 << 16
#: How many times as much of a head's work a GPU does at once: there each call costs, not what it keeps in a cache.
_MORE_ON_GPU = 8


def at_once(number: int, device: torch.device) -> int:
    """How much is worked on at once on a device, given what suits a CPU."""
    return number * _MORE_ON_GPU if device.type == "cuda" else number


def to_device(array: numpy.ndarray, device: torch.device) -> torch.Tensor:
    """An array as a tensor on a device. A GPU fetches a large one while the processor goes on."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda" and array.nbytes >= _PINNED:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def _clipped(gradients: List[torch.Tensor], optimizer: Optimizer) -> Iterator[None]:
    """Clip gradients by their common norm; the optimizer clips none of them by itself as long as this lasts."""
    limit = getattr(optimizer, "grad_clip", 0.0)
    if not limit or not gradients:
        yield
        return
    factor = limit / torch.nn.utils.get_total_norm(gradients).clamp_min(limit)
    for gradient in gradients:
        gradient.mul_(factor)
    optimizer.grad_clip = 0.0
    try:
        yield
    finally:
        optimizer.grad_clip = limit


class TorchShim(PyTorchShim):
    """Holds a torch module, updates its weights with a thinc optimizer, and saves them as safetensors.

    model: The module, or None until it's set with `set_module`.
    learn_rate_factor: The optimizer's rate is multiplied by it. A head with random weights learns faster than the
        pretrained encoder it reads.
    """

    def __init__(self, model: Any = None, *, learn_rate_factor: float = 1.0):
        super().__init__(model)
        self.learn_rate_factor = learn_rate_factor

    def set_module(self, module: Any) -> None:
        """Put a module in, on the device that thinc's current ops stand for."""
        self._model = module.to(get_torch_default_device())

    def __call__(self, inputs: Any, is_train: bool) -> Tuple[Any, Callable[..., Any]]:
        """Run the module. Returns what it gave, and a callback for the gradients of that."""
        if is_train:
            return super().__call__(inputs, is_train)
        with _without_onednn:
            return super().__call__(inputs, is_train)

    def predict(self, inputs: Any) -> Any:
        """Run the module in evaluation, and leave it so: another thread may be in it, and dropout is for training."""
        if self._model.training:
            self._model.eval()
        with torch.no_grad():
            return self._model(*inputs.args, **inputs.kwargs)

    def named_parameters(self) -> Iterator[Tuple[str, Any]]:
        """The module's weights by name; none if there is no module yet."""
        return iter(()) if self._model is None else self._model.named_parameters()

    def finish_update(self, optimizer: Optimizer) -> None:
        """Update the weights with the gradients since the last update.

        The gradients are clipped together: ``grad_clip`` of the optimizer bounds the norm of all the module's
        gradients, not that of each weight matrix, so their directions stay as they are.
        """
        updated = [(name, p) for name, p in self.named_parameters() if p.grad is not None]
        if not self._grad_scaler.found_inf:
            with _clipped([p.grad for _, p in updated], optimizer):
                for name, parameter in updated:
                    weights, _ = optimizer(
                        (self.id, name),
                        torch2xp(parameter.data),
                        torch2xp(parameter.grad),
                        lr_scale=self.learn_rate_factor,
                    )
                    self._set_weights(parameter, weights)
        for _, parameter in updated:
            parameter.grad.zero_()
        self._grad_scaler.update()

    @staticmethod
    def _set_weights(parameter: torch.Tensor, weights: Any) -> None:
        """Set a parameter to what an optimizer made of its weights, which most do in place.

        A tensor made of that array would hold the array, which holds the tensor that it was made of: one more each
        update, between whose places in memory the room for activations no longer fits.
        """
        new = xp2torch(weights, device=parameter.device)
        if new.data_ptr() != parameter.data_ptr():
            parameter.data.copy_(new)

    @contextmanager
    def use_params(self, params: Dict[Any, Any]) -> Iterator[None]:
        """Take weights from an optimizer's averages for as long as the context lasts.

        params: Arrays by shim's id and weight's name.
        """
        before = [
            (p, p.data, params[self.id, name]) for name, p in self.named_parameters() if (self.id, name) in params
        ]
        for parameter, _, average in before:
            parameter.data = xp2torch(average, device=parameter.device)
        try:
            yield
        finally:
            for parameter, data, _ in before:
                parameter.data = data

    def copy(self) -> "TorchShim":
        """Copy the module; to an optimizer, the copy's weights are others."""
        copied = deepcopy(self)
        copied.id = TorchShim().id
        return copied

    def to_bytes(self) -> bytes:
        """The weights as the contents of a safetensors file; nothing if there is no module yet."""
        if self._model is None:
            return b""
        return safetensors.torch.save({name: t.contiguous().cpu() for name, t in self._model.state_dict().items()})

    def from_bytes(self, bytes_data: bytes) -> "TorchShim":
        """Load what `to_bytes` gave into the module, which must have its shape already.

        Raises EncoderError if a weight is missing, left over or of another shape.
        """
        if bytes_data:
            try:
                self._model.load_state_dict(safetensors.torch.load(bytes_data))
            except Exception as error:
                raise EncoderError(
                    "B340",
                    f"The weights don't fit the component ({str(error).splitlines()[0]}).",
                    "Load them with the config and the labels that they were saved with.",
                ) from error
        return self
