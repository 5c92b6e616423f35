"""The compiled step: HLO of an XLA dump and libtpu's own compilation, read into facts."""
