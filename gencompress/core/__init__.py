"""Groups, gates, costs, budgets, plans and removal: what every domain shares."""
