"""The embedded demo model, its LoRAs and datasets, and the programs that make them."""
