"""Whole photos: find cracks, measure their length and width, and report them (notebook 09 and `inspect`).

`photo.inspect_photo` shows all steps for one photo. May import the core, inference, detector,
synthetic and userfiles.
"""
