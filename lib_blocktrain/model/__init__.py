"""What the core needs of a loaded checkpoint: the `Model` protocol, the U-Net block by block, diffusion."""
