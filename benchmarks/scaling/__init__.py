"""What a step costs against prompts, group, length, parameters and ranks: measured, fitted, extrapolated."""
