-- The log's history id (domain/lineage.py), the revision at which the history began, and the digest of all changes.
-- Changes of older releases have no digest.
ALTER TABLE counter ADD COLUMN history TEXT NOT NULL DEFAULT '';
ALTER TABLE counter ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counter ADD COLUMN digest TEXT NOT NULL DEFAULT '';
ALTER TABLE changes ADD COLUMN digest TEXT;

-- Every history that this database has had, with its reason, for people.
CREATE TABLE histories (
    history TEXT PRIMARY KEY,
    since INTEGER NOT NULL,
    reason TEXT NOT NULL,
    made_at INTEGER NOT NULL
) STRICT;

-- The row's checksum covers the new column.
UPDATE changes SET checksum = row_checksum(
    revision, ordinal, kind, environment, service, key, action, version, before, after,
    before_revision, created_at, actor, reason, request_id, at, digest
);
