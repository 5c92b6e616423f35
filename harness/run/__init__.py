"""A session: its runs are planned, launched, timed and judged."""
