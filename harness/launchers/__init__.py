"""Launchers: run a Command somewhere and leave what was observed in a folder."""
