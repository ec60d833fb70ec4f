"""Whether a method does what its paper claims: small beds, the records unchanged, paired seeds, a rule stated first."""
