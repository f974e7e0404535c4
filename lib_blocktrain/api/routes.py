"""Mounts the API on a FastAPI application: a WebUI's, or that of the standalone server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBasic

from lib_blocktrain.api.access import Access
from lib_blocktrain.api.analysis_routes import add_analysis_routes
from lib_blocktrain.api.lora_routes import add_lora_routes
from lib_blocktrain.api.picture_routes import add_picture_routes
from lib_blocktrain.api.preset_routes import add_preset_routes, add_prompt_routes
from lib_blocktrain.api.responses import LARGEST_BODY, LARGEST_UPLOAD, AsciiJSON, OwnRoute, guarded
from lib_blocktrain.api.run_routes import add_run_routes
from lib_blocktrain.api.schemas import Done, Progress
from lib_blocktrain.api.service import Service
from lib_blocktrain.api.set_job_routes import add_set_job_routes
from lib_blocktrain.api.set_routes import add_set_routes, add_upload_route

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.runner import Runner
    from lib_blocktrain.workspace.jobs import Jobs
    from lib_blocktrain.workspace.lora_index import LoraIndex
    from lib_blocktrain.workspace.picture_sets import PictureSets

PREFIX = "/blocktrain/v1"


def mount(
    app: FastAPI,
    host: Host,
    access: Access,
    *,
    runner: Callable[[], Runner] | None = None,
    jobs: Callable[[], Jobs] | None = None,
    loras: Callable[[], LoraIndex] | None = None,
    sets: Callable[[], PictureSets] | None = None,
) -> None:
    """Put the routes on an application; those of an earlier call are replaced.

    ``runner``, ``jobs``, ``loras`` and ``sets`` give the page's, so that both see the same; without them the API has
    its own. They are called at a request, never here, and nothing heavy is imported before the first one. In a WebUI::

        from lib_blocktrain.api.access import webui_access
        from lib_blocktrain.api.routes import mount

        def on_app_started(_demo, app):
            mount(app, host, webui_access(shared.cmd_opts, shared.opts), runner=lambda: runner, jobs=lambda: jobs)

    ``webui_access`` reads --api-auth, --gradio-auth, --listen, --share and the settings ``blocktrain_api_open`` (true
    or false) and ``blocktrain_dataset_dirs`` (folders, one a line); it raises ValueError for flags that it cannot read,
    and then no routes must be mounted.
    """
    service = Service(host, access, runner, jobs, loras, sets)
    public, page, reading = _router(access, public=True), _router(access, page=True), _router(access)
    writing, uploading = _router(access, writes=True), _router(access, writes=True, largest=LARGEST_UPLOAD)
    add_prompt_routes(public, page, service)
    add_preset_routes(reading, writing, service)
    add_lora_routes(reading, writing, service)
    add_picture_routes(reading, service)
    add_set_routes(reading, writing, service)
    add_set_job_routes(reading, service)
    add_upload_route(uploading, service)
    add_analysis_routes(reading, service)
    add_run_routes(reading, writing, service)
    _add_progress_routes(reading, writing, service)
    app.router.routes[:] = [route for route in app.router.routes if not isinstance(route, OwnRoute)]
    for router in (public, page, reading, writing, uploading):
        app.router.routes.extend(router.routes)  # include_router would make each of them a second time
    app.openapi_schema = None  # made again when it is asked for


def _router(
    access: Access, *, writes: bool = False, public: bool = False, page: bool = False, largest: int = LARGEST_BODY
) -> APIRouter:
    return APIRouter(
        prefix=PREFIX,
        tags=["blocktrain"],
        default_response_class=AsciiJSON,
        dependencies=[Depends(_Lock(scheme_name="HTTPBasic"))] if access.credentials and not (public or page) else [],
        route_class=guarded(access, writes=writes, public=public, page=page, largest=largest),
    )


class _Lock(HTTPBasic):
    """The lock on the OpenAPI page. Who may call is decided earlier, in ``responses.guarded``."""

    async def __call__(self) -> None:  # type: ignore[override] # FastAPI takes a parameter's unresolved type for a query
        return None


def _add_progress_routes(reading: APIRouter, writing: APIRouter, service: Service) -> None:
    @reading.get("/progress", response_model=Progress, summary="What the model is used for now, and its progress")
    def progress() -> dict[str, Any]:
        return service.progress()

    @writing.post("/interrupt", response_model=Done, summary="End the job before its next step, or pause the run")
    def interrupt() -> dict[str, str]:
        return {"done": service.interrupt()}
