"""The encoder: documents in, wordpiece vectors out, for any BERT-like checkpoint.

This module encodes spaCy tokens as wordpieces, runs the windows in length buckets and hands out the features in the
shape that spacy-transformers' listeners read. Checkpoints are found and loaded in `checkpoint.py`; the spaCy component
is in `transformer.py`; the arithmetic of windows and buckets in `windows.py`.

There is no second tokenization: each token is encoded once, cached by its lexeme and by whether a space precedes it,
so that which wordpieces belong to which token is known by construction.
"""

import json
import os
import tempfile
from contextlib import nullcontext
from itertools import chain as flatten
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy
import srsly
import torch
from spacy.attrs import IS_PUNCT, IS_SPACE, ORTH, SENT_START, SPACY
from spacy.tokens import Doc
from spacy_transformers.data_classes import FullTransformerBatch, TransformerData, WordpieceBatch
from spacy_transformers.layers import split_trf_batch
from thinc.api import (
    Model,
    Optimizer,
    PyTorchGradScaler,
    chain,
    get_torch_default_device,
    torch2xp,
    xp2torch,
)
from thinc.types import Ragged
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import ModelOutput

from beto_spacy.encoders.checkpoint import (
    Checkpoint,
    cpu_has_bf16,
    known_length,
    load_checkpoint,
    save_checkpoint,
    sequence_limit,
    set_attention_dropout,
    special_tokens,
)
from beto_spacy.encoders.cpu_training import QuickLayers, quicken_dropout
from beto_spacy.encoders.onnx_model import OnnxModel
from beto_spacy.encoders.windows import (
    INSIDE_TOKEN,
    PUNCTUATION,
    SENTENCE,
    TOKEN,
    check_window,
    cut_windows,
    length_buckets,
    pad_rows,
    ranges,
)
from beto_spacy.errors import EncoderError
from beto_spacy.pipeline.shim import TorchShim, to_device

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": None}

#: Words whose wordpieces are kept, twice: those of late, and those before: a long stream has ever new ones.
_CACHE_SIZE = 15_000
_CACHED_LENGTH = 64

#: Wordpieces of a batch for a CPU; for a GPU at most; and bytes of its memory that there are to be for each.
_SMALL_BATCH, _LARGE_BATCH, _CARD_BYTES = 512, 16_384, 1 << 21


def _before_fork() -> None:
    """The tokenizers library switches its threads off in a forked process, with a warning unless it's told to."""
    global _told_tokenizers
    _told_tokenizers = _TOKENIZERS not in os.environ
    os.environ.setdefault(_TOKENIZERS, "false")


def _after_fork() -> None:
    if _told_tokenizers:
        os.environ.pop(_TOKENIZERS, None)


def _in_fork() -> None:
    """A forked process has none of its parent's OpenMP threads, though torch would wait for them for ever."""
    torch.set_num_threads(1)


