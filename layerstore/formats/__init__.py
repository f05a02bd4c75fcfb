"""How a memory is written outside of a store: tar archives."""
