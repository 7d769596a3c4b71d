"""Making encoders: a WordPiece vocabulary from text, and a BERT of a given size.

So far the weights are random: enough for every workflow to run without a hub, and the start of a pretraining.
"""

import gzip
import lzma
import shutil
import tempfile
import zlib
from collections import Counter
from itertools import chain as flatten
from pathlib import Path
from typing import Iterable, Iterator, Optional, Sequence, Union

import torch
from spacy.vocab import Vocab
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import BertConfig, BertModel, BertTokenizerFast

from .corpus import read_docs
from .encoder import Checkpoint, EncoderShim
from .errors import EncoderError, FormatError, ProjectError
from .formats import read_records

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
#: The rarest characters of a large text are left to [UNK].
_MOST_CHARACTERS = 1_000
_OPENERS = {".txt": open, ".xz": lzma.open, ".gz": gzip.open}


def read_texts(paths: Iterable[Union[str, Path]]) -> Iterator[str]:
    """Read paragraphs of text, one by one.

    paths: Plain text (``.txt``, ``.txt.xz``, ``.txt.gz``), one paragraph a line; or corpora, of which only the text is
        taken: ``.spacy`` files, folders of them, or a format that ``beto-spacy convert`` knows.
    Raises FormatError for a file that is missing, empty or not in its format.
    """
    for path in map(Path, paths):
        if path.suffix == ".spacy" or (path.is_dir() and any(path.rglob("*.spacy"))):
            yield from (doc.text for doc in read_docs(path, Vocab()))
            continue
        if path.suffix not in _OPENERS or ".tar" in path.suffixes:
            yield from (record.text for record in read_records(path, on_problem=lambda problem: None))
            continue
        try:
            with _OPENERS[path.suffix](path, "rt", encoding="utf8") as lines:  # type: ignore[operator]
                empty = True
                for line in lines:
                    if line.strip():
                        empty = False
                        yield line.strip()
        except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
            raise FormatError(
                "B315", f"The text could not be read ({error}).", "Give an existing UTF-8 text file.", path=path
            ) from error
        if empty:
            raise FormatError("B316", "There is no text in the file.", "Give a file with text.", path=path)


