"""Synthetic photos of concrete with exact crack masks, and the patches and tiles cut from them.

A photo is a surface under slanted light, distractors, cracks and a camera; its seed and its number decide all of it.
Imports the core only.
"""
