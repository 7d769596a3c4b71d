"""``python -m beto_spacy`` is ``beto-spacy``."""

from beto_spacy.cli.main import main

main(prog_name="beto-spacy")
