"""Records to tables, figures and pages. Knows neither PyTorch nor Ray."""
