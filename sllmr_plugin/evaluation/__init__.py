"""Full-ranking evaluation: strata, AUC, and comparisons of training modes over seeds."""
