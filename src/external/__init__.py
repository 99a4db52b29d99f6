"""Benchmarks that this project did not make: levels of BabyAI as a data source and as tasks to drive."""
