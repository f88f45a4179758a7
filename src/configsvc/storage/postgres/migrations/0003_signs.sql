-- Signs of life of the instances' incarnations. Points in time are seconds in which somebody listened: see storage/port.py.
-- Logged, unlike `signs` of releases before: else each crash of the server would grant every instance one lease more.
-- `signs` stays for replicas of those releases.
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
