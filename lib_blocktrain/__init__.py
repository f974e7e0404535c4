"""Block weights as one vocabulary: preview, analyse, train and share a LoRA by the blocks of the U-Net.

Read from the bottom up; a module imports only from those above it in this list (``tests/test_layers.py``):

- ``blocks``: the 25 blocks of SD1, SD2 and SDXL, and the block of any layer name or LoRA key
- ``block_weights``, ``preset_strings``, ``presets``: one number a block; its text forms; named vectors on disk
- ``network_keys``, ``safetensors_header``, ``adapters``, ``formats``, ``hooks``: network files and their effect
- ``model``, ``bake``: what is needed of a loaded checkpoint; a file with its weights inside
- ``hosts``: where the model comes from (standalone: diffusers)
- ``environment``, ``commands``, ``__main__``: the command line
"""

__version__ = "0.1.0"
