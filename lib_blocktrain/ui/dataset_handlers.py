"""The handlers of the place Pictures: what its scripts ask about the sets, answered as JSON. They know no widgets.

A question is a JSON object: `page` and `number`, which name it; `what`, one of `QUESTIONS`; and that question's values.
`javascript/dataset_ask.js` asks again where an answer is late, since gradio drops events: each question is carried out
once, and answered as often as it is asked.
"""

from __future__ import annotations

import base64
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from lib_blocktrain.runner import describe_error
from lib_blocktrain.ui import form, html
from lib_blocktrain.ui.dataset_jobs import DatasetJobs, job_questions
from lib_blocktrain.ui.values import Changes, DatasetValues, Properties
from lib_blocktrain.weights.preset_strings import Parsed
from lib_blocktrain.workspace.picture_sets import PictureSets, Upload
from lib_blocktrain.workspace.set_jobs import retest

LONGEST_QUESTION = 1_000_000  # characters
KEPT_ANSWERS = 64
SHOWN_THUMBNAILS = 60  # sent as data at once, where the browser may not fetch them
FOLDERS, TOML, NAME, WEIGHTS = map(form.field_name, (form.FOLDERS, "dataset.toml", "name", form.WEIGHTS))
_ANSWER = Markup('<div class="blocktrain-data blocktrain-dataset-answer" data-json="{}"></div>')

Question = Mapping[str, Any]
Answer = dict[str, Any]


class DatasetHandlers:
    """Answer what the scripts of Pictures ask, take in files, and hand a set to Train."""

    def __init__(self, sets: PictureSets, jobs: DatasetJobs, parse: Callable[[str], Parsed]):
        """`parse` reads block weights for the loaded model."""
        self.sets, self._parse = sets, parse
        self._jobs = job_questions(jobs, _text)
        self._answers: OrderedDict[tuple[str, int], Future[Answer]] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, values: DatasetValues) -> Changes:
        """Answer a question; an error is part of the answer, which the script shows."""
        if not values["dataset_ask"]:  # a click that came after the answer
            return {}
        return {"dataset_answer": self._answered(values, self._work)}

    def add(self, values: DatasetValues) -> Changes:
        """Add the uploaded files to a set; the question has the names that the browser gave, in the files' order."""
        files = values["dataset_files"] or []

        def added(question: Question) -> Answer:
            names = _texts(question, "names")
            if len(names) != len(files):
                raise ValueError(f"{len(files)} files came for {len(names)} names: add them again")
            uploads = [Upload(path, name) for path, name in zip(files, names, strict=True)]
            return self.sets.add(_text(question, "set"), uploads).to_json()

        return {"dataset_answer": self._answered(values, added)}

    def use(self, values: DatasetValues) -> Changes:
        """Fill in a set as what Train trains on, and go there."""

        question = _read(values["dataset_ask"])
        answer = self._once(question, self._chosen)
        changes: dict[str, object] = {"dataset_answer": _data(question, answer)}
        if "error" not in answer:
            is_toml = answer["path"].endswith(".toml")
            fields = {FOLDERS: "" if is_toml else answer["path"], TOML: answer["path"] if is_toml else ""}
            if not values["train_form"][NAME]:
                fields[NAME] = answer["name"]
            changes |= {
                "train_form": fields,
                "train_dataset": "",
                "train_message": "",
                "tabs": Properties(selected="Train"),
            }
        return changes

    def weigh(self, values: DatasetValues) -> Changes:
        """Fill in a preset, or weights that were found, as what Train trains with."""
        question = _read(values["dataset_ask"])
        answer = self._once(question, self._weights)
        changes: dict[str, object] = {"dataset_answer": _data(question, answer)}
        return changes if "error" in answer else {**changes, "train_form": {WEIGHTS: answer["weights"]}}

    def probe(self, values: DatasetValues) -> Changes:
        """Fill in a set as what the probe of Analyse looks at, and go there."""
        question = _read(values["dataset_ask"])
        answer = self._once(question, self._chosen)
        if "error" not in answer and answer["path"].endswith(".toml"):
            answer = {"error": f"{answer['name']} is a .toml: the probe takes folders; open one of its folders instead"}
        changes: dict[str, object] = {"dataset_answer": _data(question, answer)}
        if "error" not in answer:
            changes |= {"probe_folder": answer["path"], "tabs": Properties(selected="Analyse")}
        return changes

    def _work(self, question: Question) -> Answer:
        what = question.get("what")
        if what == "worth":
            return self._worth(question)
        if what in self._jobs:
            return self._jobs[str(what)](question)
        return QUESTIONS[_what(question)](self.sets, question)

    def _chosen(self, question: Question) -> Answer:
        """The path and name of the set that is to be used."""
        key = _text(question, "set")
        if not key:
            raise ValueError("no set is chosen: choose one, or make a new one")
        chosen = self.sets.get(key).to_json()
        if not chosen["pictures"]:
            raise ValueError(f"{chosen['name']} has no pictures yet: add some first")
        return {"path": self.sets.folders_for_training(key), "name": chosen["name"]}

    def _worth(self, question: Question) -> Answer:
        """What the set gives; `retest` says if the `weights` in Train were found for a subject of another size."""
        size, batch = _number(question, "size"), _number(question, "batch") or 1
        found = self.sets.worth(_text(question, "set"), size, batch)
        share = None
        with suppress(ValueError):  # what is wrong with the weights is said in Train
            share = self._parse(_text(question, "weights")).area_share if question.get("weights") else None
        return {"worth": found.to_json(), "retest": retest(share, found.canvas_share)}

    def _weights(self, question: Question) -> Answer:
        parsed = self._parse(_text(question, "weights"))
        line = parsed.weights.to_line(parsed.name, with_architecture=True, area_share=parsed.area_share)
        return {"weights": line, "notices": list(parsed.notices)}

    def _answered(self, values: DatasetValues, work: Callable[[Question], Answer]) -> Markup:
        question = _read(values["dataset_ask"])
        return _data(question, self._once(question, work))

    def _once(self, question: Question, work: Callable[[Question], Answer]) -> Answer:
        """The answer to a question, worked out the first time it is asked; later ones wait for that."""
        key = str(question.get("page", "")), int(question.get("number", 0))
        with self._lock:
            known = self._answers.get(key)
            if known is None:
                mine: Future[Answer] = Future()
                self._answers[key] = mine
                while len(self._answers) > KEPT_ANSWERS:
                    self._answers.popitem(last=False)
        if known is not None:
            return known.result()
        try:
            answer = work(question)
        except Exception as error:  # noqa: BLE001 - every question gets an answer, or the script would ask for ever
            answer = {"error": describe_error(error)}
        mine.set_result(answer)
        return answer


