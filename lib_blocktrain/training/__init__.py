"""Training a network under block weights, on the model that is in memory.

- ``config``: what `run.json` says, as frozen dataclasses; ``reading`` makes them from JSON and names what is wrong
- ``scope``: which modules a set of block weights creates, with rank, alpha and learning rate; ``fresh`` makes them
- ``buckets``, ``captions``, ``dataset``, ``cache``, ``batches``: from a folder of pictures to a batch of latents
- ``draws``, ``compiled``, ``step``: the noise of a sample; its loss and gradients
- ``optimizers``, ``schedules``, ``precision``, ``norms``, ``live_weights``, ``learner``: how gradients become changes
- ``runs``, ``status``, ``queue``, ``packing``, ``metadata``, ``result``: a run on disk, and the file that it is for
- ``control``, ``watch``, ``tensorboard``, ``distributed``, ``trainer``: a run while it goes on
- ``sizes``, ``estimate``, ``pace``: what it will cost
"""
