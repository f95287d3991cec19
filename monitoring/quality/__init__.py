"""How good the scores were, by labels as they come and by cohorts past the horizon."""