# --- questions --------------------------------------------------------------------------------------------------------


def _sets(sets: PictureSets, question: Question) -> Answer:
    return {"sets": [one.to_json() for one in sets.sets()]}


def _create(sets: PictureSets, question: Question) -> Answer:
    return {"set": sets.create(_text(question, "name"), _number(question, "repeats") or 10).to_json()}


def _open(sets: PictureSets, question: Question) -> Answer:
    return {"set": sets.open(_text(question, "path").strip().strip('"')).to_json()}


def _close(sets: PictureSets, question: Question) -> Answer:
    sets.close_set(_text(question, "set"))
    return {}


def _listing(sets: PictureSets, question: Question) -> Answer:
    key = _text(question, "set")
    changes = sets.changes(key)
    listing = sets.listing(key, _number(question, "size")).to_json()
    return {"listing": listing, "undo": changes[0] if changes else None}


def _thumbnails(sets: PictureSets, question: Question) -> Answer:
    """Pictures as data, for a browser that may not fetch them from the API (`--api-auth` alone)."""
    key, side = _text(question, "set"), _number(question, "side") or 256
    found = {}
    for picture in _texts(question, "pictures")[:SHOWN_THUMBNAILS]:
        try:
            content = sets.thumbnail(key, picture, side).content
        except (ValueError, OSError):
            continue
        found[picture] = html.data_url(content, "jpeg")
    return {"thumbnails": found}


def _glance(sets: PictureSets, question: Question) -> Answer:
    """The pictures at paths that are not open: how many there are, and the first ones as data."""
    shown = min(max(_number(question, "shown") or 0, 0), SHOWN_THUMBNAILS)
    count, found = 0, list[str]()
    for path in _texts(question, "paths"):
        pictures, thumbnails = sets.glance(path, shown - len(found))
        count += pictures
        found += [html.data_url(thumbnail.content, "jpeg") for thumbnail in thumbnails.values()]
    return {"pictures": count, "thumbnails": found}


