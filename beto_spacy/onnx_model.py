"""An encoder in ONNX Runtime, its matrices in 8-bit integers: for prediction on the CPU.

Numbers between the layers are quantized as they come (dynamic quantization), weights once, by output channel. No spaCy
here; `checkpoint.py` loads and saves such an encoder like any other, `quantize.py` makes one of a trained pipeline.
"""

import contextlib
import io
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch

from .errors import EncoderError

#: The graph's file, where the weights of other encoders are in ``model.safetensors``.
ONNX_FILE = "model.onnx"
_INPUTS = ("input_ids", "attention_mask")
_OUTPUT = "last_hidden_state"
#: Sessions that a forked process has from its parent. To close one would wait for threads that only the parent has.
_INHERITED: List[Any] = []


class OnnxOutput(NamedTuple):
    """What an encoder gives. *Shape:* (n_sequences, length, width)"""

    last_hidden_state: torch.Tensor


class OnnxModel:
    """An encoder that is called like a torch module; it predicts only, on the CPU.

    config: The configuration of the encoder, as transformers has it.
    graph: The contents of the ONNX file.
    """

    def __init__(self, config: Any, graph: bytes):
        self.config = config
        self.graph = graph
        self._session: Any = None
        self._opened_for = (0, 0)  # the process, and how many threads it had

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> OnnxOutput:
        """input_ids, attention_mask: int64. *Shape:* (n_sequences, length)"""
        if self._session is None or self._opened_for != (os.getpid(), torch.get_num_threads()):
            self._open()
        found = self._session.run([_OUTPUT], {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()})
        return OnnxOutput(torch.from_numpy(found[0]))

    def _open(self) -> None:
        runtime = _import("onnxruntime")
        if self._session is not None and self._opened_for[0] != os.getpid():
            _INHERITED.append(self._session)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._opened_for = (os.getpid(), options.intra_op_num_threads)
        options.log_severity_level = 3
        # Threads that spin while they wait for work take the time of the heads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EncoderError(
                "B345",
                f"ONNX Runtime can't read the encoder ({str(error).splitlines()[0]}).",
                "Quantize the pipeline again with this version of onnxruntime.",
            ) from error

    def eval(self) -> "OnnxModel":
        """It predicts only, so there is nothing to change."""
        return self

    def train(self, mode: bool = True) -> "OnnxModel":
        """Raises EncoderError: it can't be trained."""
        raise EncoderError(
            "B346",
            "An encoder in 8-bit integers can't be trained.",
            "Train the pipeline that it was made of, and quantize that; or freeze the transformer and name it in "
            "'annotating_components'.",
        )

    def to(self, device: Any) -> "OnnxModel":
        """Raises EncoderError for a GPU."""
        if torch.device(device).type != "cpu":
            raise EncoderError(
                "B347",
                "An encoder in 8-bit integers runs on the CPU only.",
                "Call spacy.require_cpu() before the pipeline is loaded, or load the one that it was made of.",
            )
        return self

    def parameters(self) -> Iterator[torch.Tensor]:
        """None: an optimizer has nothing to change."""
        return iter(())

    def named_parameters(self) -> Iterator[Any]:
        """None, likewise."""
        return iter(())

    def save_pretrained(self, folder: Path, **settings: Any) -> None:
        """Write ``config.json`` and the graph."""
        self.config.save_pretrained(folder)
        (Path(folder) / ONNX_FILE).write_bytes(self.graph)

    def __getstate__(self) -> Dict[str, Any]:
        """A copy, also in another process, opens the graph for itself."""
        return {**self.__dict__, "_session": None}


def _import(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise EncoderError(
            "B348", f"The package '{name.split('.')[0]}' isn't there.", "Install it: pip install 'beto-spacy[onnx]'."
        ) from error


def check_packages() -> None:
    """Raise EncoderError if a package is missing that `Int8Exporter` wants."""
    for name in ("onnx", "onnxruntime.quantization", "onnxruntime.transformers.optimizer"):
        _import(name)


class _Exported(torch.nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class Int8Exporter:
    """Writes a torch encoder as a fused ONNX graph, and that in 8-bit integers.

    model: The torch module of an encoder, on the CPU.
    """

    def __init__(self, model: Any):
        check_packages()
        self.config = model.config
        self._folder = tempfile.TemporaryDirectory()
        self._fused = Path(self._folder.name) / "fused.onnx"
        with _quiet():
            self._export(model)

    def _export(self, model: Any) -> None:
        from onnxruntime.transformers import optimizer
        from onnxruntime.transformers.fusion_options import FusionOptions

        plain = Path(self._folder.name) / "plain.onnx"
        attention, training = model.config._attn_implementation, model.training
        model.config._attn_implementation = "eager"  # the pattern that is fused
        ids = torch.full((2, 8), 5)
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        axes = {name: {0: "sequences", 1: "length"} for name in (*_INPUTS, _OUTPUT)}
        try:
            torch.onnx.export(
                _Exported(model).eval(),
                (ids, mask),
                str(plain),
                input_names=list(_INPUTS),
                output_names=[_OUTPUT],
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
        finally:
            model.config._attn_implementation = attention
            model.train(training)
        fused = optimizer.optimize_model(
            str(plain),
            model_type="bert",
            num_heads=self.config.num_attention_heads,
            hidden_size=self.config.hidden_size,
            optimization_options=FusionOptions("bert"),
            opt_level=0,
        )
        fused.save_model_to_file(str(self._fused))

    def matrices(self) -> List[str]:
        """The names of the graph's nodes that can be quantized, in their order."""
        import onnx

        graph = onnx.load(str(self._fused), load_external_data=False).graph
        constant = {tensor.name for tensor in graph.initializer}
        kinds = ("MatMul", "Attention", "Gemm")
        return [n.name for n in graph.node if n.op_type in kinds and any(i in constant for i in n.input)]

    def quantized(self, kept: Sequence[str] = (), only: Optional[Sequence[str]] = None) -> OnnxModel:
        """The encoder in 8-bit integers.

        kept: Nodes that stay as they are.
        only: If given, the only nodes that don't.
        """
        from onnxruntime.quantization import QuantType, quantize_dynamic

        dest = Path(self._folder.name) / "int8.onnx"
        with _quiet():
            quantize_dynamic(
                str(self._fused),
                str(dest),
                op_types_to_quantize=["MatMul", "Attention", "Gemm", *([] if only else ["EmbedLayerNormalization"])],
                nodes_to_exclude=list(kept),
                nodes_to_quantize=None if only is None else list(only),
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True, "DefaultTensorType": 1},
            )
        return OnnxModel(self.config, dest.read_bytes())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters and optimizers talk; what matters is said by the one who calls them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
