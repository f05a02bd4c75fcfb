"""The store on Docker's directory: one file per key, reached without following links."""
