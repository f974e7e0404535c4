"""How much each block of a LoRA matters, for the whole image or for a feature of it; and where a training would act.

- ``request``, ``sampling_grid``: what is asked, and its limits
- ``instrumented_model``, ``trajectory``: predictions that begin at any block; the points at which blocks are compared
- ``attribution``: leave one out, one only, integrated gradients, weight norms; ``rendered`` with ``perceptual``: whole
  images
- ``attention``, ``regions``: which part of the image a feature is, and how large that is
- ``run``: from a request to figures; ``statistics``, ``results``: the figures, their noise, and their files
- ``weight_rules``: block weights and presets made of figures
- ``probe``: a dataset before there is a LoRA; ``similar``: LoRAs like a dataset or another LoRA
"""
