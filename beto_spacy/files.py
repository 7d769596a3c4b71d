"""Writing files and folders that appear when they are complete, or not at all."""

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Union


@contextmanager
def new_file(path: Union[str, Path]) -> Iterator[Path]:
    """A place beside a path to write to. At the end of the block the file takes its place; after an error it's removed.

    path: The file to write; folders that are missing are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(dest: Union[str, Path]) -> Iterator[Path]:
    """An empty folder beside a path to write into. At the end of the block it takes the place of the one there.

    Whenever it stops, the old folder or the new one is whole. After an error the new one is removed.

    dest: The folder to write; folders above it that are missing are made.
    """
    dest = Path(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}-", dir=dest.parent) as beside:
        part, old = Path(beside) / "new", Path(beside) / "old"
        part.mkdir()
        yield part
        if dest.exists():
            dest.rename(old)
        try:
            part.rename(dest)
        except BaseException:
            if old.exists():
                old.rename(dest)
            raise
        shutil.rmtree(old, ignore_errors=True)


def write_json(value: Any, path: Union[str, Path]) -> None:
    """Write a value as indented JSON."""
    with new_file(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


def folder_size(path: Union[str, Path]) -> int:
    """Bytes of the files in a folder, without what Python compiled."""
    return sum(p.stat().st_size for p in Path(path).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
