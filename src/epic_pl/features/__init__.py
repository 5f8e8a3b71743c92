"""Frozen features on disk: each distinct image and text is encoded once.

`epic_pl.features.store` writes stores and reads batches from them; the other modules say what the
items of a run are, and give its batches from stores. A store's folder is named by everything that
its numbers depend on, so another encoder, layer or preprocessing never meets it.
"""
