"""The encoder: documents in, wordpiece vectors out, for any BERT-like checkpoint.

This module finds and loads a checkpoint, encodes spaCy tokens as wordpieces, runs the windows in length buckets and
hands out the features in the shape that spacy-transformers' listeners read. It is the only one that knows Hugging
Face's names. The spaCy component is in `transformer.py`; the arithmetic of windows and buckets in `windows.py`.

There is no second tokenization: each token is encoded once, cached by its lexeme and by whether a space precedes it,
so that which wordpieces belong to which token is known by construction.
"""

import inspect
import json
import tempfile
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain as flatten
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import huggingface_hub
import numpy
import srsly
import torch
import transformers
from spacy.attrs import IS_PUNCT, IS_SPACE, ORTH, SENT_START, SPACY
from spacy.tokens import Doc
from spacy_transformers.data_classes import FullTransformerBatch, TransformerData, WordpieceBatch
from spacy_transformers.layers import split_trf_batch
from thinc.api import (
    Model,
    Optimizer,
    PyTorchGradScaler,
    PyTorchShim,
    chain,
    get_torch_default_device,
    torch2xp,
    xp2torch,
)
from thinc.types import Ragged
from transformers import CONFIG_MAPPING, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast
from transformers.modeling_outputs import ModelOutput

from . import EMBEDDED_ENCODER
from .errors import EncoderError
from .windows import INSIDE_TOKEN, PUNCTUATION, SENTENCE, TOKEN, Window, check_window, cut_windows, length_buckets

#: Model types of the BERT family, as their ``config.json`` names them.
BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "albert", "distilbert", "electra")
#: Of these, the ones whose first positions are taken by the padding: two of 514 are not to be had.
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
#: Where encoders that come with the package lie.
EMBEDDED = Path(__file__).parent / "encoders"
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

_CACHE_SIZE = 500_000
_CACHED_LENGTH = 64


class Checkpoint(NamedTuple):
    """An encoder as it was loaded.

    model: The torch module; called with ``input_ids`` and ``attention_mask``, it gives ``last_hidden_state``.
    tokenizer: The tokenizer that goes with it.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast


def resolve_encoder(name: Union[str, Path]) -> str:
    """Say where an encoder is: a folder, an encoder that comes with the package, or else a name on the hub.

    Raises EncoderError for an embedded name that this installation doesn't have, and for what looks like a path but
    is no folder with a ``config.json``.
    """
    name = str(name)
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise EncoderError(
                "B303",
                f"The folder '{name}' is no encoder: it has no config.json.",
                "Name the folder that holds config.json, the tokenizer and the weights.",
            )
        return str(path)
    if (EMBEDDED / name).is_dir():
        return str(EMBEDDED / name)
    looks_like_path = name.startswith((".", "~", "/")) or name.count("/") > 1 or ("/" in name and path.parent.is_dir())
    if looks_like_path or path.is_absolute() or name == EMBEDDED_ENCODER:
        raise EncoderError(
            "B304",
            f"There is no encoder '{name}': neither a folder here nor one that comes with beto_spacy.",
            "Check the path, build a small one with 'beto-spacy build-encoder', or name one on the hub, such as "
            "dccuchile/bert-base-spanish-wwm-cased.",
        )
    return name


def load_checkpoint(name: Union[str, Path]) -> Checkpoint:
    """Load an encoder by folder, embedded name or hub name.

    Checkpoints of the first days of BERT are welcome: no ``model_type``, no ``pad_token_id``, weights under a
    ``bert.`` prefix, a pretraining head (left out), only a ``vocab.txt``.

    Raises EncoderError if it can't be found or reached, isn't of the BERT family, has no fast tokenizer, or leaves any
    weight of the encoder unset.
    """
    source = resolve_encoder(name)
    remote = not Path(source).is_dir()
    try:
        with _quiet_hub():  # what is missing or left over is said here, in one message
            config_dict, _ = PretrainedConfig.get_config_dict(source)
            config = _make_config(source, config_dict)
            tokenizer = _load_tokenizer(source, config)
            config.pad_token_id = tokenizer.pad_token_id
            n_pieces = 1 + max(tokenizer.get_vocab().values())
            if n_pieces > config.vocab_size:
                raise EncoderError(
                    "B305",
                    f"The tokenizer of '{name}' has {n_pieces} wordpieces, its model only {config.vocab_size}.",
                    "The files of two checkpoints were mixed; take them all from one.",
                )
            model, loading = AutoModel.from_pretrained(
                source, config=config, output_loading_info=True, **_without_pooler(config)
            )
    except EncoderError:
        raise
    except Exception as error:
        if remote:
            raise EncoderError(
                "B306",
                f"The encoder '{name}' could not be fetched from the hub ({_first_line(error)}).",
                "Check the name and the network, download it once and give the folder, or use an encoder that is here.",
            ) from error
        raise EncoderError(
            "B307",
            f"The encoder in '{name}' could not be loaded ({_first_line(error)}).",
            "Check that config.json, the tokenizer's files and the weights belong together and are complete.",
        ) from error
    _check_complete(name, loading["missing_keys"])
    return Checkpoint(model.float(), tokenizer)


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the warnings of the libraries that fetch and load a checkpoint off the screen."""
    libraries = (transformers.logging, huggingface_hub.logging)
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, before):
            library.set_verbosity(verbosity)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _make_config(source: str, config_dict: Dict[str, Any]) -> PretrainedConfig:
    """Make the configuration, and find the model type where an old ``config.json`` doesn't state one."""
    model_type = config_dict.get("model_type")
    if model_type is None:
        named = " ".join(config_dict.get("architectures") or []).lower()
        model_type = next((t for t in reversed(BERT_LIKE) if named.startswith(t.replace("-", ""))), "bert")
    if model_type not in BERT_LIKE or config_dict.get("is_decoder"):
        raise EncoderError(
            "B308",
            f"The checkpoint '{source}' is of type '{model_type}', which is not an encoder of the BERT family.",
            f"Use one of these types: {', '.join(BERT_LIKE)}.",
        )
    return CONFIG_MAPPING[model_type].from_dict(config_dict)


