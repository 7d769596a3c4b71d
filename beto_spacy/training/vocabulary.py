"""Making encoders: a WordPiece vocabulary from text, and a BERT of a given size with random weights.

It's enough for every workflow to run without a hub, and the start of a pretraining.
"""

from collections import Counter
from itertools import chain as flatten
from pathlib import Path
from typing import Iterable, Iterator, Optional, Sequence, Union

import torch
from spacy.vocab import Vocab
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import AutoModel, BertTokenizerFast, PretrainedConfig

from beto_spacy.corpora.reader import read_docs
from beto_spacy.encoders.checkpoint import (
    Checkpoint,
    Size,
    bert_config,
    check_place,
    check_size,
    load_tokenizer,
    make_config,
    not_loaded,
    quiet_hub,
    resolve_encoder,
    without_pooler,
    write_checkpoint,
)
from beto_spacy.errors import EncoderError, FormatError
from beto_spacy.formats.records import read_records
from beto_spacy.formats.running_text import is_text_file, read_documents

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
#: The rarest characters of a large text are left to [UNK].
_MOST_CHARACTERS = 1_000


class Texts:
    """Paragraphs of files, one by one; every iteration reads the files anew, as a stream.

    paths: Running text (``.txt``, ``.txt.xz``, ``.txt.gz``), one paragraph a line; or corpora, of which only the text
        is taken: ``.spacy`` files, folders of them, or a format that ``beto-spacy convert`` knows.
    Iterating raises FormatError for a file that is missing, empty or not in its format.
    """

    def __init__(self, paths: Iterable[Union[str, Path]]):
        self.paths = [Path(path) for path in paths]

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            if path.suffix == ".spacy" or (path.is_dir() and any(path.rglob("*.spacy"))):
                yield from (doc.text for doc in read_docs(path, Vocab()))
            elif is_text_file(path):
                yield from flatten.from_iterable(read_documents([path]))
            else:
                yield from (record.text for record in read_records(path, on_problem=lambda problem: None))


def train_vocabulary(texts: Iterable[str], *, size: int) -> BertTokenizerFast:
    """Train a WordPiece vocabulary: cased, accents kept, normalized to NFC.

    texts: Paragraphs; they are iterated over twice.
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
    # Ties between pieces are broken by their numbers. The trainer numbers the characters in no fixed order; as
    # special tokens of the training they have one, and the same text gives the same vocabulary.
    counts = Counter(flatten.from_iterable(normalizer.normalize_str(text) for text in texts))
    alphabet = sorted(c for c, n in counts.most_common(_MOST_CHARACTERS) if n > 1 and not c.isspace())
    characters = alphabet + [f"##{c}" for c in alphabet]
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
    like: Optional[Union[str, Path]] = None,
    seed: int = 0,
) -> Path:
    """Build an encoder with random weights, an ordinary Hugging Face folder: a small BERT, or one like another.

    texts: Files that the vocabulary is trained on, as in `Texts`.
    dest: The folder to write; one that is there is replaced when the new one is complete.
    vocabulary: A ``vocab.txt`` to take instead of training one; then no texts are needed.
    vocabulary_size: Wordpieces at most, of a vocabulary that is trained.
    layers, width, heads: The size of the encoder; the feed-forward layers are four times as wide.
    max_length: The longest sequence, in wordpieces.
    dropout: Of hidden states and of attention, in training.
    like: An encoder whose kind, size and vocabulary are taken; there are no texts then, and the sizes are of no matter.
    seed: Of the weights.
    Returns the folder. Raises EncoderError for a size that can't be, FormatError for texts that can't be read.
    """
    dest = Path(dest)
    check_place(dest)
    if like is not None:
        source = resolve_encoder(like)
        if texts or vocabulary is not None:
            raise EncoderError(
                "B335",
                f"An encoder like '{like}' has its vocabulary.",
                "Give no texts and no vocabulary, or leave out 'like' and state the size.",
            )
        try:
            with quiet_hub():
                config = make_config(source, PretrainedConfig.get_config_dict(source)[0])
                tokenizer = load_tokenizer(source, config)
        except EncoderError:
            raise
        except Exception as error:
            raise not_loaded(like, source, error) from error
        config.pad_token_id = tokenizer.pad_token_id
    else:
        size = Size(layers=layers, width=width, heads=heads, max_length=max_length, dropout=dropout)
        check_size(size)
        if vocabulary is not None:
            tokenizer = load_vocabulary(vocabulary)
        elif texts:
            tokenizer = train_vocabulary(Texts(texts), size=vocabulary_size)
        else:
            raise EncoderError("B325", "An encoder needs a vocabulary.", "Give texts to train one on, or a vocab.txt.")
        config = bert_config(tokenizer, size)
        tokenizer.model_max_length = max_length
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, **without_pooler(config))
    write_checkpoint(Checkpoint(model, tokenizer), dest)
    return dest
