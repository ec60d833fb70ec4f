"""How well the watch foretells a collapse: labelled runs, a rule tuned on some of them and scored on the others."""
