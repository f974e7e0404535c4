"""How much each block matters: for a LoRA on a model, for a feature of the picture, for a dataset.

- ``setting``, ``stage``, ``trajectory``: what is looked at; predictions that begin at any block; the way to a picture
- ``effects`` (leave one out, one only), ``integrated`` (integrated gradients), ``weight_norms``, ``rendered`` with
  ``perceptual`` and ``sheet``: the methods
- ``attention``, ``regions``, ``canvas``: of which part of the picture, and how large that is
- ``statistics``, ``results``: figures with their noise; tables, JSON, CSV; two side by side
- ``run``: an analysis from its question to its figures
- ``choice``: from figures to block weights and presets
- ``probe``: a dataset before there is a LoRA; ``similar``: LoRAs like a dataset or another LoRA
"""
