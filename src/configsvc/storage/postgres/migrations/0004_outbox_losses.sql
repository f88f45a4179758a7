-- Why nothing can be published, for every replica to tell; how many events left with less in them or not at all, and
-- the last of them, as JSON.
ALTER TABLE configsvc.outbox
    ADD COLUMN trouble text NOT NULL DEFAULT '',
    ADD COLUMN reduced bigint NOT NULL DEFAULT 0,
    ADD COLUMN skipped bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_loss text;
