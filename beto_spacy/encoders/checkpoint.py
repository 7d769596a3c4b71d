"""Checkpoints: finding and loading an encoder of the BERT family, and saving it as an ordinary Hugging Face folder.

No spaCy here, so that pretraining runs where there is none.
"""

import dataclasses
import inspect
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import huggingface_hub
import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from beto_spacy import EMBEDDED_ENCODER
from beto_spacy.encoders.onnx_model import ONNX_FILE, OnnxModel
from beto_spacy.errors import EncoderError, ProjectError
from beto_spacy.files import new_folder

#: Model types of the BERT family, as their ``config.json`` names them.
BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "albert", "distilbert", "electra")
#: Of these, the ones whose first positions are taken by the padding: two of 514 are not to be had.
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
#: Where the layers are inside an encoder: the first that there is.
LAYERS = ("encoder.layer", "transformer.layer", "encoder.albert_layer_groups")
#: Where encoders that come with the package lie.
EMBEDDED = Path(__file__).parent


class Checkpoint(NamedTuple):
    """An encoder as it was loaded.

    model: The torch module; called with ``input_ids`` and ``attention_mask``, it gives ``last_hidden_state``.
    tokenizer: The tokenizer that goes with it.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of a BERT that is built.

    layers, width, heads: The feed-forward layers are four times as wide.
    max_length: The longest sequence, in wordpieces.
    dropout: Of hidden states and of attention, in training.
    initializer_range: Standard deviation of the random weights.
    """

    layers: int = 6
    width: int = 384
    heads: int = 6
    max_length: int = 512
    dropout: float = 0.1
    initializer_range: float = 0.02


def check_size(size: Size) -> None:
    """Raise EncoderError for a size that can't be."""
    if min(size.layers, size.width, size.heads) < 1 or size.max_length < 3:
        raise EncoderError(
            "B327",
            f"There is no encoder of {size.layers} layers, width {size.width}, {size.heads} heads and sequences of "
            f"{size.max_length}.",
            "Give 1 or more of each, and sequences of 3 or more wordpieces, two of which are special tokens.",
        )
    if size.width % size.heads:
        raise EncoderError(
            "B318",
            f"A width of {size.width} can't be shared by {size.heads} attention heads.",
            "Make it a multiple of them.",
        )


def bert_config(tokenizer: PreTrainedTokenizerFast, size: Size) -> BertConfig:
    """Make the config of a BERT. Raises EncoderError for a size that can't be."""
    check_size(size)
    return BertConfig(
        vocab_size=1 + max(tokenizer.get_vocab().values()),  # a word that a vocab.txt has twice leaves a number free
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        max_position_embeddings=size.max_length,
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=size.dropout,
        initializer_range=size.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
    )


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
    try:
        with quiet_hub():  # what is missing or left over is said here, in one message
            config_dict, _ = PretrainedConfig.get_config_dict(source)
            config = make_config(source, config_dict)
            tokenizer = load_tokenizer(source, config)
            config.pad_token_id = tokenizer.pad_token_id
            n_pieces = 1 + max(tokenizer.get_vocab().values())
            if n_pieces > config.vocab_size:
                raise EncoderError(
                    "B305",
                    f"The tokenizer of '{name}' has {n_pieces} wordpieces, its model only {config.vocab_size}.",
                    "The files of two checkpoints were mixed; take them all from one.",
                )
            graph = Path(source) / ONNX_FILE
            if graph.is_file():
                return Checkpoint(OnnxModel(config, graph.read_bytes()), tokenizer)
            model, loading = AutoModel.from_pretrained(
                source, config=config, output_loading_info=True, **without_pooler(config)
            )
    except EncoderError:
        raise
    except Exception as error:
        raise not_loaded(name, source, error) from error
    check_complete(name, loading["missing_keys"])
    return Checkpoint(model.float(), tokenizer)


def read_width(name: Union[str, Path]) -> int:
    """Return the width of an encoder's hidden states from its config alone; see `load_checkpoint` for arguments."""
    source = resolve_encoder(name)
    try:
        with quiet_hub():
            return make_config(source, PretrainedConfig.get_config_dict(source)[0]).hidden_size
    except EncoderError:
        raise
    except Exception as error:
        raise not_loaded(name, source, error) from error


