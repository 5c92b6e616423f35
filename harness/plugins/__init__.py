"""The pytest plugins: the ladder and the gate, one test for each rung."""