_TOKENIZERS, _told_tokenizers = "TOKENIZERS_PARALLELISM", False
if hasattr(os, "register_at_fork"):  # not on Windows; nlp.pipe(n_process=2) forks on Linux
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_fork)


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
        self.prefix, self.suffix = special_tokens(tokenizer)
        self._cache: Dict[Tuple[int, bool], List[int]] = {}
        self._older: Dict[Tuple[int, bool], List[int]] = {}

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

    def __call__(self, docs: Sequence[Doc]) -> Tuple[numpy.ndarray, numpy.ndarray]:
        """Encode documents, each form of a word once.

        Returns the wordpieces' ids, of all documents in a row, and how many each token has. *Shapes:* (n_pieces,),
        (n_tokens,)
        """
        nothing = numpy.zeros((0, 3), dtype="u8")
        attrs = numpy.concatenate([nothing, *(doc.to_array([ORTH, SPACY, IS_SPACE]) for doc in docs)])
        ends = numpy.cumsum([len(doc) for doc in docs], dtype="i8")
        forms, first, which = numpy.unique(attrs[:, 0], return_index=True, return_inverse=True)
        spaced = numpy.zeros(len(forms), dtype=bool)
        if self._mark:
            after_space = self._after_space(docs, attrs, ends)
            kinds, first, which = numpy.unique(2 * which + after_space, return_index=True, return_inverse=True)
            forms, spaced = forms[kinds // 2], kinds % 2 == 1
        keys = list(zip(forms.tolist(), spaced.tolist()))
        pieces = [self._cache.get(key) for key in keys]
        for n in [n for n, ids in enumerate(pieces) if ids is None]:
            number = int(numpy.searchsorted(ends, first[n], side="right"))
            pieces[n] = self._lookup(docs[number], int(first[n] - ends[number]), keys[n])
        sizes = numpy.fromiter(map(len, pieces), dtype="i8", count=len(pieces))
        ids = numpy.fromiter(flatten.from_iterable(pieces), dtype="i8", count=int(sizes.sum()))
        return ids[ranges((numpy.cumsum(sizes) - sizes)[which], sizes[which])], sizes[which].astype("i4")

    def _after_space(self, docs: Sequence[Doc], attrs: numpy.ndarray, ends: numpy.ndarray) -> numpy.ndarray:
        """Whether a space, or what stands for one, is before each token. *Shape:* (n_tokens,)"""
        found = numpy.roll(attrs[:, 1].astype(bool), 1)
        starts = (ends - [len(doc) for doc in docs])[[len(doc) > 0 for doc in docs]]
        for i in numpy.flatnonzero(attrs[:-1, 2]).tolist():
            number = int(numpy.searchsorted(ends, i, side="right"))
            found[i + 1] |= docs[number][i - int(ends[number])].text.endswith(" ")
        found[starts] = self._marks_start
        return found

    def _lookup(self, doc: Doc, i: int, key: Tuple[int, bool]) -> List[int]:
        ids = self._cache.get(key)
        if ids is None:
            ids = self._older.get(key)
            if ids is None:
                ids = [] if doc[i].is_space else self._encode_text(doc[i].text, key[1])
            if len(doc[i]) <= _CACHED_LENGTH:
                if len(self._cache) >= _CACHE_SIZE:
                    self._cache, self._older = {}, self._cache
                self._cache[key] = ids
        return ids


class _DocWordpieces(WordpieceBatch):
    """The wordpieces of one document, all its windows in a row; what follows from them is made when it's asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, input_ids: numpy.ndarray):
        self._tokenizer = tokenizer
        self.input_ids = input_ids
        self.lengths = [input_ids.shape[1]]
        self.token_type_ids = None

    @property
    def attention_mask(self) -> numpy.ndarray:  # type: ignore[override]
        return numpy.ones(self.input_ids.shape, dtype="f")

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


def _layer_contexts() -> Tuple[ContextManager, ContextManager]:
    """What a layer runs in, beside what is there already: at first, and when it's computed again."""
    return nullcontext(), QuickLayers()


class EncoderShim(TorchShim):
    """The torch encoder and its tokenizer, inside a thinc model; saved as an ordinary Hugging Face folder.

    checkpoint: The encoder, or None until one is set by `set_checkpoint`, `load_folder` or `from_bytes`.
    precision: ``fp32``; ``bf16`` or ``fp16`` for autocast on a GPU, and ``bf16`` in training on a processor that has
        instructions for it; elsewhere they're no matter. ``int8`` says that the encoder was quantized, see
        `quantize.py`.
    attention_dropout: Of attention's probabilities, in training; None for what the encoder's own config says.
    gradient_checkpointing: Compute each layer again for its gradients, instead of keeping what it computed.
    mask_rate: Of the wordpieces, in training, that the tokenizer's mask stands for.
    """

    def __init__(
        self,
        *,
        precision: str = "fp32",
        attention_dropout: Optional[float] = None,
        gradient_checkpointing: bool = False,
        mask_rate: float = 0.0,
    ):
        if precision not in PRECISIONS:
            raise EncoderError(
                "B312", f"There is no precision '{precision}'.", f"Set it to one of {', '.join(PRECISIONS)}."
            )
        if attention_dropout is not None and not 0 <= attention_dropout < 1:
            raise EncoderError(
                "B330", f"Attention can't have a dropout of {attention_dropout}.", "Set it from 0 to below 1, or null."
            )
        if not 0 <= mask_rate < 1:
            raise EncoderError(
                "B332", f"No mask can stand for {mask_rate} of the wordpieces.", "Set it from 0 to below 1."
            )
        super().__init__(None)
        self.precision = precision
        self.attention_dropout = attention_dropout
        self.gradient_checkpointing = gradient_checkpointing
        self.mask_rate = mask_rate
        self.tokenizer: Optional[PreTrainedTokenizerFast] = None
        self.wordpieces: Optional[Wordpieces] = None

    def set_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Put an encoder in, on the device that thinc's current ops stand for."""
        device = get_torch_default_device()
        if self.precision == "int8" and not isinstance(checkpoint.model, OnnxModel):
            raise EncoderError(
                "B328",
                "No encoder starts in 8-bit integers.",
                "Train in fp32, then call 'beto-spacy quantize'; it sets the precision.",
            )
        if self.mask_rate and checkpoint.tokenizer.mask_token_id is None:
            raise EncoderError("B333", "The encoder's tokenizer has no mask.", "Set 'mask_rate' to 0.")
        if not isinstance(checkpoint.model, OnnxModel):
            self._prepare_training(checkpoint.model)
        self._model = checkpoint.model.to(device)
        self._grad_scaler = PyTorchGradScaler(self.precision == "fp16" and device.type == "cuda")
        self._grad_scaler.to_(device)
        self.tokenizer = checkpoint.tokenizer
        self.wordpieces = Wordpieces(checkpoint.tokenizer)

    def _prepare_training(self, model: Any) -> None:
        quicken_dropout(model)
        if self.attention_dropout is not None:
            set_attention_dropout(model, self.attention_dropout)
        if self.gradient_checkpointing:
            if not getattr(model, "supports_gradient_checkpointing", False):
                raise EncoderError(
                    "B331",
                    f"The encoder ({type(model).__name__}) can't compute its layers again.",
                    "Set 'gradient_checkpointing' to false.",
                )
            model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": _layer_contexts})

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

    def _autocast(self, *, training: bool = False) -> Any:
        dtype = PRECISIONS[self.precision]
        if self.device.type == "cuda":
            return torch.autocast("cuda", dtype=dtype, enabled=dtype is not None)
        quicker = training and dtype is torch.bfloat16 and cpu_has_bf16()
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=quicker)

    def _forward(self, input_ids: numpy.ndarray, mask: numpy.ndarray) -> torch.Tensor:
        device = self.device
        output = self.encoder(input_ids=to_device(input_ids, device), attention_mask=to_device(mask, device))
        return output.last_hidden_state.float()

    def predict(self, batches: Iterable[Tuple[numpy.ndarray, numpy.ndarray]]) -> List[torch.Tensor]:
        """Run padded batches through the encoder.

        batches: Ids and mask of each, int64. *Shape:* (n_sequences, length)
        Returns the hidden states of each. *Shape:* (n_sequences, length, width)
        """
        if isinstance(self.encoder, OnnxModel):
            return self.encoder.predict(batches)
        if self.encoder.training:
            self.encoder.eval()
        with torch.inference_mode(), self._autocast():
            return [self._forward(ids, mask) for ids, mask in batches]

    def begin_update(
        self, batches: Iterable[Tuple[numpy.ndarray, numpy.ndarray]]
    ) -> Tuple[List[torch.Tensor], Callable[[List[torch.Tensor]], None]]:
        """The same in training: with dropout and masks, and with a callback that takes the gradients of the hidden
        states."""
        self.encoder.train()
        if self.mask_rate:
            batches = [(self._masked(ids), mask) for ids, mask in batches]
        with self._autocast(training=True), QuickLayers():
            outputs = [self._forward(ids, mask) for ids, mask in batches]

        def backprop(d_outputs: List[torch.Tensor]) -> None:
            d_outputs = self._grad_scaler.scale(d_outputs, inplace=True)
            while outputs:  # one after another, so that what each has kept can go
                torch.autograd.backward([outputs.pop()], [d_outputs.pop()])

        return [output.detach() for output in outputs], backprop

    def _masked(self, input_ids: numpy.ndarray) -> numpy.ndarray:
        chosen = (torch.rand(input_ids.shape) < self.mask_rate).numpy()
        chosen &= ~numpy.isin(input_ids, self.tokenizer.all_special_ids)
        return numpy.where(chosen, self.tokenizer.mask_token_id, input_ids)

    def finish_update(self, optimizer: Optimizer) -> None:
        """Update the weights with the gradients of all runs since the last update."""
        # Once for all runs: unscaled after each, the gradients of those before would shrink every time.
        self._grad_scaler.unscale([p.grad for p in self.encoder.parameters() if p.grad is not None])
        super().finish_update(optimizer)

    def save_folder(self, path: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer, as Hugging Face would."""
        assert self.tokenizer is not None
        save_checkpoint(Checkpoint(self.encoder, self.tokenizer), path)

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
    batch_wordpieces: Optional[int] = None,
    precision: str = "fp32",
    attention_dropout: Optional[float] = None,
    gradient_checkpointing: bool = False,
    mask_rate: float = 0.0,
) -> Model[List[Doc], EncoderBatch]:
    """Build the encoder model ``beto_spacy.Encoder.v1``: documents in, features by wordpiece out.

    name: A folder, an encoder that comes with the package, or a name on the hub. It's read when the pipeline is
        initialized; a trained pipeline has its encoder in itself.
    window: Wordpieces a window, special tokens included; None for the sequence length that the encoder was trained on,
        see `checkpoint.known_length`.
    context: Wordpieces of context on both sides of a window, in documents of more than one.
    batch_wordpieces: Wordpieces a padded batch; None for what suits the device, see `suitable_batch`.
    precision: ``fp32``; ``bf16`` or ``fp16`` on a GPU; ``bf16`` speeds up training on a processor that has instructions
        for it, too; ``int8`` is what ``beto-spacy quantize`` sets.
    attention_dropout: Of attention's probabilities, in training; None for what the encoder's own config says. With 0 a
        CPU trains faster and in less memory, since attention is computed in one piece then.
    gradient_checkpointing: In training, compute each layer again for its gradients, instead of keeping what it
        computed: a quarter slower, in much less memory.
    mask_rate: In training the tokenizer's mask stands for so many of the wordpieces, at random (Kondratyuk and Straka
        2019): the heads learn to read the words around. Helps a long training on few texts; a short one learns later.
    """
    shim = EncoderShim(
        precision=precision,
        attention_dropout=attention_dropout,
        gradient_checkpointing=gradient_checkpointing,
        mask_rate=mask_rate,
    )
    if batch_wordpieces is not None and batch_wordpieces < 1:
        raise EncoderError("B314", "A batch needs room for wordpieces.", "Set 'batch_wordpieces' to null, 1 or more.")
    return Model(
        "beto-encoder",
        _forward,
        init=_init,
        dims={"nO": None},
        shims=[shim],
        attrs={
            "name": str(name),
            "window": window,
            "context": context,
            "batch_wordpieces": batch_wordpieces,
            "replace_listener": _replace_listener,
            "replace_listener_cfg": _replace_listener_cfg,
        },
    )


def suitable_batch(device: torch.device) -> int:
    """How many wordpieces a padded batch has that suits a device: few for a CPU's cache, many for a GPU.

    The more memory a card has the more they are, so that a training of an encoder of BETO's size has room for them.
    """
    if device.type != "cuda":
        return _SMALL_BATCH
    room = torch.cuda.get_device_properties(device).total_memory // _CARD_BYTES
    return max(_SMALL_BATCH, min(_LARGE_BATCH, room // _SMALL_BATCH * _SMALL_BATCH))


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
    size = known_length(shim.encoder) if model.attrs["window"] is None else model.attrs["window"]
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
    """How a document goes through the encoder.

    lengths: How many wordpieces each token has. *Shape:* (n_tokens,)
    ids: The sequences of its windows one after another, special tokens included. *Shape:* (n_rows,)
    sizes: How long each of them is.
    rows: Where in that the wordpieces of its tokens are read. *Shape:* (n_pieces,)
    """

    lengths: numpy.ndarray
    ids: numpy.ndarray
    sizes: List[int]
    rows: numpy.ndarray


def _make_plans(model: Model, docs: Sequence[Doc]) -> Tuple[List[_DocPlan], numpy.ndarray, numpy.ndarray]:
    """The plans of documents, the ids of all sequences in a row, and how long each is. *Shapes:* (n_rows,),
    (n_sequences,)"""
    capacity, context = _window_size(model), model.attrs["context"]
    prefix, suffix = model.shims[0].wordpieces.prefix, model.shims[0].wordpieces.suffix
    ids, lengths = model.shims[0].wordpieces(docs)
    token_ends = numpy.cumsum([len(doc) for doc in docs], dtype="i8")
    piece_ends = numpy.concatenate([[0], numpy.cumsum(lengths)])[token_ends]
    windows, number_of, first = [], [], 0  # windows by their places among all wordpieces, and their documents
    for number, (token_end, piece_end) in enumerate(zip(token_ends.tolist(), piece_ends.tolist())):
        doc, n = docs[number], piece_end - first
        quality = _cut_quality(doc, lengths[token_end - len(doc) : token_end]) if n > capacity else None
        for w in cut_windows(n, capacity, context=context, quality=quality):
            windows.append((w.start + first, w.end + first, w.left + first, w.right + first))
            number_of.append(number)
        first = piece_end
    start, end, left, right = numpy.asarray(windows, dtype="i8").reshape(-1, 4).T
    sizes = right - left + len(prefix) + len(suffix)
    ends = numpy.cumsum(sizes)
    begins = ends - sizes
    sequences = numpy.empty(int(sizes.sum()), dtype="i8")
    sequences[ranges(begins + len(prefix), right - left)] = ids[ranges(left, right - left)]
    for i, piece in enumerate(prefix):
        sequences[begins + i] = piece
    for i, piece in enumerate(reversed(suffix)):
        sequences[ends - 1 - i] = piece
    window_ends = numpy.searchsorted(number_of, numpy.arange(len(docs)), side="right")
    row_ends = numpy.concatenate([[0], ends])[window_ends]
    first_rows = numpy.concatenate([[0], row_ends])[number_of]
    rows = ranges(begins + len(prefix) + start - left - first_rows, end - start).astype("i4")
    arrays = ((lengths, token_ends), (sequences, row_ends), (sizes, window_ends), (rows, piece_ends))
    parts = zip(*(numpy.split(array, cuts[:-1]) for array, cuts in arrays))
    plans = [_DocPlan(n, ids, of_windows.tolist(), at) for _, (n, ids, of_windows, at) in zip(docs, parts)]
    return plans, sequences, sizes


class SharedRows:
    """The features of all the documents that went through the encoder together, and the token vectors made of them.

    A way of pooling is applied once for all documents and all heads that want it.

    rows: All windows of all documents in a row. *Shape:* (n_rows, width)
    """

    def __init__(self, rows: Any):
        self.rows = rows
        self._aligned: List[Tuple[numpy.ndarray, numpy.ndarray]] = []
        self._ends = [0]
        self._pooled: Dict[str, Any] = {}

    def add(self, align: Ragged, first: int) -> int:
        """Take in the next document, whose rows begin at ``first``. Returns its number."""
        self._aligned.append((align.dataXd + first, align.lengths))
        self._ends.append(self._ends[-1] + len(align.lengths))
        return len(self._aligned) - 1

    def tokens(self, numbers: Sequence[int], pooling: Model) -> "TokenVectors":
        """The token vectors of documents, by their numbers. *Shape:* (n_tokens, width) each

        pooling: A layer without weights, such as ``reduce_mean.v1``; it's known by its name.
        """
        if pooling.name not in self._pooled:
            where = numpy.concatenate([rows for rows, _ in self._aligned])
            lengths = numpy.concatenate([lengths for _, lengths in self._aligned])
            if pooling.name == "reduce_mean":
                pooled = _means(self.rows, where, lengths)
            else:
                xp = pooling.ops.xp
                pooled = pooling.predict(Ragged(self.rows[xp.asarray(where)], xp.asarray(lengths)))
            self._pooled[pooling.name] = pooled
        pooled, ends = self._pooled[pooling.name], self._ends
        found = TokenVectors(pooled[ends[number] : ends[number + 1]] for number in numbers)
        if len(numbers) and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
            found.rows = pooled[ends[numbers[0]] : ends[numbers[-1] + 1]]
        return found


class TokenVectors(List[Any]):
    """The token vectors of documents: an array each, and all in one where they lie together.

    rows: Of all documents, one after another, or None. *Shape:* (n_tokens, width)
    """

    rows: Any = None


def _means(rows: Any, where: numpy.ndarray, lengths: numpy.ndarray) -> Any:
    """What thinc's ``reduce_mean`` gives of the rows of each token, without a copy of them.

    rows: *Shape:* (n_rows, width). where: The rows of all tokens, one after another. lengths: How many each token has.
    """
    weight = xp2torch(rows)
    places, starts = (
        to_device(array.astype("i8"), weight.device) for array in (where, numpy.cumsum(lengths) - lengths)
    )
    return torch2xp(torch.nn.functional.embedding_bag(places, weight, starts, mode="mean"))


def _doc_data(plan: _DocPlan, state: Any, shim: EncoderShim, xp: Any, width: int) -> TransformerData:
    """Align a document's tokens with the features of its windows.

    state: All windows in a row. *Shape:* (n_rows, width)
    """
    if not len(plan.lengths):
        return TransformerData.empty()
    ids = plan.ids[None]
    if not plan.sizes:  # only white space: the listener gives zero vectors
        ids, state = numpy.full((1, 1), shim.tokenizer.pad_token_id, dtype="i8"), xp.zeros((1, width), dtype="f")
    output = ModelOutput()
    output["last_hidden_state"] = state.reshape((1, -1, width))
    align = Ragged(plan.rows, plan.lengths)
    return TransformerData(wordpieces=_DocWordpieces(shim.tokenizer, ids), model_output=output, align=align)


class _Batches(NamedTuple):
    """The sequences of some documents, in padded batches.

    plans: By document.
    sizes: How long each sequence is, of all documents. *Shape:* (n_sequences,)
    buckets: The numbers of the sequences of each batch.
    padded: Ids and mask of each batch.
    """

    plans: List[_DocPlan]
    sizes: numpy.ndarray
    buckets: List[numpy.ndarray]
    padded: List[Tuple[numpy.ndarray, numpy.ndarray]]


def make_batches(model: Model[List[Doc], EncoderBatch], docs: Sequence[Doc]) -> _Batches:
    """Encode documents as wordpieces, and put sequences of like length together."""
    plans, ids, sizes = _make_plans(model, docs)
    firsts = numpy.cumsum(sizes) - sizes
    budget = model.attrs["batch_wordpieces"]
    buckets = length_buckets(sizes, suitable_batch(model.shims[0].device) if budget is None else budget)
    padded = []
    for bucket in buckets:
        batch, real = pad_rows(ids, firsts[bucket], sizes[bucket], fill=model.shims[0].tokenizer.pad_token_id)
        padded.append((batch, real.astype("i8")))
    return _Batches(plans, sizes, buckets, padded)


def _in_order(outputs: List[torch.Tensor], buckets: List[numpy.ndarray], sizes: numpy.ndarray) -> Any:
    """The hidden states of all sequences in a row, without padding. *Shape:* (n_rows, width)"""
    width = outputs[0].shape[-1]
    flat = torch.cat([output.reshape(-1, width) for output in outputs])
    places = numpy.zeros(len(sizes), dtype="i8")
    offset = 0
    for bucket, output in zip(buckets, outputs):
        places[bucket] = offset + output.shape[1] * numpy.arange(len(bucket))
        offset += output.shape[0] * output.shape[1]
    return torch2xp(flat[to_device(ranges(places, sizes), flat.device)])


def _forward(
    model: Model[List[Doc], EncoderBatch], docs: List[Doc], is_train: bool
) -> Tuple[EncoderBatch, Callable[[DocGradients], List[Doc]]]:
    shim: EncoderShim = model.shims[0]
    width = model.get_dim("nO")
    plans, sizes, buckets, padded = make_batches(model, docs)
    outputs, backprop_batches = shim(padded, is_train)

    rows = _in_order(outputs, buckets, sizes) if outputs else model.ops.alloc2f(0, width)
    shared = SharedRows(rows)
    data, first = [], 0
    for plan in plans:
        last = first + len(plan.ids)
        data.append(_doc_data(plan, rows[first:last], shim, model.ops.xp, width))
        if not is_train and len(plan.lengths):
            data[-1].shared = (shared, shared.add(data[-1].align, first))  # type: ignore[attr-defined]
        first = last

    def backprop(gradients: DocGradients) -> List[Doc]:
        by_sequence: List[Any] = []
        arrays = iter(gradients.arrays)
        for plan in plans:
            if not len(plan.lengths):
                continue
            array, row = next(arrays), 0
            for size in plan.sizes:
                by_sequence.append(array[0, row : row + size])
                row += size
        d_outputs = []
        for bucket, output in zip(buckets, outputs):
            d_output = torch.zeros_like(output)
            for row, i in enumerate(bucket):
                d_output[row, : sizes[i]] = xp2torch(by_sequence[i], device=output.device)
            d_outputs.append(d_output)
        backprop_batches(d_outputs)
        return docs

    return EncoderBatch(docs, data), backprop
