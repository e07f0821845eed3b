"""Whole photos: find cracks, measure their length and width, and report them (notebook 09 and `inspect`).

The way of a photo stands in `photo.inspect_photo`. May import core, inference, detector,
synthetic and userfiles.
"""
