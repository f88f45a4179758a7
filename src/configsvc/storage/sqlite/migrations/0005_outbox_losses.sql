-- Why nothing can be published; how many events were published incomplete (`reduced`) or not at all (`skipped`), and the
-- last of these, as JSON.
ALTER TABLE outbox ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN reduced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN last_loss TEXT;
