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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy
import torch

from beto_spacy.errors import EncoderError

#: The graph's file, where the weights of other encoders are in ``model.safetensors``.
ONNX_FILE = "model.onnx"
_INPUTS = ("input_ids", "attention_mask")
_OUTPUT = "last_hidden_state"
#: Wordpieces, padding included, that one thread computes at a time, or one sequence. Not by how many threads there are:
#: numbers are quantized by what is computed together, and the annotation shall be the same on any machine.
_PIECE = 256
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
        self._sessions: Dict[int, Any] = {}  # by how many threads each has
        self._process = 0  # that opened them

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> OnnxOutput:
        """input_ids, attention_mask: int64. *Shape:* (n_sequences, length)"""
        (found,) = self.predict([(input_ids.numpy(), attention_mask.numpy())])
        return OnnxOutput(found)

    def predict(self, batches: Iterable[Tuple[numpy.ndarray, numpy.ndarray]]) -> List[torch.Tensor]:
        """Run padded batches through the encoder, side by side.

        One thread for each piece of a batch wastes less than all threads on one piece after another, which wait for
        one another at each of the graph's nodes. They are together on it where there are fewer pieces than threads.

        batches: Ids and mask of each, int64. *Shape:* (n_sequences, length)
        Returns the hidden states of each. *Shape:* (n_sequences, length, width)
        """
        pieces: List[Dict[str, numpy.ndarray]] = []
        ends = []
        for batch in batches:
            n_sequences, length = batch[0].shape
            step = max(1, _PIECE // max(1, length))
            pieces += [
                dict(zip(_INPUTS, (array[first : first + step] for array in batch)))
                for first in range(0, n_sequences, step)
            ]
            ends.append(len(pieces))
        threads = torch.get_num_threads()
        together = len(pieces) < threads
        session = self._session(threads if together else 1)

        def run(piece: Dict[str, numpy.ndarray]) -> torch.Tensor:
            return torch.from_numpy(session.run([_OUTPUT], piece)[0])

        if together or threads == 1:
            found = list(map(run, pieces))
        else:
            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(run, pieces))
        return [torch.cat(found[first:last]) for first, last in zip([0, *ends], ends)]

    def _session(self, threads: int) -> Any:
        if self._process != os.getpid():
            _INHERITED.extend(self._sessions.values())
            self._sessions, self._process = {}, os.getpid()
        if threads not in self._sessions:
            self._sessions[threads] = self._open(threads)
        return self._sessions[threads]

    def _open(self, threads: int) -> Any:
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin while they wait for work take the time of the heads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return runtime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])
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
        return {**self.__dict__, "_sessions": {}}


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
        fusions = FusionOptions("bert")
        fusions.enable_bias_gelu = fusions.enable_bias_skip_layer_norm = False  # 8-bit matrices add biases themselves
        fused = optimizer.optimize_model(
            str(plain),
            model_type="bert",
            num_heads=self.config.num_attention_heads,
            hidden_size=self.config.hidden_size,
            optimization_options=fusions,
            opt_level=0,
        )
        _spell_out_norms(fused.model)
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


def _spell_out_norms(model: Any) -> None:
    """Replace each layer normalization of a graph by a normalization of its rows, a product and a sum.

    ONNX Runtime has vectorized those for the CPU, and takes them in a quarter of the time.

    model: The ONNX model; changed.
    """
    from onnx import helper, numpy_helper

    nodes, widths = [], {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 1}
    constants: Dict[str, numpy.ndarray] = {}
    for node in model.graph.node:
        inputs = list(node.input)
        skips = node.op_type == "SkipLayerNormalization"  # it adds what skipped a layer first
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        weights = inputs[2:] if skips else inputs[1:]
        if not (
            (skips or (node.op_type == "LayerNormalization" and settings.get("axis", -1) == -1))
            and len(weights) == 2
            and weights[0] in widths
            and not any(node.output[1:])
        ):
            nodes.append(node)
            continue
        width = widths[weights[0]]
        rows = f"rows of {width}"
        constants.update({"one": numpy.ones(1, "f4"), "zero": numpy.zeros(1, "f4"), rows: numpy.array([-1, 1, width])})
        names = [f"{node.output[0]} {part}" for part in ("sum", "shape", "rows", "normal rows", "normal", "scaled")]
        total, shape, flat, normal_rows, normal, scaled = names
        if skips:
            nodes.append(helper.make_node("Add", inputs[:2], [total]))
        else:
            total = inputs[0]
        nodes += [
            helper.make_node("Shape", [total], [shape]),
            helper.make_node("Reshape", [total, rows], [flat]),
            helper.make_node(
                "InstanceNormalization",
                [flat, "one", "zero"],
                [normal_rows],
                epsilon=settings.get("epsilon", 1e-12 if skips else 1e-5),
            ),
            helper.make_node("Reshape", [normal_rows, shape], [normal]),
            helper.make_node("Mul", [normal, weights[0]], [scaled]),
            helper.make_node("Add", [scaled, weights[1]], [node.output[0]]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())


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
