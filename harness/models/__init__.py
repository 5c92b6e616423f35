"""Model families: everything that depends on the architecture, one file a family."""
