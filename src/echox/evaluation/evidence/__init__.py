"""What a reader needs to believe the figures: sealed questions, agreement of judges, listening tests, the report."""
