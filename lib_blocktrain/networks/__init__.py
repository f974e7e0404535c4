"""Network files (LoRA and its kin): keys, headers, algorithms, and their effect on a loaded model."""
