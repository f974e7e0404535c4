"""Block weights as one vocabulary: preview, analyse, train and share a LoRA by the blocks of the U-Net.

Read from the bottom up; a module imports only from those above it in this list (``tests/test_layers.py``):

- ``blocks``: the 25 blocks of SD1, SD2 and SDXL, and the block of any layer name or LoRA key
- ``block_weights``, ``preset_strings``, ``preset_links``, ``presets``: one number a block; its text forms; on disk
- ``prompt_tags``: what `<lora:NAME:1:bw=PRESET>` in a WebUI's prompt asks for, and what a picture says of it
- ``network_keys``, ``safetensors_header``, ``metadata_tables``: what a network file holds, without its tensors
- ``adapters``, ``formats``, ``placement``, ``hooks``, ``merge``: networks and their effect
- ``attention_projections``: OpenCLIP's attention as layers that a network can act on
- ``unet_forward``, ``freezing``, ``diffusion``, ``model``: the U-Net block by block; what is needed of a checkpoint
- ``training``, ``bake``: a LoRA under block weights; a file with its weights inside
- ``analysis``: how much each block matters, to a word, a region, a dataset
- ``hosts``: where the model comes from (standalone: diffusers; a1111, forge: a WebUI, told by ``detect``)
- ``runner``: runs trained one after the other, in a thread of their own; the queue
- ``inquiry``: an analysis asked of a host, by any method
- ``ui``: the tab (gradio lives there only), and its standalone server
- ``api``: the HTTP routes, on a WebUI's application and on the standalone server's
- ``remote``, ``remote_commands``: the same routes as a client calls them, for commands with ``--url``
- ``webui_page``: what `scripts/blocktrain.py` does in a WebUI
- ``environment``, ``commands``, ``__main__``: the command line
"""

__version__ = "0.1.0"
