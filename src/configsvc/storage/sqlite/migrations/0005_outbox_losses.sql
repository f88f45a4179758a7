-- Why nothing can be published, for every replica to tell; how many events left with less in them or not at all, and
-- the last of them, as JSON.
ALTER TABLE outbox ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN reduced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN last_loss TEXT;
