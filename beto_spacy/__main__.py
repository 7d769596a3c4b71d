"""``python -m beto_spacy`` is ``beto-spacy``."""

from .cli import main

main(prog_name="beto-spacy")
