"""The ladder: ordered rungs, each a pure function of two Records.

It needs no accelerator, no torch and no engine, and can judge Records that were made elsewhere, a
year ago.
"""