def not_loaded(name: Union[str, Path], source: str, error: BaseException) -> EncoderError:
    """What to say of an encoder that a library could not load.

    name: As it was asked for. source: What `resolve_encoder` made of it, a folder or a name on the hub.
    """
    if not Path(source).is_dir():
        return EncoderError(
            "B306",
            f"The encoder '{name}' could not be fetched from the hub ({_first_line(error)}).",
            "Check the name and the network, download it once and give the folder, or use an encoder that is here.",
        )
    return EncoderError(
        "B307",
        f"The encoder in '{name}' could not be loaded ({_first_line(error)}).",
        "Check that config.json, the tokenizer's files and the weights belong together and are complete.",
    )


@contextmanager
def quiet_hub() -> Iterator[None]:
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


def make_config(source: str, config_dict: Dict[str, Any]) -> PretrainedConfig:
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


def load_tokenizer(source: str, config: PretrainedConfig) -> PreTrainedTokenizerFast:
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


def without_pooler(config: PretrainedConfig) -> Dict[str, bool]:
    """The pooler is a pretraining matter: many checkpoints lack it, and nothing here reads it."""
    model_class = AutoModel._model_mapping[type(config)]
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}


def check_complete(name: Union[str, Path], missing: Sequence[str]) -> None:
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


def known_length(model: Any) -> int:
    """Return the sequence length that an encoder was trained on, special tokens included.

    An encoder may take longer sequences than it has learned to read: positions that it saw in a small part of its
    pretraining carry little. Its ``config.json`` states ``sequence_length`` then; where it doesn't, all are known.
    """
    return min(sequence_limit(model), getattr(model.config, "sequence_length", None) or sequence_limit(model))


def set_dropout(model: Any, dropout: Optional[float]) -> Dict[str, float]:
    """Have a torch module use this dropout; None for its own. Returns what its config stated, if it has one."""
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
    config = getattr(model, "config", None)
    stated = {name: getattr(config, name) for name in names if isinstance(getattr(config, name, None), float)}
    if dropout is None:
        return stated
    if stated:
        config.update({name: dropout for name in stated})
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        elif isinstance(getattr(module, "dropout_prob", None), (int, float)):  # of attention, in older versions
            module.dropout_prob = dropout
    return stated


def set_attention_dropout(model: Any, dropout: float) -> None:
    """Have an encoder use this dropout of attention's probabilities; that of the hidden states stays.

    Raises EncoderError for an encoder whose attention isn't known.
    """
    ends = ("self.dropout", "attention.attention_dropout", "attention.dropout")
    found = False
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and name.endswith(ends):
            module.p, found = dropout, True
        elif isinstance(getattr(module, "dropout_prob", None), (int, float)):
            module.dropout_prob = dropout
    if not found:
        raise EncoderError(
            "B329",
            f"Where the encoder ({type(model).__name__}) drops attention isn't known.",
            "Set 'attention_dropout' to null.",
        )


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> Tuple[List[int], List[int]]:
    """The special tokens before and after a sequence, as the tokenizer itself puts them there.

    Asked of a text, because `build_inputs_with_special_tokens` knows nothing of a tokenizer of no particular class.
    """
    encoding = tokenizer("a", return_special_tokens_mask=True)
    ids, own = encoding["input_ids"], [i for i, s in enumerate(encoding["special_tokens_mask"]) if not s]
    if own:
        return ids[: own[0]], ids[own[-1] + 1 :]
    framed = tokenizer.build_inputs_with_special_tokens([-1])  # its vocabulary is so small that "a" leaves no trace
    return framed[: framed.index(-1)], framed[framed.index(-1) + 1 :]


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer, as Hugging Face would."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.model.save_pretrained(folder, safe_serialization=True)
    checkpoint.tokenizer.save_pretrained(folder)
    for file in folder.iterdir():  # safetensors writes files that nobody else may read
        file.chmod(0o644)


def check_place(dest: Path) -> None:
    """Raise ProjectError if a folder is in the way of an encoder and is none."""
    if dest.exists() and not (dest / "config.json").is_file():
        raise ProjectError("B319", f"'{dest}' is there and is no encoder.", "Name another folder, or remove it first.")


def write_checkpoint(checkpoint: Checkpoint, dest: Path) -> None:
    """Write an encoder's folder; it takes the place of another when it's complete. Raises ProjectError if it can't."""
    check_place(dest)
    try:
        with new_folder(dest) as part:
            save_checkpoint(checkpoint, part)
    except Exception as error:  # on a full disk safetensors and tokenizers raise errors of their own
        raise ProjectError(
            "B320", f"The encoder could not be written ({error}).", "Free some space.", path=dest
        ) from error


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies matrices in bf16, as far as torch can tell: without, it's slower than fp32."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
