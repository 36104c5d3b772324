"""One file per family, named as transformers' ``model_type``; each makes a FAMILY."""
