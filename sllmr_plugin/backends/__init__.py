"""The only place that knows the internals of a CTR library."""
