"""Reading a config of ours: sections with fields, overrides, and what is wrong with them in one message.

No spaCy here; the files are those of confection, as spaCy's are.
"""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence, Tuple, Union

from beto_spacy.errors import ProjectError

#: What a section has: the names of its fields, or a dataclass whose fields they are.
Section = Union[Sequence[str], type]
#: Whole numbers stand for fractions.
_KINDS: Dict[Any, Tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


def read_settings(
    path: Path, sections: Mapping[str, Section], *, example: str, overrides: Mapping[str, Any]
) -> Dict[str, Dict[str, Any]]:
    """Read a config that has exactly these sections, with exactly these fields.

    path: The file.
    sections: By name. Values of a dataclass must be of the kinds that it states.
    example: The file to start from, for the messages.
    overrides: Values by section and field, such as ``{"training.steps": 1000}``.
    Returns the values by section and field. Raises ProjectError for a file that can't be read, and for other sections,
    fields or kinds.
    """
    from confection import Config

    try:
        config = Config().from_disk(path, overrides=dict(overrides))
    except Exception as error:
        raise ProjectError(
            "B633",
            f"The config can't be read ({' '.join(str(error).split())}).",
            f"Start from {example}, and override fields that it has.",
            path=path,
        ) from error
    for section, kind in sections.items():
        names = _field_names(kind)
        have = config.get(section, {})
        odd = sorted(set(have) ^ set(names))
        if odd:
            raise ProjectError(
                "B634",
                f"The section [{section}] {'has' if odd[0] in have else 'lacks'} '{odd[0]}'.",
                f"Its fields are: {', '.join(names)}.",
                path=path,
            )
    odd = sorted(set(config) - set(sections))
    if odd:
        raise ProjectError("B635", f"There is no section [{odd[0]}].", f"There are: {', '.join(sections)}.", path=path)
    for section, kind in sections.items():
        for field in dataclasses.fields(kind) if isinstance(kind, type) else ():
            value = config[section][field.name]
            if field.type is str and isinstance(value, int) and not isinstance(value, bool):
                value = config[section][field.name] = str(value)  # one number alone of a list of them
            if not isinstance(value, _allowed(field.type)) or (isinstance(value, bool) and field.type is not bool):
                default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
                raise ProjectError(
                    "B636",
                    f"[{section}] {field.name} = {json.dumps(value)} is not of its kind.",
                    f"Give a value like {json.dumps(default)}.",
                    path=path,
                )
    return config


def _field_names(kind: Section) -> Tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind)) if isinstance(kind, type) else tuple(kind)


def _allowed(kind: Any) -> Tuple[type, ...]:
    """The classes that a value of a field may have."""
    if typing.get_origin(kind) is Union:
        return tuple(allowed for part in typing.get_args(kind) for allowed in _allowed(part))
    return _KINDS.get(kind, (typing.get_origin(kind) or kind,))
