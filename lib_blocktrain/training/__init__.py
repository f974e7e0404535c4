"""Training a network under block weights, on the model that is in memory.

- ``config``, ``dataset_config``: the contents of `run.json`, as frozen dataclasses; ``config_json`` reads and writes
  them; ``kohya_toml`` reads sd-scripts' dataset files
- ``plan``: which modules block weights create, with rank, alpha and learning rate; ``init`` makes them
- ``picture_files``, ``folder_contents``, ``buckets``, ``dataset``, ``cache``, ``batches``: from a folder of images to a
  batch of latents
- ``rng``, ``compiled``, ``step``: the noise of a sample, the U-Net's prediction and the loss
- ``optimizer_table``, ``optimizers``, ``precision``, ``norms``, ``live_weights``, ``train_state``: from gradients to
  changed weights
- ``checked_file``, ``runs``, ``records``, ``state_file``, ``status``, ``metadata``, ``result``: a run on disk, and its
  network file
- ``control``, ``monitor``, ``preparation``, ``origin``, ``distributed``, ``trainer``: the training loop
- ``sizes``, ``estimate``: what a run will cost
"""
