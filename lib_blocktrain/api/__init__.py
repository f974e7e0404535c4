"""The HTTP API: routes under ``/blocktrain/v1/`` of a WebUI or of the standalone server.

- ``routes``: ``mount(app, host, access)``, which puts everything on a FastAPI application
- ``access``: who may call: passwords, other web pages, other machines
- ``errors``, ``responses``: every answer and every error as JSON
- ``schemas``, ``run_schemas``: what is sent and what comes back, for pydantic 1 and 2 alike
- ``service``: what the routes share
- ``preset_routes``, ``lora_routes``, ``analysis_routes``, ``run_routes``: the routes
- ``run_config``: checks of a run's configuration

Nothing here imports torch before the first request: what needs it is imported inside functions.
"""
