"""What a person looks at: one timeline, reports of evaluations, the rollouts of a run."""
