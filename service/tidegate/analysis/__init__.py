"""The judge: from samples to a verdict. Pure."""
