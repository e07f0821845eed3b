"""Transfer to other sites (notebook 08): how well models rank a target's images, what improves it, what breaks it.

May import core, inference, detector, synthetic and scoring.
"""
