"""Trained models for other programs (`export`): LiteRT, ONNX, OpenVINO and SavedModel, checked against Keras.

May import core, detector, splits, synthetic, inference and userfiles.
"""