def _mask(sets: PictureSets, question: Question) -> Answer:
    png = sets.mask(_text(question, "set"), _text(question, "picture"))
    return {"mask": None if png is None else html.data_url(png)}


def _caption(sets: PictureSets, question: Question) -> Answer:
    picture, text, stamp = (_text(question, name) for name in ("picture", "text", "stamp"))
    return {"change": sets.write_caption(_text(question, "set"), picture, text, stamp).to_json()}


def _preview(sets: PictureSets, question: Question) -> Answer:
    key, operation = _text(question, "set"), _object(question, "operation")
    return {"change": sets.preview(key, operation, _some(question, "pictures")).to_json()}


def _apply(sets: PictureSets, question: Question) -> Answer:
    key, operation = _text(question, "set"), _object(question, "operation")
    stamps = _object(question, "stamps") if question.get("stamps") is not None else None
    return {"change": sets.apply(key, operation, _some(question, "pictures"), stamps).to_json()}


def _paint(sets: PictureSets, question: Question) -> Answer:
    png = base64.b64decode(_text(question, "png").rpartition(",")[2], validate=True)
    return {"change": sets.save_mask(_text(question, "set"), _text(question, "picture"), png=png).to_json()}


def _unmask(sets: PictureSets, question: Question) -> Answer:
    return {"change": sets.remove_mask(_text(question, "set"), _text(question, "picture")).to_json()}


def _focus(sets: PictureSets, question: Question) -> Answer:
    at = question.get("focus")
    if at is not None and not (isinstance(at, list) and len(at) == 2 and all(isinstance(x, (int, float)) for x in at)):
        raise ValueError(f"focus {str(at)[:40]!r}: expected two numbers from 0 to 1")
    focus = None if at is None else (float(at[0]), float(at[1]))
    return {"change": sets.set_focus(_text(question, "set"), _text(question, "picture"), focus).to_json()}


def _undo(sets: PictureSets, question: Question) -> Answer:
    return {"change": sets.undo(_text(question, "set")).to_json()}


def _repeats(sets: PictureSets, question: Question) -> Answer:
    repeats = _number(question, "repeats")
    if repeats is None:
        raise ValueError("repeats: expected a whole number")
    label = str(question["label"]) if question.get("label") is not None else None
    return {"set": sets.set_repeats(_text(question, "set"), repeats, label).to_json()}


QUESTIONS: Mapping[str, Callable[[PictureSets, Question], Answer]] = MappingProxyType(
    {
        "sets": _sets,
        "create": _create,
        "open": _open,
        "close": _close,
        "listing": _listing,
        "thumbnails": _thumbnails,
        "glance": _glance,
        "mask": _mask,
        "caption": _caption,
        "preview": _preview,
        "apply": _apply,
        "paint": _paint,
        "unmask": _unmask,
        "focus": _focus,
        "undo": _undo,
        "repeats": _repeats,
    }
)


# --- reading a question -----------------------------------------------------------------------------------------------


def _read(text: str | None) -> Question:
    """The question, empty for what the script does not write."""
    try:
        found = json.loads(text or "") if len(text or "") <= LONGEST_QUESTION else {}
    except (ValueError, RecursionError):
        return {}
    whole = isinstance(found, dict) and isinstance(found.get("number"), int)
    return found if whole else {}


def _data(question: Question, answer: Answer) -> Markup:
    named = {"page": question.get("page"), "number": question.get("number"), **answer}
    return _ANSWER.format(json.dumps(named, separators=(",", ":"), ensure_ascii=False, allow_nan=False))


def _what(question: Question) -> str:
    what = question.get("what")
    if what not in QUESTIONS:
        raise ValueError(f"{str(what)[:40]!r}: expected one of {', '.join(QUESTIONS)}")
    return str(what)


def _text(question: Question, name: str) -> str:
    value = question.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} {str(value)[:40]!r}: expected text")
    return value


def _texts(question: Question, name: str) -> list[str]:
    value = question.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{name} {str(value)[:40]!r}: expected a list of texts")
    return value


def _some(question: Question, name: str) -> list[str] | None:
    return None if question.get(name) is None else _texts(question, name)


def _number(question: Question, name: str) -> int | None:
    value = question.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"{name} {str(value)[:40]!r}: expected a whole number")
    return value


def _object(question: Question, name: str) -> dict[str, Any]:
    value = question.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name} {str(value)[:40]!r}: expected an object")
    return value
