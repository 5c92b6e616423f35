"""Makes a Record from what was not launched here: a trainer's logs, metrics and event files."""
