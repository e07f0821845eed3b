"""Synthetic photos of concrete with exact crack masks, and the patches and tiles cut from them.

Seed and number determine a photo: surface, light, distractors, cracks, camera. May import the core only.
"""
