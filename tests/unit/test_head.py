"""Checks head.py: what is made can be told apart, and is what pickle opens."""

from __future__ import annotations

import os.path
import pickle

import pytest

from crew_executor.head import TEXT_BYTES_MAX, blob_in, name_in, named_head, table_head


def test_a_name_is_a_pickle_of_what_has_it() -> None:
    head = named_head("posixpath", "join")

    assert pickle.loads(head) is os.path.join
    assert (name_in(head), blob_in(head)) == (("posixpath", "join"), None)


@pytest.mark.parametrize("word", ["", "x" * TEXT_BYTES_MAX, "\u00e9"])
def test_any_name_that_is_not_too_long_comes_back(word: str) -> None:
    assert name_in(named_head(word, word)) == (word, word)


@pytest.mark.parametrize("blob", [b"", b"x", bytes(100_000)])
def test_a_table_comes_back(blob: bytes) -> None:
    head = table_head(blob)

    assert (name_in(head), blob_in(head)) == (None, blob)


@pytest.mark.parametrize("other", [b"", b"\x80\x05\x8c\x01a\x93.", pickle.dumps(os.path.join, 5), pickle.dumps(5, 5)])
def test_another_pickle_is_neither(other: bytes) -> None:
    assert (name_in(other), blob_in(other)) == (None, None)
