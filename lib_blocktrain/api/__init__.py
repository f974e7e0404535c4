"""The HTTP API: routes under ``/blocktrain/v1/`` of a WebUI or of the standalone server.

- ``access``: who may call, and what: passwords, other web pages, other machines
- ``answers``: every answer and every refusal as JSON with a sentence
- ``bodies``, ``run_bodies``, ``analysis_bodies``: what is sent and what comes back, for pydantic 1 and 2 alike
- ``turns``: one job at a time on the model, a few callers that wait, "busy" for the rest
- ``service``: what the routes share
- ``preset_routes``, ``lora_routes``, ``analysis_routes``, ``run_routes``: the routes; what needs torch is imported when
  it is asked for: ``drawing``, ``analysing``, ``run_config``
- ``run_files``: the files of a run that may be read
- ``routes``: ``mount(app, host, access)``, which puts all of it on a FastAPI application
"""
