"""White space and emoji have their analysis from the patterns of the training config."""

from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc
from spacy.util import load_config

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "train.cfg"
WORDS = ["Hola", " \n", "👍🏽", "👨‍👩‍👧‍👦", "🇪🇸", "❤️", "1️⃣", "😀", "%", "1", "©", "→", "🇪", "\u2028"]


@pytest.fixture(scope="module")
def nlp():
    """A pipeline whose tagger calls everything a noun, and the patterns."""
    settings = load_config(CONFIG)
    settings["nlp"]["pipeline"] = ["attribute_ruler"]
    nlp = spacy.util.load_model_from_config(settings, auto_fill=True)
    nlp.config["initialize"]["components"] = settings["initialize"]["components"]
    nlp.initialize()
    return nlp


def tags(nlp):
    doc = Doc(nlp.vocab, words=WORDS, pos=["NOUN"] * len(WORDS), morphs=["Gender=Fem"] * len(WORDS))
    return [(token.tag_, token.pos_, str(token.morph)) for token in nlp(doc)]


def test_white_space_and_emoji_have_their_tags(nlp, tmp_path):
    space, emoji, other = ("_SP", "SPACE", ""), ("SYM", "SYM", ""), ("", "NOUN", "Gender=Fem")
    expected = [other, space, *[emoji] * 6, *[other] * 5, space]
    assert tags(nlp) == expected
    nlp.to_disk(tmp_path)
    assert tags(spacy.load(tmp_path)) == expected
