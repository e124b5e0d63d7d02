"""Every method at equal budgets and equal tuning, on forget sets of several kinds."""
