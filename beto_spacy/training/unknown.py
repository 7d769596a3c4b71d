"""Characters of the training corpora that an encoder's vocabulary lacks: finding them, and giving it wordpieces.

A word with such a character is one [UNK] to the encoder, whatever else is in it: signs that BETO lacks, such as the
percent sign and the semicolon, look all the same. New wordpieces start from the mean of those that are of the same
kind, and are learned in the training.
"""

from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import srsly
from spacy.vocab import Vocab
from transformers import PretrainedConfig

from beto_spacy.corpora.reader import corpus_files, read_docs
from beto_spacy.encoders.checkpoint import load_tokenizer, make_config, not_loaded, quiet_hub, resolve_encoder
from beto_spacy.encoders.masked import add_wordpieces
from beto_spacy.errors import EncoderError

Paths = Union[str, Path, List[Union[str, Path]]]

#: A character that makes fewer words unknown is not worth a wordpiece: it can't be learned from so few.
LEAST = 10


class UnknownCharacters(NamedTuple):
    """What a vocabulary lacks of some corpora.

    counts: How many words each character makes unknown, the commonest first.
    words: How many words there are; a mark of punctuation is one.
    unknown: How many of them are unknown, be it for a character or for their length.
    addable: Whether the vocabulary is one that wordpieces can be added to.
    """

    counts: Dict[str, int]
    words: int
    unknown: int
    addable: bool = True

    def worth_adding(self, least: int = LEAST) -> List[str]:
        """The characters that make so many words unknown, if they can be added."""
        return [character for character, n in self.counts.items() if n >= least] if self.addable else []


def find_unknown(encoder: Union[str, Path], paths: Paths) -> UnknownCharacters:
    """Count the characters of corpora that an encoder's vocabulary lacks.

    Args:
        encoder: A folder, an encoder that comes with the package, or a name on the hub; only its tokenizer is read.
        paths: `.spacy` files or folders of them, as the reader of corpora takes them.

    Raises:
        EncoderError: For a tokenizer that can't be had.
        CorpusError: For corpora that can't be read.
    """
    source = resolve_encoder(encoder)
    try:
        with quiet_hub():
            tokenizer = load_tokenizer(source, make_config(source, PretrainedConfig.get_config_dict(source)[0]))
    except EncoderError:
        raise
    except Exception as error:
        raise not_loaded(encoder, source, error) from error
    forms: Counter = Counter()
    for file in corpus_files(paths):
        forms.update(token.text for doc in read_docs(file, Vocab()) for token in doc if not token.is_space)

    backend, unknown = tokenizer.backend_tokenizer, tokenizer.unk_token_id
    addable = srsly.json_loads(backend.to_str())["model"]["type"] == "WordPiece"
    vocabulary = tokenizer.get_vocab()
    counts: Counter = Counter()
    n_words = n_unknown = 0
    for form, n in forms.items():
        text = backend.normalizer.normalize_str(form) if backend.normalizer else form
        words = [w for w, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
        for word in words:
            n_words += n
            if all(piece.id != unknown for piece in backend.model.tokenize(word)):
                continue
            n_unknown += n
            counts.update({character: n for character in _lacking(word, vocabulary, addable)})
    return UnknownCharacters(dict(counts.most_common()), n_words, n_unknown, addable)


def _lacking(word: str, vocabulary: Dict[str, int], wordpieces: bool) -> Iterable[str]:
    """The characters of an unknown word that the vocabulary doesn't have where they stand."""
    for i, character in enumerate(word):
        if (f"##{character}" if wordpieces and i else character) not in vocabulary:
            yield character


def add_characters(
    encoder: Union[str, Path], dest: Union[str, Path], paths: Paths, pieces: Optional[Sequence[str]] = None
) -> Tuple[str, List[str]]:
    """Give an encoder wordpieces for what its vocabulary lacks of some corpora, before it's trained on them.

    Args:
        encoder: As in `find_unknown`.
        dest: The folder to write; it's not written if nothing is to be added.
        paths: The corpora.
        pieces: What to add; None for the characters that make `LEAST` words or more unknown.

    Returns:
        The encoder to train, `dest` or the one that was given, and what was added.

    Raises:
        EncoderError: As `find_unknown` and `masked.add_wordpieces` do.
    """
    chosen = find_unknown(encoder, paths).worth_adding() if pieces is None else list(pieces)
    if not chosen:
        return str(encoder), []
    add_wordpieces(encoder, dest, chosen, like_others=True)
    return str(dest), chosen


def render_unknown(found: UnknownCharacters, *, most: int = 20) -> str:
    """A Markdown table of the commonest unknown characters, under a line that sums up."""
    share = found.unknown / found.words if found.words else 0.0
    lines = [f"{found.unknown:,} of {found.words:,} words ({share:.3%}) are unknown to the encoder."]
    if found.counts:
        lines += ["", "| character | code | unknown words | of all words |", "| --- | --- | ---: | ---: |"]
        for character, n in list(found.counts.items())[:most]:
            shown = "\\|" if character == "|" else character
            lines.append(f"| {shown} | U+{ord(character):04X} | {n:,} | {n / found.words:.3%} |")
        if len(found.counts) > most:
            lines.append(f"\n{len(found.counts) - most} more characters are rarer.")
    return "\n".join(lines)
