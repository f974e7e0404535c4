"""Block weights as text and on disk: `BlockWeights`, preset strings, links, kohya's arguments, prompt tags."""
