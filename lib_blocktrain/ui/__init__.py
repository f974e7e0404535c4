"""The tab. gradio lives here only, and here only in ``shim``, ``widgets``, ``tab`` and ``server``.

The rest is plain Python, so that it is tested without a page: ``library`` (what the LoRA files contain), ``mix`` (which
of them are in use, each with its weights), ``shelf`` (presets), ``drawing`` (pictures, and those that need no drawing
again), ``jobs`` (one at a time, with progress and Cancel), ``texts`` (what is shown, as HTML), ``desk`` and ``preview``
(what each button does, on the left side and on the right), ``guard`` (who may speak to the standalone server).

A host puts the tab up with ``Tab(host)`` inside a ``gr.Blocks``, then ``tab.opened_by(blocks)``.
"""
