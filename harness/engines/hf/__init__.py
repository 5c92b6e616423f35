"""The Hugging Face Trainer of any transformers, by a script with the arguments of run_clm.py."""
