"""Runs what a session needs: plans, launches, times, and has it judged."""
