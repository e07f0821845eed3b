"""Transfer to other sites (notebook 08): scores of models on a target, methods that improve them, robustness.

May import core, inference, detector, synthetic and scoring.
"""