def _load_tokenizer(source: str, config: PretrainedConfig) -> PreTrainedTokenizerFast:
    kwargs: Dict[str, Any] = {}
    vocab = Path(source) / "vocab.txt"
    if vocab.is_file() and not (Path(source) / "tokenizer.json").is_file():
        settings = Path(source) / "tokenizer_config.json"
        stated = json.loads(settings.read_text(encoding="utf8")) if settings.is_file() else {}
        if "do_lower_case" not in stated:
            # A bare vocabulary doesn't say whether it is cased, but shows it.
            pieces = vocab.read_text(encoding="utf8").split("\n")
            kwargs["do_lower_case"] = not any(p[:1].isupper() for p in pieces)
    tokenizer = AutoTokenizer.from_pretrained(source, config=config, use_fast=True, **kwargs)
    if not tokenizer.is_fast:
        raise EncoderError(
            "B309",
            f"The tokenizer of '{source}' has no fast version.",
            "Convert it once with transformers (tokenizer.json) and put the file beside the weights.",
        )
    if tokenizer.pad_token_id is None:
        raise EncoderError(
            "B310",
            f"The tokenizer of '{source}' has no padding token.",
            'Add "pad_token" to its tokenizer_config.json or special_tokens_map.json.',
        )
    return tokenizer


def _without_pooler(config: PretrainedConfig) -> Dict[str, bool]:
    """The pooler is a pretraining matter: many checkpoints lack it, and nothing here reads it."""
    model_class = AutoModel._model_mapping[type(config)]
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}


def _check_complete(name: Union[str, Path], missing: Sequence[str]) -> None:
    if missing:
        shown = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
        raise EncoderError(
            "B311",
            f"The checkpoint '{name}' leaves {len(missing)} weights of the encoder unset ({shown}).",
            "It belongs to another architecture or is incomplete; use a checkpoint that fits its config.json.",
        )


def sequence_limit(model: Any) -> int:
    """The longest sequence that an encoder takes, special tokens included."""
    config = model.config
    taken = config.pad_token_id + 1 if config.model_type in POSITIONS_AFTER_PADDING else 0
    return config.max_position_embeddings - taken


