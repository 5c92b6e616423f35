"""Do two trainers train the same model the same way, at the same speed?

Importing this package must stay free of side effects and of third-party imports: the probe
(`harness.probe`) is imported from here inside every engine's own interpreter.
"""

__version__ = "0.1.0"
