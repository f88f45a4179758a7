"""PostgreSQL, for several replicas."""
