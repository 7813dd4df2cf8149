"""What came out: tables, statistics, claims, figures, timing."""
