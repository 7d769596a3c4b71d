"""The memory of this process: how much it has, and what of it is free given back to the system."""

import ctypes
import sys
from typing import Optional

#: Share by which memory may grow before what is free is given back. Every time costs what has to be mapped anew.
_SLACK = 1 / 20
_C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
_trim = getattr(_C_LIBRARY, "malloc_trim", None)
_lowest: Optional[int] = None  # resident since it was last given back


def _status(field: str) -> Optional[int]:
    try:
        with open("/proc/self/status", encoding="utf8") as lines:
            return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":")), None)
    except OSError:
        return None


def peak_memory() -> Optional[int]:
    """The most memory that this process had resident, in bytes; None where the system doesn't say.

    Linux hands a parent's peak down in ``getrusage``, though not in ``/proc``, so that comes first.
    """
    peak = _status("VmHWM")
    if peak is None:
        try:
            import resource
        except ImportError:
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak


def resident_memory() -> Optional[int]:
    """The memory that this process has resident, in bytes; where the system doesn't say, the most it had."""
    return _status("VmRSS") or peak_memory()


def _resident_pages() -> int:
    """As `resident_memory`, quicker; 0 where the system doesn't say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1])
    except OSError:
        return 0


def give_back_memory() -> None:
    """Hand memory that is free back to the system, where the C library can (glibc), if there may be much.

    Arrays of ever other sizes, between words that stay, leave holes in the heap, each of which is taken for some size:
    over a long stream it would grow. There may be much when this process has a twentieth more than it had at its least
    since the last time.
    """
    global _lowest
    if _trim is None:
        return
    now = _resident_pages()
    if _lowest is None or now > _lowest * (1 + _SLACK):
        _trim(0)
        _lowest = _resident_pages()
    else:
        _lowest = min(_lowest, now)
