"""Frozen features on disk: each distinct image and text is encoded once.

`epic_pl.features.store` writes and reads stores. The other modules determine the images and texts
of a run, and make its batches from stores. The name of a store's folder is a hash of everything
that its numbers depend on, so another encoder, layer or preprocessing uses another store.
"""
