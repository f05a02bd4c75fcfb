"""Everything that is read for people: one layer, one repository, a search, totals."""
