"""Sources of images: draw synthetic ones, download published ones, or take the user's archive or folder.

May import the core, `synthetic` and `userfiles`.
"""
