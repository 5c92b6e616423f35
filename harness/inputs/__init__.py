"""What the harness prepares for a run: tokenizer, rows and initial weights."""
