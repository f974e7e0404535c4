"""Puts the API on a FastAPI application: a WebUI's, or that of the standalone server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBasic

from lib_blocktrain.api.access import Access
from lib_blocktrain.api.analysis_routes import add_analysis_routes
from lib_blocktrain.api.lora_routes import add_lora_routes
from lib_blocktrain.api.preset_routes import add_preset_routes
from lib_blocktrain.api.responses import Answer, OwnRoute, guarded
from lib_blocktrain.api.run_routes import add_run_routes
from lib_blocktrain.api.schemas import Done, Progress
from lib_blocktrain.api.service import Service

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.runner import Runner

PREFIX = "/blocktrain/v1"


def mount(app: FastAPI, host: Host, access: Access, *, runner: Callable[[], Runner] | None = None) -> None:
    """Put the routes on an application; those of an earlier call on the same one are replaced, so nothing doubles.

    ``runner`` gives the tab's, so that both see the same runs (it is asked at the first call, never here); without it
    the API has its own. Nothing heavy is imported before the first call. In a WebUI::

        from lib_blocktrain.api.access import webui_access
        from lib_blocktrain.api.routes import mount

        def on_app_started(_demo, app):
            mount(app, host, webui_access(shared.cmd_opts, shared.opts), runner=lambda: runner)

    ``webui_access`` reads --api-auth, --gradio-auth, --listen, --share and the settings ``blocktrain_api_open`` (true
    or false) and ``blocktrain_dataset_dirs`` (folders, one a line); it raises ValueError for flags that it cannot read,
    and then no routes must be put up.
    """
    service = Service(host, access, runner)
    asking = [Depends(_Lock(scheme_name="HTTPBasic"))] if access.credentials else []
    shared = {"prefix": PREFIX, "tags": ["blocktrain"], "default_response_class": Answer, "dependencies": asking}
    reading = APIRouter(route_class=guarded(access, writes=False), **shared)
    writing = APIRouter(route_class=guarded(access, writes=True), **shared)
    add_preset_routes(reading, writing, service)
    add_lora_routes(reading, service)
    add_analysis_routes(reading, service)
    add_run_routes(reading, writing, service)
    _add_progress(reading, writing, service)
    app.router.routes[:] = [route for route in app.router.routes if not isinstance(route, OwnRoute)]
    for router in (reading, writing):
        app.router.routes.extend(router.routes)  # include_router would make each of them a second time
    app.openapi_schema = None  # made anew when somebody looks at it


class _Lock(HTTPBasic):
    """The lock in the OpenAPI page; who may pass is decided before, in ``answers.guarded``."""

    async def __call__(self) -> None:
        return None


def _add_progress(reading: APIRouter, writing: APIRouter, service: Service) -> None:
    @reading.get("/progress", response_model=Progress, summary="Say what goes on, and how far it is")
    def progress() -> dict:
        return service.progress()

    @writing.post("/interrupt", response_model=Done, summary="End what goes on before its next step; a run is paused")
    def interrupt() -> dict:
        return {"done": service.interrupt()}