def train_vocabulary(texts: Iterable[str], *, size: int) -> BertTokenizerFast:
    """Train a WordPiece vocabulary: cased, accents kept, normalized to NFC.

    texts: Paragraphs.
    size: Wordpieces at most, special tokens included; there are fewer if the text doesn't yield so many.
    Raises EncoderError if the size has no room for the special tokens and the characters of the text.
    """
    normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.BertNormalizer(lowercase=False, strip_accents=False)]
    )
    # An emoji or another symbol is a word of its own: a word glued to one would be unknown as a whole.
    symbols = pre_tokenizers.Split(Regex(r"[\p{So}\p{Sk}\p{Sm}\p{Sc}]"), behavior="isolated")
    pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), symbols])

    trained = Tokenizer(WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = normalizer, pre_tokenizer
    texts = list(texts)
    # Ties between pieces are broken by their numbers. The trainer numbers the characters in no fixed order; as
    # special tokens of the training they have one, and the same text gives the same vocabulary.
    counts = Counter(flatten.from_iterable(normalizer.normalize_str(text) for text in texts))
    alphabet = sorted(c for c, n in counts.most_common(_MOST_CHARACTERS) if n > 1 and not c.isspace())
    characters = [c for c in alphabet] + [f"##{c}" for c in alphabet]
    if size < len(SPECIAL_TOKENS) + len(characters):
        raise EncoderError(
            "B317",
            f"A vocabulary of {size} has no room for the {len(alphabet)} characters of the text.",
            f"Ask for {2 * (len(SPECIAL_TOKENS) + len(characters))} or more.",
        )
    trainer = WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL_TOKENS, *characters], limit_alphabet=0, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)

    pieces = trained.get_vocab()
    tokenizer = Tokenizer(WordPiece(vocab=pieces, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", pieces["[SEP]"]), ("[CLS]", pieces["[CLS]"]))
    tokenizer.decoder = decoders.WordPiece()
    return BertTokenizerFast(tokenizer_object=tokenizer, do_lower_case=False, strip_accents=False)


def load_vocabulary(path: Union[str, Path]) -> BertTokenizerFast:
    """Make a tokenizer of a cased ``vocab.txt``, such as BETO's: one wordpiece a line, special tokens among them.

    Raises FormatError if the file can't be read or lacks a special token.
    """
    try:
        pieces = Path(path).read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(
            "B323", f"The vocabulary could not be read ({error}).", "Check the path.", path=path
        ) from error
    missing = [token for token in SPECIAL_TOKENS if token not in pieces]
    if missing:
        raise FormatError(
            "B324", f"The vocabulary lacks {', '.join(missing)}.", "Give the vocab.txt of a BERT.", path=path
        )
    return BertTokenizerFast(vocab_file=str(path), do_lower_case=False, strip_accents=False)


def build_encoder(
    texts: Sequence[Union[str, Path]],
    dest: Union[str, Path],
    *,
    vocabulary: Optional[Union[str, Path]] = None,
    vocabulary_size: int = 8_000,
    layers: int = 3,
    width: int = 128,
    heads: int = 4,
    max_length: int = 512,
    dropout: float = 0.1,
    seed: int = 0,
) -> Path:
    """Build a small BERT with random weights, an ordinary Hugging Face folder.

    texts: Files that the vocabulary is trained on, as in `read_texts`.
    dest: The folder to write; one that is there is replaced when the new one is complete.
    vocabulary: A ``vocab.txt`` to take instead of training one; then no texts are needed.
    vocabulary_size: Wordpieces at most, of a vocabulary that is trained.
    layers, width, heads: The size of the encoder; the feed-forward layers are four times as wide.
    max_length: The longest sequence, in wordpieces.
    dropout: Of hidden states and of attention, in training.
    seed: Of the weights.
    Returns the folder. Raises EncoderError for a size that can't be, FormatError for texts that can't be read.
    """
    dest = Path(dest)
    if min(layers, width, heads) < 1 or max_length < 3:
        raise EncoderError(
            "B327",
            f"There is no encoder of {layers} layers, width {width}, {heads} heads and sequences of {max_length}.",
            "Give 1 or more of each, and sequences of 3 or more wordpieces, two of which are special tokens.",
        )
    if width % heads:
        raise EncoderError(
            "B318", f"A width of {width} can't be shared by {heads} attention heads.", "Make it a multiple of them."
        )
    if dest.exists() and not (dest / "config.json").is_file():
        raise ProjectError("B319", f"'{dest}' is there and is no encoder.", "Name another folder, or remove it first.")
    if vocabulary is not None:
        tokenizer = load_vocabulary(vocabulary)
    elif texts:
        tokenizer = train_vocabulary(read_texts(texts), size=vocabulary_size)
    else:
        raise EncoderError("B325", "An encoder needs a vocabulary.", "Give texts to train one on, or a vocab.txt.")
    config = BertConfig(
        vocab_size=1 + max(tokenizer.get_vocab().values()),  # a word that a vocab.txt has twice leaves a number free
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=False)
    tokenizer.model_max_length = max_length
    shim = EncoderShim()
    shim.set_checkpoint(Checkpoint(model, tokenizer))
    dest.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{dest.name}-", dir=dest.parent))
    try:
        shim.save_folder(part)
        part.chmod(0o755)
        _replace_folder(part, dest)
    except Exception as error:  # on a full disk safetensors and tokenizers raise errors of their own
        raise ProjectError(
            "B320", f"The encoder could not be written ({error}).", "Free some space.", path=dest
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return dest


def _replace_folder(new: Path, dest: Path) -> None:
    """Put a folder in the place of one that may be there; whenever it stops, the old one or the new one is whole."""
    if not dest.exists():
        new.rename(dest)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{dest.name}-old-", dir=dest.parent))
    try:
        dest.rename(old / dest.name)
        try:
            new.rename(dest)
        except BaseException:
            (old / dest.name).rename(dest)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
