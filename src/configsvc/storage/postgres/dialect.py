"""PostgreSQL's SQL."""

from configsvc.storage.sql.rows import ref_values
from configsvc.storage.sql.statements import Dialect

DIALECT = Dialect(
    tables="configsvc.",
    among="{} = ANY(?::text[])",
    contains="strpos({}, ?) > 0",
    # With an equation, every index on the columns that follow in the order would do, whatever rows it has to pass over.
    same="{} = ANY(ARRAY[?])",
    refs=("(SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::text[]) AS u (kind, environment, service, key))"),
    many=list,
    many_refs=lambda refs: tuple([ref_values(ref)[part] for ref in refs] for part in range(4)),
    now="(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
)
