"""What is asked for: the Case, tolerances and launchers, composed by Hydra from configs/."""
