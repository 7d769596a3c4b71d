"""spaCy pipelines on BETO: one encoder pass a document, and every annotation read from it.

Importing this package imports neither spaCy nor torch. Nothing needs to be imported for `spacy.load`: the
factories and the registered functions are found through the entry points in ``setup.cfg``.
"""

__version__ = "0.1.0"

#: The small encoder of our own. What is built on it carries the local version label `+mini`.
EMBEDDED_ENCODER = "beto-mini"

__all__ = ["__version__"]
