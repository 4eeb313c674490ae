"""`echox eval`: scores, studies, evidence."""
