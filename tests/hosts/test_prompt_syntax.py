"""The syntax of WebUIs in a prompt of the standalone host."""

from __future__ import annotations

import time

import pytest

from lib_blocktrain.hosts.prompt_syntax import unread_notices, unread_syntax


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a robot <lora:robot:1:bw=OUTD>", ["'<lora:robot:1:bw=OUTD>' is read as words"]),
        ("<lyco:a:1>", ["'<lyco:a:1>'"]),
        ("<hypernet:a:1>", ["'<hypernet:a:1>'"]),
        ("a (red:1.5) robot", ["'(red:1.5)' is read as words"]),
        ("a (red, blue: .5 ) robot", ["'(red, blue: .5 )'"]),
        ("[cat:dog:0.5]", ["'[cat:dog:0.5]'"]),
        ("((red:1.2))", ["'(red:1.2)'"]),
        ("a BREAK b", ["'BREAK' is read as a word"]),
        ("a AND b", ["'AND' is read as a word"]),
        ("<lora:x:1> (a:1.5) BREAK", ["'<lora:x:1>'", "'(a:1.5)'", "'BREAK'"]),
        ("<lora:" + "x" * 100 + ":1>", ["'<lora:" + "x" * 31 + "...'"]),
    ],
)
def test_what_is_read_as_words_is_named(prompt, shown):
    said = list(unread_syntax(prompt))
    assert len(said) == len(shown)
    for sentence, words in zip(said, shown):
        assert words in sentence


@pytest.mark.parametrize(
    "prompt",
    ["", "a robot (blue)", r"a \(red:1.5\) robot", "a [b]", "at 12:30", "a<b", "BREAKING news", "salt and pepper"],
)
def test_other_prompts_are_not_spoken_of(prompt):
    assert list(unread_syntax(prompt)) == []


def test_each_sentence_is_said_once_of_several_prompts():
    said = unread_notices(["a <lora:x:1>", "b <lora:x:1>", "a (red:1.5)"], "BREAK")
    assert [text.split(" is read")[0] for text in said] == [
        "the prompt: '<lora:x:1>'",
        "the prompt: '(red:1.5)'",
        "the negative prompt: 'BREAK'",
    ]


@pytest.mark.parametrize("piece", ["<lora:", "(a:", "[", "(1:1", "BREAK(", "<", "1.:"])
def test_long_prompts_take_no_time(piece):
    start = time.monotonic()
    list(unread_syntax(piece * 20_000))
    assert time.monotonic() - start < 5
