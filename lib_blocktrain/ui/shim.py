"""What gradio 3.41 and gradio 4.40 say differently, and events that speak of widgets by name.

An event's function takes one dictionary, {name: value}, and returns (or yields) one, {name: what changes}; a widget
that is not in it stays as it is. So no function has a row of positional arguments that shifts when a widget is added.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import gradio as gr

from lib_blocktrain.ui.values import Changes, Properties, Values

GRADIO_4 = int(gr.__version__.split(".")[0]) >= 4


def on(
    event: Callable,
    function: Callable[[Values], Changes | Iterator[Changes]] | None,
    inputs: Mapping[str, gr.components.Component],
    outputs: Mapping[str, gr.components.Component],
    *,
    js: str | None = None,
    queued: bool = False,
    latest: bool = False,
):
    """Tie a function of named values to an event; ``queued`` is for what takes long: the rest answers meanwhile.

    While an answer is on its way, gradio hears the event no more: of a word that is typed it would answer the first
    letter. ``latest`` is for such events: the last values are answered too. The function must bear to be asked twice.
    """
    if function is None:
        wrapped = None
    elif inspect.isgeneratorfunction(function):
        wrapped = _stream(function, tuple(inputs), tuple(outputs))
    else:
        wrapped = _single(function, tuple(inputs), tuple(outputs))
    options: dict[str, object] = {("js" if GRADIO_4 else "_js"): js} if js else {}
    if GRADIO_4 and queued:
        options |= {"concurrency_limit": None, "trigger_mode": "multiple"}  # the host's own lock lets one at a time in
    if GRADIO_4 and latest:
        options["trigger_mode"] = "always_last"
    options |= {"inputs": list(inputs.values()), "outputs": list(outputs.values()), "queue": queued}
    options |= {"show_progress": "hidden", "api_name": False}  # the page's own events, no API for others
    tied = event(fn=wrapped, **options)
    if latest and not GRADIO_4:
        tied.then(fn=wrapped, **options)  # with the values of that moment
    return tied


def _single(function: Callable, inputs: Sequence[str], outputs: Sequence[str]) -> Callable:
    def call(*values: object) -> object:
        return _in_order(function(dict(zip(inputs, values))), outputs)

    return call


def _stream(function: Callable, inputs: Sequence[str], outputs: Sequence[str]) -> Callable:
    def call(*values: object) -> Iterator[object]:
        for changes in function(dict(zip(inputs, values))):
            yield _in_order(changes, outputs)

    return call


def _in_order(changes: Changes, outputs: Sequence[str]) -> object:
    """The changes as gradio wants them: one for every output, in order; a single one without a list."""
    strange = set(changes) - set(outputs)
    if strange:
        raise KeyError(f"{sorted(strange)} among the changes: expected some of {list(outputs)}")
    ordered = [_update(changes[name]) if name in changes else gr.update() for name in outputs]
    return ordered[0] if len(ordered) == 1 else ordered


def _update(change: object) -> object:
    return gr.update(**change) if isinstance(change, Properties) else change


def uploaded(value: object) -> Path | None:
    """The file that an upload widget holds: gradio 3 hands over an open temporary file, gradio 4 its path."""
    if value is None:
        return None
    return Path(getattr(value, "name", value))


def queue(blocks: gr.Blocks) -> gr.Blocks:
    """Let several events run at once."""
    return blocks.queue(default_concurrency_limit=16) if GRADIO_4 else blocks.queue(concurrency_count=16)
