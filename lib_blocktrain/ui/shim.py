"""Events with named values and changes, for gradio 3.41 and gradio 4.40, which differ here.

A handler takes one mapping, {name: value}, and returns (or yields) one, {name: change}; widgets that are not in it do
not change. The name of a group of widgets has a mapping as its value and as its change. This way no handler has a row
of positional arguments that shifts when a widget is added.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import gradio as gr
from gradio.context import Context
from markupsafe import escape

from lib_blocktrain.ui.values import Changes, Properties

GRADIO_4 = int(gr.__version__.split(".")[0]) >= 4

V = TypeVar("V", bound=Mapping[str, object])
Handler = Callable[[V], Changes] | Callable[[V], Iterator[Changes]]
Named = Mapping[str, gr.components.Component | Mapping[str, gr.components.Component]]

# Runs in the page before each call of an event that follows itself, with the values of its inputs and outputs. The
# first call is a person's; every later one comes with an answer, and goes on only where the widget's value has changed
# since what was answered. A promise that is never kept ends it there: gradio 3 then asks the server nothing.
LATEST = """(...values) => {
    const asked = (document.blocktrainAsked ||= new Map());
    const now = JSON.stringify(values[%(widget)d]);
    const answered = asked.get(%(call)d) === now;
    asked.set(%(call)d, answered ? null : now);
    return answered ? new Promise(() => {}) : values.slice(0, %(count)d);
}"""


def on(
    event: Callable[..., gr.events.Dependency],
    handler: Handler[V] | None,
    inputs: Named,
    outputs: Named,
    *,
    js: str | None = None,
    queued: bool = False,
    latest: bool = False,
) -> gr.events.Dependency:
    """Connect a handler to an event. ``queued`` is for slow handlers: other events are handled at the same time.

    gradio drops an event that is fired while the previous one is being handled, so that only the first letter of a
    typed word would count. With ``latest``, where the widget is one of the inputs and there is no ``js``, the handler
    is called again after its answer, until that is for the widget's latest value.
    """
    call: Callable[..., object] | None
    if handler is None:
        call = None
    elif inspect.isgeneratorfunction(handler):
        call = _stream(handler, inputs, outputs)
    else:
        call = _single(handler, inputs, outputs)
    follows = latest and not GRADIO_4  # gradio 4 has a trigger mode for it
    if follows:
        ids, listener = [widget._id for widget in _flat(inputs)], cast(Any, event)
        js = LATEST % {"widget": ids.index(listener.trigger._id), "count": len(ids), "call": id(call)}
    options: dict[str, object] = {("js" if GRADIO_4 else "_js"): js} if js else {}
    if GRADIO_4 and queued:
        options |= {"concurrency_limit": None, "trigger_mode": "multiple"}  # the host's own lock serialises them
    if GRADIO_4 and latest:
        options["trigger_mode"] = "always_last"
    options |= {"inputs": list(_flat(inputs)), "outputs": list(_flat(outputs)), "queue": queued}
    options |= {"show_progress": "hidden", "api_name": False}  # internal to the page, not part of gradio's API
    dependency = event(fn=call, **options)
    if follows:
        number = len(Context.root_block.dependencies) - 1
        Context.root_block.dependencies[number]["trigger_after"] = number
    return dependency


def forget_stream(event: Callable[..., gr.events.Dependency]) -> None:
    """Have an event end what all queued events wait for in the page.

    gradio 4 has one stream of answers for them. When the connection breaks, its page takes that stream for open, and
    what is asked then is never answered. Only cancelling an event closes it. gradio 3 has a connection for each event.
    """
    if GRADIO_4:
        functions = Context.root_block.fns.values()
        event(fn=None, api_name=False, cancels=[function.get_config() for function in functions if function.queue])


class OwnPage(gr.Blocks):
    """A page of events without an API name, for which gradio 4's client would complain at each event.

    The client is told which endpoints there are and counts their parameters. gradio leaves out those without a name, so
    that each event has "too many arguments"; here they are listed by number, with nothing but the count.
    """

    def get_api_info(self, *arguments: Any, **options: Any) -> dict[str, Any] | None:
        if not GRADIO_4:
            return super().get_api_info(*arguments, **options)
        unnamed: dict[str, Any] = {
            str(function._id): {"parameters": [{} for _ in function.inputs], "returns": []}
            for function in self.fns.values()
        }
        return {"named_endpoints": {}, "unnamed_endpoints": unnamed}


def queue(blocks: gr.Blocks) -> gr.Blocks:
    """Let several events run at once."""
    return blocks.queue(default_concurrency_limit=16) if GRADIO_4 else blocks.queue(concurrency_count=16)


def _single(
    handler: Callable[..., Changes | Iterator[Changes]], inputs: Named, outputs: Named
) -> Callable[..., object]:
    def call(*values: object) -> object:
        changes = handler(_by_name(inputs, values))
        assert isinstance(changes, Mapping), f"{handler} returned {type(changes).__name__}: expected changes"
        return _in_order(changes, outputs)

    return call


def _stream(
    handler: Callable[..., Iterator[Changes]], inputs: Named, outputs: Named
) -> Callable[..., Iterator[object]]:
    def call(*values: object) -> Iterator[object]:
        for changes in handler(_by_name(inputs, values)):
            yield _in_order(changes, outputs)

    return call


def _flat(widgets: Named) -> Iterator[gr.components.Component]:
    for widget in widgets.values():
        yield from widget.values() if isinstance(widget, Mapping) else (widget,)


def _by_name(widgets: Named, values: tuple[object, ...]) -> dict[str, object]:
    """The values, which gradio gives in the order of `_flat`, by name."""
    waiting = iter(values)
    return {
        name: {key: _value(member, next(waiting)) for key, member in widget.items()}
        if isinstance(widget, Mapping)
        else _value(widget, next(waiting))
        for name, widget in widgets.items()
    }


def _value(widget: gr.components.Component, value: object) -> object:
    """The value of one widget; an uploaded file as its path, where gradio 3 gives an open temporary file."""
    if isinstance(widget, (gr.File, gr.UploadButton)) and value is not None:
        return [_path(one) for one in value] if isinstance(value, list) else _path(value)
    return value


def _path(file: object) -> Path:
    return Path(getattr(file, "name", None) or str(file))


def _in_order(changes: Changes, outputs: Named) -> object:
    """The changes in the form that gradio expects: a list in the order of the outputs, or a single value for one."""
    _check_names(changes, outputs)
    ordered: list[object] = []
    for name, widget in outputs.items():
        if not isinstance(widget, Mapping):
            ordered.append(_update(changes, name, widget))
            continue
        members = changes.get(name, {})
        assert isinstance(members, Mapping), f"{name} is a group of widgets: expected a mapping of changes"
        _check_names(members, widget)
        ordered += [_update(members, key, member) for key, member in widget.items()]
    return ordered[0] if len(ordered) == 1 else ordered


def _check_names(changes: Changes, outputs: Mapping[str, object]) -> None:
    strange = set(changes) - set(outputs)
    if strange:
        raise KeyError(f"{sorted(strange)} among the changes: expected some of {list(outputs)}")


def _update(changes: Changes, name: str, widget: gr.components.Component) -> object:
    if name not in changes:
        return gr.update()
    change = changes[name]
    if isinstance(change, Properties):
        return gr.update(**change)
    # a string that is not Markup is plain text
    return str(escape(change)) if isinstance(widget, gr.HTML) else change
