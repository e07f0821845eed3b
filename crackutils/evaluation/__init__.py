"""Room of `evaluate`, `evaluate-masks` and `splits`: judge models of any framework by the files that they write.

May import the core, comparison, inspection, splits and userfiles.
"""
