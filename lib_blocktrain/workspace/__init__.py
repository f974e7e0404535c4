"""What the page and the HTTP API share: jobs, LoRA index, presets, LoRA selection, drawing, analyses."""
