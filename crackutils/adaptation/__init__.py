"""Adaptation to a site: fit the last layer of a detector to the user's labels, and measure the gain.

May import core, inference, detector and userfiles.
"""
