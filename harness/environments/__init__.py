"""What the engines run from: where their code comes from, and the Python that runs it."""
