"""The tab. gradio lives here only: in ``shim``, ``widgets``, ``tab``, ``server`` and the ``*_place`` modules.

A place of the tab is a pair: ``preview_place``, ``analyse_place``, ``train_place`` and ``runs_place`` say where its
widgets stand and what they are tied to. What its buttons do is plain Python, from named values to named changes, so
that it is tested without a page:

- Preview: ``desk`` and ``preview`` (its left and its right side), ``library`` (what the LoRA files contain), ``mix``
  (which are in use, each with its weights), ``shelf`` (presets), ``drawing`` (pictures), ``u_map`` (the U)
- Analyse: ``analysing``
- Train: ``form`` (the widgets as a table, there and back to a run), ``training``
- Runs: ``watching``, ``history`` (metrics as curves), ``curves`` (curves as SVG)
- all: ``jobs`` (work on the model, with progress and Cancel), ``texts``, ``training_texts`` and ``run_texts`` (what is
  shown, as HTML), ``guard`` (who may speak to the standalone server)

A host puts the tab up with ``Tab(host)`` inside a ``gr.Blocks``, then ``tab.opened_by(blocks)``. Another place is a
class like ``PreviewPlace``, and its name in ``tab.PLACES``.
"""
