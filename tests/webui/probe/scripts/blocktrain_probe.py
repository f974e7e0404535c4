"""An extension for the tests alone: runs a function of `inside.py`, or of a fork's own file, in the WebUI's process."""

import os
import runpy
import traceback
from pathlib import Path

from fastapi import Body
from modules import script_callbacks

FOLDER = Path(__file__).resolve().parent.parent.parent
FILES = ("inside.py", *filter(None, [os.environ.get("BLOCKTRAIN_INSIDE")]))  # the last one that has it


def add_route(_demo, app):
    @app.post("/blocktrain-probe/{name}")
    def probe(name: str, arguments: dict = Body({})):  # noqa: B008, the way of FastAPI
        try:
            functions = {key: value for file in FILES for key, value in runpy.run_path(str(FOLDER / file)).items()}
            return {"answer": functions[name](**arguments)}
        except Exception:  # noqa: BLE001 - whatever it is, the test shows it
            return {"error": traceback.format_exc()}


script_callbacks.on_app_started(add_route)
