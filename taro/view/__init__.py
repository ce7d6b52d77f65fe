"""What a person looks at: one timeline, answers to questions, reports of evaluations, the rollouts of a run."""
