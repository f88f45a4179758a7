-- Heartbeats, one row an instance, and the lease clock (`heard_seconds`): see storage/port/heartbeats.py.
-- Logged, unlike the earlier table `signs`: otherwise each crash of the server would grant every instance another lease.
-- `signs` stays for replicas of older releases.
CREATE TABLE configsvc.listening (
    id smallint PRIMARY KEY CHECK (id = 1),
    heard_seconds double precision NOT NULL
);
INSERT INTO configsvc.listening VALUES (1, 0);

CREATE TABLE configsvc.lives (
    service text COLLATE "C" NOT NULL,
    instance_id text COLLATE "C" NOT NULL,
    incarnation integer NOT NULL,
    seen_at double precision NOT NULL,
    granted_at double precision NOT NULL,
    PRIMARY KEY (service, instance_id)
);
