"""Every message that a user of this library can meet when something is wrong.

A message has a code, says what happened and where, and ends with what to do about it. The classes are the
ones that the rest of the package raises; the command line prints them without a traceback. This module imports
nothing but the standard library, and holds no logic.

Codes: B0xx general, B1xx formats, B2xx corpora, B3xx encoder and component, B4xx evaluation, B5xx project and
packages, B6xx pretraining.
"""

from pathlib import Path
from typing import Optional, Union


class BetoError(ValueError):
    """A problem that the user can act on.

    The text reads ``[CODE] what happened. what to do``; with a place, ``[CODE] path:line: what happened. what to do``.

    code: The code of the message, such as ``"B101"``.
    what: What happened, a sentence.
    fix: What to do, a sentence.
    path: The file it happened in, if there is one.
    line: The line in that file, counted from 1.
    """

    def __init__(
        self,
        code: str,
        what: str,
        fix: str,
        *,
        path: Optional[Union[str, Path]] = None,
        line: Optional[int] = None,
    ):
        self.code = code
        self.what = what
        self.fix = fix
        self.path = None if path is None else str(path)
        self.line = line
        place = ""
        if self.path is not None:
            place = f"{self.path}:{line}: " if line is not None else f"{self.path}: "
        super().__init__(f"[{code}] {place}{what} {fix}")


class FormatError(BetoError):
    """A corpus file that does not follow its format."""


class CorpusError(BetoError):
    """Documents or annotation that can't be used for training or evaluation."""


class EncoderError(BetoError):
    """An encoder that can't be found, loaded or run."""


class ProjectError(BetoError):
    """A workflow, an asset, a package or an output that failed."""
