"""What an operator would look at, looked at; each finding with its remedy."""
