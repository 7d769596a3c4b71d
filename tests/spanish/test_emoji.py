"""Emoji sequences, as Unicode describes them."""

import pytest

from beto_spacy.spanish.emoji import is_emoji

EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "❤️", "❤", "❤️‍🔥", "🏳️‍🌈", "🇪🇸", "1️⃣", "#⃣", "©️", "👩🏿‍🚀"]
EMOJI.append("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f")  # the flag of England


@pytest.mark.parametrize("text", EMOJI)
def test_a_sequence_is_an_emoji(text):
    assert is_emoji(text)


OTHER = ["", "a", "1", "#", "©", "→", "✓", "😀😀", "🇪🇸🇲🇽", "🇪", "❤\ufe0e", "👍🏽a", "\u200d", "\ufe0f", "👩‍"]


@pytest.mark.parametrize("text", OTHER)
def test_other_text_is_none(text):
    assert not is_emoji(text)
