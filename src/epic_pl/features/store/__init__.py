"""Feature stores: shards of records with a manifest, mapped into memory to be read."""
