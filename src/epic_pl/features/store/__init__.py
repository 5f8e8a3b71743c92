"""Memory-mapped shards, their manifest, and reading and writing them."""