class Wordpieces:
    """Encodes the tokens of a Doc one by one.

    The tokenizer's own steps are used (normalizer, pre-tokenizer, model), but not its search for special tokens: a
    text that contains ``[MASK]`` is a text. A token of white space has no wordpieces; nor has one that the tokenizer's
    normalizer wipes out, such as a lone control character.

    tokenizer: A fast tokenizer: WordPiece, byte-level BPE or SentencePiece.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        backend = tokenizer.backend_tokenizer
        self._normalizer = backend.normalizer
        self._pre_tokenizer = backend.pre_tokenizer
        self._model = backend.model
        kinds = json.dumps(json.loads(backend.to_str())["pre_tokenizer"])
        #: The sign for a space that starts a wordpiece; empty where spaces leave no trace.
        self._mark = "\u0120" if '"ByteLevel"' in kinds else "\u2581" if '"Metaspace"' in kinds else ""
        self._marks_start = bool(self._mark) and self._pre_tokenize("a")[0].startswith(self._mark)
        self.prefix, self.suffix = _special_tokens(tokenizer)
        self._cache: Dict[Tuple[int, bool], List[int]] = {}

    def _pre_tokenize(self, text: str) -> List[str]:
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        if self._pre_tokenizer is None:
            return [text] if text else []
        return [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(text)]

    def _encode_text(self, text: str, spaced: bool) -> List[int]:
        if self._mark and spaced:
            text = " " + text
        words = self._pre_tokenize(text)
        if self._mark and not spaced and words and words[0].startswith(self._mark):
            words[0] = words[0][len(self._mark) :]
        return [piece.id for word in words if word for piece in self._model.tokenize(word)]

    def __call__(self, doc: Doc) -> Tuple[List[int], numpy.ndarray]:
        """Encode a document.

        Returns the wordpieces' ids, and how many each token has. *Shape:* (n_tokens,)
        """
        attrs = doc.to_array([ORTH, SPACY, IS_SPACE])
        orths = attrs[:, 0].tolist()
        blank = attrs[:, 2].astype(bool)
        if self._mark:
            before = numpy.empty(len(doc), dtype=bool)
            before[:1] = self._marks_start
            before[1:] = attrs[:-1, 1]
            for i in numpy.flatnonzero(blank[:-1]):
                before[i + 1] |= doc[int(i)].text.endswith(" ")
            keys = list(zip(orths, before.tolist()))
        else:
            keys = [(orth, False) for orth in orths]
        pieces = [self._cache.get(key) for key in keys]
        if None in pieces:
            pieces = [
                self._lookup(doc, i, key) if ids is None else ids for i, (key, ids) in enumerate(zip(keys, pieces))
            ]
        lengths = numpy.fromiter(map(len, pieces), dtype="i4", count=len(pieces))
        return list(flatten.from_iterable(pieces)), lengths

    def _lookup(self, doc: Doc, i: int, key: Tuple[int, bool]) -> List[int]:
        ids = self._cache.get(key)
        if ids is None:
            text = doc[i].text
            ids = [] if doc[i].is_space else self._encode_text(text, key[1])
            if len(text) <= _CACHED_LENGTH:
                if len(self._cache) >= _CACHE_SIZE:
                    self._cache.clear()
                self._cache[key] = ids
        return ids


def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> Tuple[List[int], List[int]]:
    """The special tokens before and after a sequence, as the tokenizer itself puts them there.

    Asked of a text, because `build_inputs_with_special_tokens` knows nothing of a tokenizer of no particular class.
    """
    encoding = tokenizer("a", return_special_tokens_mask=True)
    ids, own = encoding["input_ids"], [i for i, s in enumerate(encoding["special_tokens_mask"]) if not s]
    if own:
        return ids[: own[0]], ids[own[-1] + 1 :]
    framed = tokenizer.build_inputs_with_special_tokens([-1])  # its vocabulary is so small that "a" leaves no trace
    return framed[: framed.index(-1)], framed[framed.index(-1) + 1 :]


class _DocWordpieces(WordpieceBatch):
    """The wordpieces of one document, all its windows in a row; their strings are looked up when asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, input_ids: numpy.ndarray):
        self._tokenizer = tokenizer
        self.input_ids = input_ids
        self.attention_mask = numpy.ones(input_ids.shape, dtype="f")
        self.lengths = [input_ids.shape[1]]
        self.token_type_ids = None

    @property
    def strings(self) -> List[List[str]]:  # type: ignore[override]
        return [self._tokenizer.convert_ids_to_tokens(self.input_ids[0].tolist())]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> WordpieceBatch:
        return WordpieceBatch(self.strings, self.input_ids, self.attention_mask, self.lengths, None)[index]


