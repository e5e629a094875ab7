"""Files of questions, answers, verdicts and results."""
