"""Sources of images: draw synthetic images, download published ones, or read the user's archive or folder.

May import the core, `synthetic` and `userfiles`.
"""