class EncoderBatch(FullTransformerBatch):
    """What one run of the encoder gave for some documents.

    As in spacy-transformers, ``doc_data`` has one TransformerData a document. The ``last_hidden_state`` in it is not
    padded: all windows of the document follow one another. *Shape:* (1, n_rows, width)
    """

    def __init__(self, docs: Sequence[Doc], doc_data: List[TransformerData]):
        self.spans = [[doc[:]] if len(doc) else [] for doc in docs]
        self.cached_doc_data = doc_data

    def _with_features(self) -> List[TransformerData]:
        return [data for data in self.doc_data if "last_hidden_state" in data.model_output]

    @property
    def model_output(self) -> ModelOutput:  # type: ignore[override]
        features = [data.model_output.last_hidden_state for data in self._with_features()]
        output = ModelOutput()
        if features:
            output["last_hidden_state"] = torch.cat([xp2torch(x) for x in features], dim=1)
        return output

    @property
    def wordpieces(self) -> WordpieceBatch:  # type: ignore[override]
        parts = [data.wordpieces for data in self._with_features()]
        if not parts:
            return WordpieceBatch.empty()
        ids = numpy.concatenate([part.input_ids for part in parts], axis=1)
        strings = [list(flatten.from_iterable(part.strings[0] for part in parts))]
        return WordpieceBatch(strings, ids, numpy.ones(ids.shape, dtype="f"), [ids.shape[1]], None)

    @property
    def align(self) -> Ragged:  # type: ignore[override]
        data, lengths, start = [numpy.zeros(0, dtype="i4")], [numpy.zeros(0, dtype="i4")], 0
        for part in self._with_features():
            data.append(part.align.dataXd + start)
            lengths.append(part.align.lengths)
            start += part.wordpieces.input_ids.shape[1]
        return Ragged(numpy.concatenate(data), numpy.concatenate(lengths))

    def split_by_doc(self) -> List[TransformerData]:
        """The features by document."""
        return list(self.doc_data)

    def unsplit_by_doc(self, arrays: List[List[Any]]) -> "DocGradients":
        """Gather the gradients of the documents that have features, in order.

        arrays: For each of these documents, its gradients; the first is that of the features, *shape:*
            (1, n_rows, width).
        """
        return DocGradients([array[0] for array in arrays])


class DocGradients(NamedTuple):
    """Gradients of the features, one array for each document that has features. *Shape:* (1, n_rows, width)"""

    arrays: List[Any]


