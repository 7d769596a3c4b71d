"""What a process has in memory, and gives back of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from beto_spacy import memory
from beto_spacy.benchmark.speed import make_pipeline


def test_a_process_does_not_inherit_the_peak_of_its_parent():
    code = (
        "import subprocess, sys; x = bytearray(b'1') * 300_000_000;"
        "ask = 'from beto_spacy.memory import *; print(resident_memory(), peak_memory())';"
        "subprocess.run([sys.executable, '-c', ask], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    resident, peak = map(int, done.stdout.split())
    assert 1_000_000 < resident <= peak
    if Path("/proc/self/status").exists():
        assert peak < 200_000_000


def test_memory_is_given_back_when_there_is_more(monkeypatch):
    resident, trims = [100], []
    monkeypatch.setattr(memory, "_lowest", None)
    monkeypatch.setattr(memory, "_SLACK", 1 / 8)
    monkeypatch.setattr(memory, "_resident_pages", lambda: resident[0])

    def trim(padding):
        trims.append(resident[0])
        resident[0] -= 4

    monkeypatch.setattr(memory, "_trim", trim)
    for now in (100, 104, 108, 109, 90, 101, 102, 300, 310, 200, 225, 226):
        resident[0] = now
        memory.give_back_memory()
    # The least was 96, then 90, 98, 296 and 200.
    assert trims == [100, 109, 102, 300, 226]
    monkeypatch.setattr(memory, "_trim", None)  # not on this system
    resident[0] = 10_000
    memory.give_back_memory()
    assert resident[0] == 10_000


@pytest.mark.skipif(memory._trim is None, reason="the C library keeps what is free")
def test_holes_in_the_heap_are_given_back():
    code = (
        "from beto_spacy.memory import give_back_memory, resident_memory\n"
        "give_back_memory()\n"
        "pairs = [(bytearray(b'1') * 100_000, bytearray(1_000)) for _ in range(2_000)]\n"
        "stay = [small for _, small in pairs]\n"
        "full = resident_memory()\n"
        "del pairs\n"
        "free = resident_memory()\n"
        "give_back_memory()\n"
        "print(full, free, resident_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    full, free, after = map(int, done.stdout.split())
    assert full - free < 50_000_000 < 150_000_000 < full - after


def test_a_pipeline_gives_back_what_each_head_left(encoders, monkeypatch):
    nlp = make_pipeline(encoders["bert"], ["Hola, Ana.", "Llueve."], stock=False, heads="beto")
    asked = []
    monkeypatch.setattr("beto_spacy.pipeline.listener.give_back_memory", lambda: asked.append("head"))
    monkeypatch.setattr("beto_spacy.pipeline.transformer.give_back_memory", lambda: asked.append("encoder"))
    list(nlp.pipe(["Hola, Ana.", "Llueve."]))
    readers = nlp.get_pipe("transformer").listeners
    assert asked == ["encoder"] + ["head"] * len(readers) and len(readers) == 5
