"""What users give to a command and get from it: tables read and written, names, and files that must not be lost.

May import the core only.
"""
