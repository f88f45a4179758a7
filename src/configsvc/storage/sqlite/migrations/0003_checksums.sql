-- Each row carries a checksum of its other columns (storage/checksums.py), which is verified at each read, so that a
-- row which the disk has altered is never served. `row_checksum` is a function of the adapter.
ALTER TABLE records ADD COLUMN checksum INTEGER;
UPDATE records SET checksum = row_checksum(
    kind, environment, service, key, version, revision, body, created_at, updated_at, updated_by
);
ALTER TABLE changes ADD COLUMN checksum INTEGER;
UPDATE changes SET checksum = row_checksum(
    revision, ordinal, kind, environment, service, key, action, version, before, after,
    before_revision, created_at, actor, reason, request_id, at
);
