"""Feature stores: folders of safetensors shards, mapped into memory to be read."""
