"""The selection criteria, one file each: `score(model, x, y, generator)` gives every sample of a batch its rank.

A file of its own for each, so that changing one makes only the arms stale that use it.
"""
