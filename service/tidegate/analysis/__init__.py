"""The canary analysis: from metric samples to a verdict. Pure."""
