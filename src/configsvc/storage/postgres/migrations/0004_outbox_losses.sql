-- Why nothing can be published; how many events were published incomplete (`reduced`) or not at all (`skipped`), and the
-- last of these, as JSON.
ALTER TABLE configsvc.outbox
    ADD COLUMN trouble text NOT NULL DEFAULT '',
    ADD COLUMN reduced bigint NOT NULL DEFAULT 0,
    ADD COLUMN skipped bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_loss text;
