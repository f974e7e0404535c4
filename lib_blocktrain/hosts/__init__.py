"""Where the model comes from: one module a host, one protocol for all."""
