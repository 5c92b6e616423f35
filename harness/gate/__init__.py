"""The branch gate: does this version still train as before, and if not, since which commit?"""