class EncoderShim(PyTorchShim):
    """The torch encoder and its tokenizer, inside a thinc model; saved as an ordinary Hugging Face folder.

    checkpoint: The encoder, or None until one is set by `set_checkpoint`, `load_folder` or `from_bytes`.
    precision: ``fp32``, or ``bf16`` or ``fp16`` for autocast on a GPU. On the CPU it's fp32 always.
    """

    def __init__(self, *, precision: str = "fp32"):
        if precision not in PRECISIONS:
            raise EncoderError(
                "B312", f"There is no precision '{precision}'.", f"Set it to one of {', '.join(PRECISIONS)}."
            )
        super().__init__(None)
        self.precision = precision
        self.tokenizer: Optional[PreTrainedTokenizerFast] = None
        self.wordpieces: Optional[Wordpieces] = None

    def set_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Put an encoder in, on the device that thinc's current ops stand for."""
        device = get_torch_default_device()
        self._model = checkpoint.model.to(device)
        self._grad_scaler = PyTorchGradScaler(self.precision == "fp16" and device.type == "cuda")
        self._grad_scaler.to_(device)
        self.tokenizer = checkpoint.tokenizer
        self.wordpieces = Wordpieces(checkpoint.tokenizer)

    @property
    def encoder(self) -> Any:
        """The torch module. Raises EncoderError if there is none yet."""
        if self._model is None:
            raise EncoderError(
                "B313",
                "The encoder has no weights yet.",
                "Initialize the pipeline with nlp.initialize(), or load a trained one with spacy.load().",
            )
        return self._model

    def _autocast(self) -> Any:
        on_gpu = self.device.type == "cuda" and self.precision != "fp32"
        return torch.autocast("cuda", dtype=PRECISIONS[self.precision], enabled=on_gpu)

    def _forward(self, input_ids: numpy.ndarray, mask: numpy.ndarray) -> torch.Tensor:
        device = self.device
        output = self.encoder(
            input_ids=torch.from_numpy(input_ids).to(device), attention_mask=torch.from_numpy(mask).to(device)
        )
        return output.last_hidden_state.float()

    def predict(self, batches: Iterable[Tuple[numpy.ndarray, numpy.ndarray]]) -> List[torch.Tensor]:
        """Run padded batches through the encoder.

        batches: Ids and mask of each, int64. *Shape:* (n_sequences, length)
        Returns the hidden states of each. *Shape:* (n_sequences, length, width)
        """
        self.encoder.eval()
        with torch.inference_mode(), self._autocast():
            return [self._forward(ids, mask) for ids, mask in batches]

    def begin_update(
        self, batches: Iterable[Tuple[numpy.ndarray, numpy.ndarray]]
    ) -> Tuple[List[torch.Tensor], Callable[[List[torch.Tensor]], None]]:
        """The same in training: with dropout, and with a callback that takes the gradients of the hidden states."""
        self.encoder.train()
        with self._autocast():
            outputs = [self._forward(ids, mask) for ids, mask in batches]

        def backprop(d_outputs: List[torch.Tensor]) -> None:
            torch.autograd.backward(outputs, self._grad_scaler.scale(d_outputs, inplace=True))

        return [output.detach() for output in outputs], backprop

    def finish_update(self, optimizer: Optimizer) -> None:
        """Update the weights with the gradients of all runs since the last update."""
        # Once for all runs: unscaled after each, the gradients of those before would shrink every time.
        self._grad_scaler.unscale([p.grad for p in self.encoder.parameters() if p.grad is not None])
        super().finish_update(optimizer)

    @contextmanager
    def use_params(self, params: Dict[Any, Any]) -> Iterator[None]:
        """Take weights from an optimizer's averages for as long as the context lasts.

        params: Arrays by shim's id and weight's name.
        """
        own = [] if self._model is None else list(self._model.named_parameters())
        before = [(p, p.data, params[self.id, name]) for name, p in own if (self.id, name) in params]
        for parameter, _, average in before:
            parameter.data = xp2torch(average, device=parameter.device)
        try:
            yield
        finally:
            for parameter, data, _ in before:
                parameter.data = data

    def copy(self) -> "EncoderShim":
        """Copy the encoder; to an optimizer, the copy's weights are others."""
        copied = deepcopy(self)
        copied.id = EncoderShim().id
        return copied

    def save_folder(self, path: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer, as Hugging Face would."""
        path.mkdir(parents=True, exist_ok=True)
        self.encoder.save_pretrained(path, safe_serialization=True)
        assert self.tokenizer is not None
        self.tokenizer.save_pretrained(path)
        for file in path.iterdir():  # safetensors writes files that nobody else may read
            file.chmod(0o644)

    def load_folder(self, path: Path) -> None:
        """Read what `save_folder` wrote. Raises EncoderError as `load_checkpoint` does."""
        self.set_checkpoint(load_checkpoint(path))

    def to_bytes(self) -> bytes:
        if self._model is None:
            return srsly.msgpack_dumps({})
        with tempfile.TemporaryDirectory() as folder:
            self.save_folder(Path(folder))
            return srsly.msgpack_dumps({p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.is_file()})

    def from_bytes(self, bytes_data: bytes) -> "EncoderShim":
        files = srsly.msgpack_loads(bytes_data)
        if files:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    (Path(folder) / name).write_bytes(content)
                self.load_folder(Path(folder))
        return self


def make_encoder(
    name: str,
    window: Optional[int] = None,
    context: int = 0,
    batch_wordpieces: int = 512,
    precision: str = "fp32",
) -> Model[List[Doc], EncoderBatch]:
    """Build the encoder model ``beto_spacy.Encoder.v1``: documents in, features by wordpiece out.

    name: A folder, an encoder that comes with the package, or a name on the hub. It's read when the pipeline is
        initialized; a trained pipeline has its encoder in itself.
    window: Wordpieces a window, special tokens included; None for the longest that the encoder takes.
    context: Wordpieces of context on both sides of a window, in documents of more than one.
    batch_wordpieces: Wordpieces a padded batch. Small suits a CPU's cache; a GPU wants 8,192 and more.
    precision: ``fp32``; ``bf16`` or ``fp16`` on a GPU.
    """
    if batch_wordpieces < 1:
        raise EncoderError("B314", "A batch needs room for wordpieces.", "Set 'batch_wordpieces' to 1 or more.")
    return Model(
        "beto-encoder",
        _forward,
        init=_init,
        dims={"nO": None},
        shims=[EncoderShim(precision=precision)],
        attrs={
            "name": str(name),
            "window": window,
            "context": context,
            "batch_wordpieces": batch_wordpieces,
            "replace_listener": _replace_listener,
            "replace_listener_cfg": _replace_listener_cfg,
        },
    )


def _replace_listener(model: Model) -> Model:
    """For nlp.replace_listeners: what takes a listener's place in front of its pooling."""
    return chain(model, split_trf_batch())


def _replace_listener_cfg(encoder_cfg: Dict[str, Any], listener_cfg: Dict[str, Any]) -> Dict[str, Any]:
    """For nlp.replace_listeners: the config of a head that has an encoder of its own."""
    pooling = {key: listener_cfg[key] for key in ("pooling", "grad_factor") if key in listener_cfg}
    return {**encoder_cfg, "@architectures": "beto_spacy.EncoderTok2Vec.v1", **pooling}


def _init(model: Model, X: Any = None, Y: Any = None) -> None:
    if model.shims[0]._model is None:
        model.shims[0].set_checkpoint(load_checkpoint(model.attrs["name"]))
    set_width(model)


def set_width(model: Model) -> None:
    """Take the width, and check the window settings, from the encoder that is loaded."""
    shim = model.shims[0]
    if not model.has_dim("nO"):
        model.set_dim("nO", shim.encoder.config.hidden_size)
    _window_size(model)


def _window_size(model: Model) -> int:
    """How many wordpieces fit a window beside the special tokens."""
    shim = model.shims[0]
    n_special = len(shim.wordpieces.prefix) + len(shim.wordpieces.suffix)
    limit = sequence_limit(shim.encoder)
    size = limit if model.attrs["window"] is None else model.attrs["window"]
    check_window(size, model.attrs["context"], limit, n_special)
    return size - n_special


def _cut_quality(doc: Doc, lengths: numpy.ndarray) -> numpy.ndarray:
    """How good it is to cut before each wordpiece of a document. *Shape:* (n_pieces,)"""
    attrs = doc.to_array([SENT_START, IS_PUNCT, IS_SPACE]).astype("i8")
    tokens = numpy.full(len(doc), TOKEN, dtype="i1")
    tokens[1:][(attrs[:-1, 1] != 0) | (attrs[:-1, 2] != 0)] = PUNCTUATION
    tokens[attrs[:, 0] == 1] = SENTENCE
    for i in range(1, len(doc)):
        before = doc[i - 1].text
        if before[-1:] in ".!?\u2026" or "\n" in before:
            tokens[i] = SENTENCE
    pieces = numpy.full(int(lengths.sum()), INSIDE_TOKEN, dtype="i1")
    has_pieces = lengths > 0
    pieces[(numpy.cumsum(lengths) - lengths)[has_pieces]] = tokens[has_pieces]
    return pieces


class _DocPlan(NamedTuple):
    """How a document goes through the encoder: its tokens' wordpiece counts and its windows' sequences."""

    lengths: numpy.ndarray
    windows: List[Window]
    sequences: List[List[int]]


def _plan(model: Model, doc: Doc, capacity: int) -> _DocPlan:
    wordpieces = model.shims[0].wordpieces
    ids, lengths = wordpieces(doc)
    quality = _cut_quality(doc, lengths) if len(ids) > capacity else None
    windows = cut_windows(len(ids), capacity, context=model.attrs["context"], quality=quality)
    sequences = [[*wordpieces.prefix, *ids[w.left : w.right], *wordpieces.suffix] for w in windows]
    return _DocPlan(lengths, windows, sequences)


def _padded(sequences: List[List[int]], pad_id: int) -> Tuple[numpy.ndarray, numpy.ndarray]:
    length = max(map(len, sequences))
    ids = numpy.full((len(sequences), length), pad_id, dtype="i8")
    mask = numpy.zeros((len(sequences), length), dtype="i8")
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


def _doc_data(plan: _DocPlan, features: List[Any], shim: EncoderShim, xp: Any, width: int) -> TransformerData:
    """Put the features of a document's windows in a row, and align its tokens with them."""
    if not len(plan.lengths):
        return TransformerData.empty()
    if not plan.windows:  # only white space: the listener gives zero vectors
        ids = numpy.full((1, 1), shim.tokenizer.pad_token_id, dtype="i8")
        state, rows = xp.zeros((1, 1, width), dtype="f"), numpy.zeros(0, dtype="i4")
    else:
        state = features[0] if len(features) == 1 else xp.concatenate(features, axis=0)
        state = state.reshape((1, -1, width))
        ids = numpy.asarray([list(flatten.from_iterable(plan.sequences))], dtype="i8")
        starts = numpy.cumsum([0] + [len(s) for s in plan.sequences[:-1]]) + len(shim.wordpieces.prefix)
        rows = numpy.concatenate(
            [numpy.arange(s + w.start - w.left, s + w.end - w.left) for s, w in zip(starts, plan.windows)]
        ).astype("i4")
    output = ModelOutput()
    output["last_hidden_state"] = state
    return TransformerData(
        wordpieces=_DocWordpieces(shim.tokenizer, ids), model_output=output, align=Ragged(rows, plan.lengths)
    )


def _forward(
    model: Model[List[Doc], EncoderBatch], docs: List[Doc], is_train: bool
) -> Tuple[EncoderBatch, Callable[[DocGradients], List[Doc]]]:
    shim: EncoderShim = model.shims[0]
    width = model.get_dim("nO")
    capacity = _window_size(model)
    plans = [_plan(model, doc, capacity) for doc in docs]
    sequences = [sequence for plan in plans for sequence in plan.sequences]
    buckets = length_buckets([len(s) for s in sequences], model.attrs["batch_wordpieces"])
    batches = [_padded([sequences[i] for i in bucket], shim.tokenizer.pad_token_id) for bucket in buckets]
    outputs, backprop_batches = shim(batches, is_train)

    features: List[Any] = [None] * len(sequences)
    for bucket, output in zip(buckets, outputs):
        array = torch2xp(output)
        for row, i in enumerate(bucket):
            features[i] = array[row, : len(sequences[i])]
    data, first = [], 0
    for plan in plans:
        last = first + len(plan.windows)
        data.append(_doc_data(plan, features[first:last], shim, model.ops.xp, width))
        first = last

    def backprop(gradients: DocGradients) -> List[Doc]:
        by_sequence: List[Any] = []
        arrays = iter(gradients.arrays)
        for plan in plans:
            if not len(plan.lengths):
                continue
            array, row = next(arrays), 0
            for sequence in plan.sequences:
                by_sequence.append(array[0, row : row + len(sequence)])
                row += len(sequence)
        d_outputs = []
        for bucket, output in zip(buckets, outputs):
            d_output = torch.zeros_like(output)
            for row, i in enumerate(bucket):
                d_output[row, : len(sequences[i])] = xp2torch(by_sequence[i], device=output.device)
            d_outputs.append(d_output)
        backprop_batches(d_outputs)
        return docs

    return EncoderBatch(docs, data), backprop
