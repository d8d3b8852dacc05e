"""The page of questions: what each model answered, where it looked, and where the evidence was."""
