"""Block weights as one vocabulary: preview, analyse, train and share a LoRA by the blocks of the U-Net.

Read from the bottom up; a module imports only from those above it in this list (``tests/test_layers.py``):

- ``blocks``: the 25 blocks of SD1, SD2 and SDXL, and the block of any layer name or LoRA key
- ``block_weights``, ``preset_strings``, ``presets``: one number a block; its text forms; named vectors on disk
- ``network_keys``, ``safetensors_header``, ``adapters``, ``formats``, ``hooks``: network files and their effect
- ``unet_forward``, ``freezing``, ``diffusion``, ``model``: the U-Net block by block; what is needed of a checkpoint
- ``training``, ``bake``: a LoRA under block weights; a file with its weights inside
- ``hosts``: where the model comes from (standalone: diffusers)
- ``ui``: the tab (gradio lives there only), and its standalone server
- ``environment``, ``commands``, ``__main__``: the command line
"""

__version__ = "0.1.0"
