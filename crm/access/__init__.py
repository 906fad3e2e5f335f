"""People and places: companies, cities, branches, staff users; who may do what, and on which rows."""
