-- The identity of the log (domain/lineage.py): its history, the revision at which that began, and the digest of all
-- changes so far. A process of an older release writes changes without a digest, and leaves this one as it is: the chain
-- then goes on behind them.
ALTER TABLE configsvc.counter
    ADD COLUMN history text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN since bigint NOT NULL DEFAULT 0,
    ADD COLUMN digest text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE configsvc.changes ADD COLUMN digest text COLLATE "C";

-- Every history that this database has had, and why: for people.
CREATE TABLE configsvc.histories (
    history text COLLATE "C" PRIMARY KEY,
    since bigint NOT NULL,
    reason text NOT NULL,
    made_at bigint NOT NULL
);
