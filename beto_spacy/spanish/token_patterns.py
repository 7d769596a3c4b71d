"""Patterns of tokens whose analysis their form alone decides, for spaCy's `attribute_ruler`: white space and emoji."""

from typing import Any, Dict, List

from beto_spacy.spanish.emoji import EMOJI


def make_token_patterns() -> List[Dict[str, Any]]:
    """Build ``beto_spacy.TokenPatterns.v1``: patterns that tag white space ``SPACE`` and emoji ``SYM``.

    Returns:
        Patterns as `AttributeRuler.add_patterns` takes them. They are saved with the pipeline.
    """
    space = {"IS_SPACE": True}
    emoji = {"TEXT": {"REGEX": rf"\A{EMOJI}\Z"}}
    return [
        {"patterns": [[token]], "attrs": {"TAG": tag, "POS": pos, "MORPH": ""}}
        for token, tag, pos in ((space, "_SP", "SPACE"), (emoji, "SYM", "SYM"))
    ]
