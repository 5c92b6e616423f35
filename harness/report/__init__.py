"""Everything that shows a verdict: terminal, HTML, TensorBoard and GitHub. Nothing here judges."""
