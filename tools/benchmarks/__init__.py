"""Measurements for docs and for README of this folder; each takes long and is started by hand."""
