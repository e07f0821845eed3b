"""Synthetic photos of concrete with exact crack masks, and the patches and tiles cut from them.

Seed and number decide all of a photo: surface, light, distractors, cracks, camera. The room imports the core only.
"""
