"""Every entry point that the package advertises resolves, by the list that the installation has."""

from importlib.metadata import entry_points
from inspect import signature

import pytest
import spacy
from spacy.language import Language

GROUPS = {
    "spacy_factories": "factories",
    "spacy_architectures": "architectures",
    "spacy_misc": "misc",
    "spacy_readers": "readers",
    "spacy_scorers": "scorers",
}
ADVERTISED = [
    e for group in [*GROUPS, "console_scripts"] for e in entry_points(group=group) if e.value.startswith("beto_spacy")
]


def test_the_installation_advertises_every_kind():
    assert {e.group for e in ADVERTISED} == {*GROUPS, "console_scripts"}


@pytest.mark.parametrize("entry", ADVERTISED, ids=lambda e: e.name)
def test_entry_point_resolves(entry):
    function = entry.load()
    if entry.group == "console_scripts":
        assert function.name == "main"
    elif entry.group == "spacy_factories":
        nlp = spacy.blank("es")
        assert nlp.has_factory(entry.name)
        assert Language.get_factory_meta(entry.name).factory == entry.name
    else:
        assert entry.name.startswith("beto_spacy.") and entry.name.rpartition(".v")[2].isdigit()
        assert spacy.registry.get(GROUPS[entry.group], entry.name) is function
        # The config system reads real annotations, not strings.
        assert not any(isinstance(p.annotation, str) for p in signature(function).parameters.values())
