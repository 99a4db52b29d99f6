"""From finished runs to the paper: what is compared, which runs may stand in one table, and the table itself."""
