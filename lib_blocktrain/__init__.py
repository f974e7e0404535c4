"""Block weights as one vocabulary: preview, analyse, train and share a LoRA by the blocks of the U-Net.

The layers from the bottom up; each imports only from those above it in this list (``tests/test_layers.py``):

- ``files``: atomic writes, checked file names, where the data files are
- ``blocks``: the blocks of SD1, SD2 and SDXL as data, and the block of any layer name or LoRA key
- ``weights``: one number per block; preset strings, links, kohya's arguments; presets on disk; prompt tags
- ``networks``: keys, headers and files of networks; one file per algorithm; placement; hooks, merge, bake
- ``model``: the ``Model`` protocol; the U-Net's forward pass block by block; diffusion; freezing
- ``training``: configuration, dataset, batches, plan, step, and the run on disk
- ``analysis``: request, trajectory, attribution, figures, weights
- ``hosts``: where the model comes from: standalone (diffusers), AUTOMATIC1111, Forge, Neo; ``detect`` chooses
- ``runner``: the queue of runs, trained one after the other in a separate thread
- ``workspace``: what a page and an API share: jobs, LoRA index, presets, selection, drawing, analyses
- ``api``: the HTTP routes, on a WebUI's application and on the standalone server's
- ``ui``: the tab (gradio); ``ui`` and ``api`` do not import each other
- ``server``: the standalone application, and what ``scripts/blocktrain.py`` mounts in a WebUI
- ``cli``: the command line, here or against a running server
"""

__version__ = "1.0.0"
