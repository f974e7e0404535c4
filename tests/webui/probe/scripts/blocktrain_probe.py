"""An extension for the tests alone: runs a function of `inside.py`, in the WebUI's own process, by name."""

import os
import runpy
import traceback
from pathlib import Path

from fastapi import Body
from modules import script_callbacks

INSIDE = Path(os.environ.get("BLOCKTRAIN_INSIDE") or Path(__file__).resolve().parent.parent.parent / "inside.py")


def add_route(_demo, app):
    @app.post("/blocktrain-probe/{name}")
    def probe(name: str, arguments: dict = Body({})):  # noqa: B008, the way of FastAPI
        try:
            return {"answer": runpy.run_path(str(INSIDE))[name](**arguments)}
        except Exception:  # noqa: BLE001 - whatever it is, the test shows it
            return {"error": traceback.format_exc()}


script_callbacks.on_app_started(add_route)
