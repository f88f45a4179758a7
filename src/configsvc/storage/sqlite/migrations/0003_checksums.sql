-- Each row has a checksum of its other columns (storage/sql/checksums.py). Each read verifies it, so that a row that the
-- disk altered is never served. The adapter defines the function `row_checksum`.
ALTER TABLE records ADD COLUMN checksum INTEGER;
UPDATE records SET checksum = row_checksum(
    kind, environment, service, key, version, revision, body, created_at, updated_at, updated_by
);
ALTER TABLE changes ADD COLUMN checksum INTEGER;
UPDATE changes SET checksum = row_checksum(
    revision, ordinal, kind, environment, service, key, action, version, before, after,
    before_revision, created_at, actor, reason, request_id, at
);
