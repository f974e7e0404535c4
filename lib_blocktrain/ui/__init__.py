"""The page in gradio. gradio is imported only by `page`, `shim`, `widgets` and the four tabs.

A tab is made of two modules: ``NAME_tab`` builds its widgets and ties their events; ``NAME_handlers`` has what an
event does, as plain Python from named values (`values`) to named changes, so that it is tested without a page.

- Preview: ``lora_controls`` (LoRA list, sliders, presets), ``preview_handlers`` (pictures), ``share_handlers`` (presets
  to copy and paste), ``preset_cards``, ``u_map``
- Analyse: ``analyse_handlers``, ``probe_handlers``, ``feature_form``
- Train: ``form`` (the widgets as a table, to a run and back), ``train_handlers``
- Runs: ``runs_handlers``, ``history`` (metrics as curves), ``curves`` (curves as SVG)
- all: ``html`` and ``*_html`` (what is shown), ``job_stream`` (progress and Cancel of a job), ``field_help``

A host builds ``Page(host)`` inside a ``gr.Blocks`` and calls ``page.on_load(blocks)``. Another tab is a class with the
protocol `widgets.Tab`, listed in `page.TABS`.
"""
